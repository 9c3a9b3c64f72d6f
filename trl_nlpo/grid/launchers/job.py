"""One cell as a job: what is sent to where it runs, and the fresh process that runs it there.

What is sent is this class alone; it imports nothing that takes time or memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError


@dataclass(frozen=True)
class CellJob:
    """A cell to be run: plain values, to be pickled.

    Attributes:
        place (`str`): what it is called in lines: `[3/24] commongen, nlpo, seed 0`.
        request (`dict`): what [`cell_process.run_request`] reads, as JSON has it.
        folder (`str`): the grid's, absolute.
        directory (`str`): the working directory, in which relative paths of recipes are.
        log (`str`): file that takes what the process prints; absolute.
        environment (`dict`): variables to set, besides those that are set where it runs.
    """

    place: str
    request: Mapping[str, Any]
    folder: str
    directory: str
    log: str
    environment: Mapping[str, str] = field(default_factory=dict)


class CellProcess:
    """The process of a cell, begun here; it ends by itself when this process does.

    Args:
        job ([`CellJob`])
        name (`str`): of the job, for the lock on the cell: a later process of the same job knows that it may have it.

    Raises:
        UserError: the folders of the command are not there, as on a machine that does not share them.
    """

    def __init__(self, job: CellJob, name: str):
        for folder in (job.folder, job.directory):
            if not Path(folder).is_dir():
                raise UserError(
                    f"{folder} is not there on {os.uname().nodename}: --out and the working directory must be on a "
                    "file system that all machines share."
                )
        Path(job.log).parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **job.environment, "TRL_NLPO_JOB": name, "PYTHONUNBUFFERED": "1"}
        with open(job.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trl_nlpo", "grue", "cell"],
                cwd=job.directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self._code: int | None = None
        # Waited for in a thread: signal handlers call `stop` while `wait` waits, and `Popen` has a lock.
        threading.Thread(target=self._wait, daemon=True).start()
        with contextlib.suppress(BrokenPipeError):
            # The pipe stays open as long as this process lives, by which the other one knows that it does.
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(dict(job.request)).encode() + b"\n")
            self._process.stdin.flush()

    def _wait(self) -> None:
        self._code = self._process.wait()

    def wait(self) -> int:
        """The exit code, when it has ended; a signal that ended it is negative."""
        while self._code is None:
            time.sleep(0.1)
        return self._code

    def ask_to_stop(self) -> None:
        """Have it finish its update and write a checkpoint."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        self.ask_to_stop()
        self.wait()


_BY_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def was_stopped(code: int) -> bool:
    """Whether an exit code is that of a process that was asked to stop."""
    return code in {128 + number for number in _BY_SIGNALS} | {-number for number in _BY_SIGNALS}


def run_job(job: CellJob, name: str) -> None:
    """Run a cell in a process of its own, which is stopped with a checkpoint when this call is interrupted.

    Raises:
        RuntimeError: it has not finished; its log says why.
    """
    process = CellProcess(job, name)
    try:
        code = process.wait()
    except BaseException:
        process.stop()
        raise
    if code != 0:
        raise RuntimeError(f"{job.place}: ended with code {code}, see {job.log}")
