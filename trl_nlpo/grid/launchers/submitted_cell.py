"""A cell's job as submitit calls it: run, and on pre-emption stopped with a checkpoint and requeued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from .gpu_locks import held_gpus
from .job import CellJob, CellProcess, was_stopped


class SubmittedCell:
    """What submitit pickles and calls, in a process that does nothing but wait for the cell's.

    The signals of a scheduler reach both processes, or this one alone. submitit's own (SIGUSR2) has it call
    [`checkpoint`] and requeue the job; SIGTERM, which it would pass over, goes on to the cell.

    Args:
        job ([`CellJob`])
        gpus (`tuple[int, ...]`): of this machine, which it has for itself among the cells of `--launcher local`.
    """

    def __init__(self, job: CellJob, gpus: tuple[int, ...] = ()):
        self.job, self.gpus = job, gpus
        self._is_stopped = False
        self._process: CellProcess | None = None

    def __call__(self) -> None:
        """Run the cell, when its GPUs are free.

        Raises:
            RuntimeError: it has not finished; its log says why.
        """
        import submitit

        environment = submitit.JobEnvironment()
        signal.signal(signal.SIGTERM, self._stop)
        with held_gpus(self.gpus, self._say, lambda: self._is_stopped) as held:
            if not held:
                raise RuntimeError(f"{self.job.place}: stopped before it began")
            code = self._code_of(CellProcess(self.job, f"{environment.cluster}-{environment.job_id}"))
        if code == 0:
            return
        if was_stopped(code) and environment.cluster == "slurm" and _still_has_its_place(environment.job_id):
            print(f"{self.job.place}: stopped by a signal; to be requeued.", file=sys.stderr, flush=True)
            # Ends this process, as if submitit's own signal had come first.
            signal.raise_signal(getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"))
        raise RuntimeError(f"{self.job.place}: ended with code {code}, see {self.job.log}")

    def checkpoint(self) -> Any:
        """Stop the cell with a checkpoint; called by submitit in its signal handler.

        Returns:
            `submitit.helpers.DelayedSubmission`: the same cell, which resumes.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.stop()
        self._say("stopped with what it has; it resumes when it is started again.")
        return DelayedSubmission(SubmittedCell(self.job, self.gpus))

    def _code_of(self, process: CellProcess) -> int:
        self._process = process
        if self._is_stopped:
            process.ask_to_stop()
        self._say(f"its output goes to {self.job.log}")
        return process.wait()

    def _stop(self, number: int, frame: Any) -> None:
        self._is_stopped = True
        if self._process is not None:
            self._process.ask_to_stop()

    def _say(self, line: str) -> None:
        print(f"{self.job.place}: {line}", flush=True)


def _still_has_its_place(job_id: str) -> bool:
    """Whether Slurm has the job as running: neither cancelled, nor out of time, nor requeued already."""
    found = subprocess.run(
        ["squeue", "--noheader", "--jobs", job_id, "--format", "%T"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() == "RUNNING"
