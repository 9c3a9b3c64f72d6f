"""Jobs on this machine, by submitit: several cells at a time, which go on when the command ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...launch.environment import visible_gpus
from ...naming import require_package
from ...storage.run_lock import Owner
from .gpu_locks import is_free
from .job import CellJob
from .launcher import Submitted
from .submitted_cell import SubmittedCell


_MINUTES = 60 * 24 * 365
"""Nobody waits for the place on one's own machine."""


@dataclass
class LocalOptions:
    """What a cell takes of this machine."""

    gpus: int | None = field(
        default=None,
        metadata={"help": "GPUs of a cell. No two cells share one. null: one where the machine has any, else none."},
    )


class LocalLauncher:
    """Jobs by submitit's local executor.

    Args:
        folder (`Path`): for submitit's files.
        options ([`LocalOptions`])

    Raises:
        UserError: submitit is not installed, or the machine has fewer GPUs than a cell needs.
    """

    name = "local"
    queues = False
    goes_on = True
    settling = 0.0

    def __init__(self, folder: Path, options: LocalOptions):
        submitit = require_package("submitit", "--launcher local", "cluster")
        gpus = visible_gpus()
        if not all(name.strip().isdecimal() for name in gpus):
            raise UserError("--launcher local needs numbers in CUDA_VISIBLE_DEVICES, by which it shares out the GPUs.")
        self._gpus = [int(name) for name in gpus]
        self._of_each = min(len(gpus), 1) if options.gpus is None else options.gpus
        if not 0 <= self._of_each <= len(gpus):
            raise UserError(f"gpus={self._of_each} of each cell, but this machine has {len(gpus)}.")
        self.most: int | None = len(gpus) // self._of_each if self._of_each else None
        self.usual: int | None = self.most or 1
        self._executor = submitit.LocalExecutor(folder)
        self._processes: dict[str, Owner] = {}
        self._taken: dict[str, list[int]] = {}
        self._kept: list[Any] = []

    def submit(self, jobs: Sequence[CellJob], after: Submitted | None) -> list[Submitted]:
        """Start each at once; none has to wait for another here."""
        return [self._start(job) for job in jobs]

    def _start(self, job: CellJob) -> Submitted:
        self._forget_ended()
        in_use = {gpu for taken in self._taken.values() for gpu in taken}
        # Those that no cell of another command has come first; the others are waited for.
        ours = [gpu for gpu in self._gpus if gpu not in in_use]
        gpus = sorted(ours, key=lambda gpu: not is_free(gpu))[: self._of_each] if self._of_each else []
        self._executor.update_parameters(
            timeout_min=_MINUTES, gpus_per_node=len(gpus), visible_gpus=tuple(gpus), stderr_to_stdout=True
        )
        with _apart_from_the_terminal(self._executor.folder / "controllers.log"):
            started = self._executor.submit(SubmittedCell(job, tuple(gpus)))
        self._kept.append(started)
        return self._known(Owner.of(int(started.job_id)), gpus)

    def _known(self, process: Owner, gpus: list[int]) -> Submitted:
        name = str(process.pid)
        self._processes[name], self._taken[name] = process, gpus
        return Submitted(name, f"process {name}", {**asdict(process), "gpus": gpus})

    def _forget_ended(self) -> None:
        for name in [name for name, process in self._processes.items() if not process.may_be_alive]:
            self._taken.pop(name, None)

    def find(self, record: Mapping[str, Any]) -> Submitted | None:
        """A process of an earlier command, if it is still there; one of another machine is told by its lock."""
        process = _process_of(record)
        is_here = process.host == Owner.here().host
        return self._known(process, record.get("gpus", [])) if is_here and process.may_be_alive else None

    def unfinished(self, jobs: Sequence[Submitted]) -> set[str]:
        """Whose process is alive."""
        return {job.id for job in jobs if self._processes[job.id].may_be_alive}

    def has_ended(self, job: Submitted, owner: Owner) -> bool:
        """Never for sure: on this machine a lock tells by itself."""
        return False

    def is_of(self, job: Submitted, owner: Owner) -> bool:
        """By submitit's name of the process."""
        return owner.job == f"local-{job.id}"

    def last_words(self, job: Submitted) -> str:
        """Where submitit keeps them."""
        return f"see {self._executor.folder / f'{job.id}_0_log.out'}"

    def leave(self, jobs: Sequence[Submitted]) -> str:
        """They go on."""
        numbers = " ".join(job.id for job in jobs)
        return f"{len(jobs)} cells go on in the background (kill {numbers} stops them, with a checkpoint each)"


def has_ended_here(record: Mapping[str, Any]) -> bool:
    """Whether the record of a job is that of a process of this machine that has ended."""
    return record.get("launcher") == LocalLauncher.name and not _process_of(record).may_be_alive


def _process_of(record: Mapping[str, Any]) -> Owner:
    return Owner(**{key: value for key, value in record.items() if key not in ("launcher", "id", "gpus")})


@contextlib.contextmanager
def _apart_from_the_terminal(log: Path) -> Iterator[None]:
    """What is started inside hears neither Ctrl-C nor a closed terminal, and prints to a file.

    Processes inherit which signals are ignored, and the output of the one that starts them: whoever reads the
    command's would wait for the jobs, too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGHUP)]
    own = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        with log.open("ab") as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
        yield
    finally:
        for descriptor, kept in zip((1, 2), own, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)
        for number, handler in before:
            signal.signal(number, handler)
