"""Jobs under Slurm, by submitit: arrays, dependencies, requeueing."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError, one_line
from ...naming import require_package
from ...storage.run_lock import Owner
from .job import CellJob
from .launcher import Submitted
from .submitted_cell import SubmittedCell


_PATIENCE = 5.0
"""Seconds between two questions to Slurm, which serves many."""


@dataclass
class SlurmOptions:
    """What is asked of Slurm for a cell. What is not given is the cluster's default."""

    gpus: int | None = field(default=None, metadata={"help": "GPUs of a cell, on one node."})
    cpus: int | None = field(default=None, metadata={"help": "CPU cores of a cell."})
    memory_gb: float | None = field(default=None, metadata={"help": "Memory of a cell in GB."})
    minutes: int = field(
        default=24 * 60,
        metadata={"help": "Time limit of a job. A cell that has not finished then is requeued, and resumes."},
    )
    timeouts: int = field(
        default=20, metadata={"help": "How often a cell may run into the time limit. Pre-emptions are not counted."}
    )
    signal_seconds: int = field(
        default=120,
        metadata={"help": "How long before the time limit the cell is told to stop: an update and a checkpoint."},
    )
    partition: str | None = field(default=None, metadata={"help": "Partition, or several with commas."})
    account: str | None = field(default=None, metadata={"help": "Account that pays."})
    qos: str | None = field(default=None, metadata={"help": "Quality of service."})
    constraint: str | None = field(default=None, metadata={"help": "Features that nodes must have."})
    exclude: str | None = field(default=None, metadata={"help": "Nodes not to be used."})
    setup: str | None = field(
        default=None, metadata={"help": "A shell command before the job, such as `module load cuda`."}
    )
    sbatch: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Further flags of sbatch, by name: {"reservation": "mine"}.'}
    )


class SlurmLauncher:
    """Jobs by submitit's Slurm executor.

    Args:
        folder (`Path`): for submitit's files, on a file system that all nodes share.
        options ([`SlurmOptions`])

    Raises:
        UserError: there is no Slurm here, submitit is not installed, or an option is not accepted.
    """

    name = "slurm"
    queues = True
    goes_on = True
    most: int | None = None
    usual: int | None = None
    settling = 10.0

    def __init__(self, folder: Path, options: SlurmOptions):
        submitit = require_package("submitit", "--launcher slurm", "cluster")
        for program in ("sbatch", "squeue"):
            if shutil.which(program) is None:
                raise UserError(
                    f"--launcher slurm: there is no Slurm here ({program} not found): give the command on a "
                    "login node, or take --launcher local."
                )
        self._errors = (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError)
        self._executor = submitit.SlurmExecutor(folder, max_num_timeout=options.timeouts)
        asked = {
            "gpus_per_node": options.gpus,
            "cpus_per_task": options.cpus,
            "mem": None if options.memory_gb is None else f"{round(options.memory_gb * 1024)}M",
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "exclude": options.exclude,
            "setup": None if options.setup is None else [options.setup],
        }
        self._executor.update_parameters(
            job_name="trl-nlpo",
            time=options.minutes,
            signal_delay_s=options.signal_seconds,
            stderr_to_stdout=True,
            # So that Slurm, too, requeues a job whose node has failed or that it pre-empts.
            additional_parameters={"requeue": True, **(options.sbatch or {})},
            **{key: value for key, value in asked.items() if value is not None},
        )
        self._seen: tuple[float, set[str]] = (0.0, set())

    def submit(self, jobs: Sequence[CellJob], after: Submitted | None) -> list[Submitted]:
        """An array of jobs, or one."""
        # Whatever ends the other, so that a failure is told by the cell, and no job waits for ever.
        self._executor.update_parameters(dependency=None if after is None else f"afterany:{after.id}")
        self._executor.update_parameters(array_parallelism=len(jobs))
        try:
            with _outside_of_allocations(), self._executor.batch():
                made = [self._executor.submit(SubmittedCell(job)) for job in jobs]
        except self._errors as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise UserError(f"Slurm did not accept the jobs: {one_line(RuntimeError(lines[-1]))}") from None
        self._seen = (0.0, set())
        return [_named(job.job_id) for job in made]

    def find(self, record: Mapping[str, Any]) -> Submitted | None:
        """A job of an earlier command, if Slurm still has it."""
        job = _named(str(record["id"]))
        return job if self.unfinished([job]) else None

    def unfinished(self, jobs: Sequence[Submitted]) -> set[str]:
        """Those that squeue lists. Where it cannot be asked, as all were before."""
        asked, listed = self._seen
        ids = {job.id for job in jobs}
        if not asked or time.monotonic() - asked > _PATIENCE:
            command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i"]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode != 0:
                return ids
            listed = set(found.stdout.split())
            self._seen = (time.monotonic(), listed)
        return ids & listed

    def has_ended(self, job: Submitted, owner: Owner) -> bool:
        """Whether the lock is of this job, which Slurm does not have any more."""
        return self.is_of(job, owner)

    def is_of(self, job: Submitted, owner: Owner) -> bool:
        """By submitit's name of the job."""
        return owner.job == f"slurm-{job.id}"

    def last_words(self, job: Submitted) -> str:
        """Where submitit keeps them."""
        return f"see {self._executor.folder / f'{job.id}_0_log.out'}"

    def leave(self, jobs: Sequence[Submitted]) -> str:
        """They stay in the queue."""
        numbers = " ".join(dict.fromkeys(job.id.partition("_")[0] for job in jobs))
        return f"{len(jobs)} cells wait or run as Slurm jobs {numbers} and go on (scancel {numbers} ends them)"


@contextlib.contextmanager
def _outside_of_allocations() -> Iterator[None]:
    """Without the variables of the job that this process is in: what it submits would take itself for a part of it.

    What tells where Slurm is stays, and so do people's own defaults for sbatch (`SBATCH_ACCOUNT`); submitit's
    `clean_env` takes those too.
    """
    own = [name for name in os.environ if name.startswith(("SLURM", "SUBMITIT_")) and name not in _OF_THE_CLUSTER]
    before = {name: os.environ.pop(name) for name in own}
    try:
        yield
    finally:
        os.environ.update(before)


_OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")


def _named(job_id: str) -> Submitted:
    return Submitted(job_id, f"Slurm job {job_id}")
