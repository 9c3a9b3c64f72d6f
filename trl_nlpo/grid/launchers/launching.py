"""A grid by jobs: what is left of it is submitted, followed to its end, and tried again where that is wanted."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import Terminated, UserError
from ...storage.files import check_folder, read_json, replace_file
from ...storage.run_lock import check_lockable, release_ended
from ..cells import Cell, Grid
from ..grid import check_earlier, failed_of, is_taken, owner_if_known, place_of, who_has
from .cell_process import request_of
from .job import CellJob
from .launcher import Launcher, Submitted, check_nothing_secret, environment_of_runs, options_from


JOBS_NAME = "_jobs"
"""Folder in that of a grid: records and logs of jobs. Uploads leave out names with this first letter."""

_PAUSE = 1.0
"""Seconds between two looks at the jobs."""

_LONGEST_STOP = 900.0
"""Seconds that the process of a job that has ended may take for its update and its checkpoint."""


def launcher_of(name: str, options: Sequence[str], folder: Path) -> Launcher:
    """A launcher by its name.

    Args:
        name (`str`): `local`, `slurm` or `ray`.
        options (`Sequence[str]`): `KEY=VALUE`.
        folder (`Path`): the grid's.

    Raises:
        UserError: there is none of this name, it cannot be used here, or an option is wrong.
    """
    files = (folder / JOBS_NAME / "submitit").absolute()
    if name == "local":
        from .local import LocalLauncher, LocalOptions

        return LocalLauncher(files, options_from(LocalOptions, options))
    if name == "slurm":
        from .slurm import SlurmLauncher, SlurmOptions

        return SlurmLauncher(files, options_from(SlurmOptions, options))
    if name == "ray":
        from .ray import RayLauncher, RayOptions

        return RayLauncher(options_from(RayOptions, options))
    raise UserError(f"--launcher {name}: there are local, slurm and ray; without one, cells run here one by one.")


def launch_grid(
    grid: Grid,
    launcher: Callable[[], Launcher],
    say: Callable[[str], None],
    max_parallel: int | None = None,
    retries: int = 0,
) -> list[Cell]:
    """Run what is left of a grid by jobs, one for each cell; a cell that fails does not stop the others.

    A job of an earlier command that still waits or runs is followed, and not submitted again. A cell that starts from
    a supervised model comes after the cell that trains it.

    Args:
        grid ([`Grid`])
        launcher: makes the [`Launcher`], when the grid has been found in order.
        say: prints a line.
        max_parallel (`int`, *optional*): the most jobs that wait or run at a time. Default: the launcher's own.
        retries (`int`): how often a cell that failed is submitted again.

    Returns:
        `list[Cell]`: the cells that failed; those that other commands have are not among them.

    Raises:
        UserError: the folder has a grid with other settings or no locks that work, a recipe is wrong or was edited
            since, a key is secret, or a job is not accepted.
        KeyboardInterrupt, Terminated: a signal came; the message says which jobs go on.
    """
    check_folder(grid.folder, "--out")
    check_nothing_secret(grid)
    check_earlier(grid)
    check_lockable(grid.folder)
    launching = _Launching(grid, launcher(), say, max_parallel, retries)
    try:
        launching.run()
    except (KeyboardInterrupt, Terminated) as stop:
        raise type(stop)(launching.leave("terminated" if isinstance(stop, Terminated) else "interrupted")) from None
    except UserError as error:
        # What was submitted before goes on, which nobody would know.
        raise UserError(launching.leave(str(error).removesuffix("."))) from None
    return failed_of(grid, say)


class _Launching:
    """The state of a command that launches: which cells wait here, and which have jobs."""

    def __init__(
        self, grid: Grid, launcher: Launcher, say: Callable[[str], None], max_parallel: int | None, retries: int
    ):
        self._grid, self._launcher, self._say, self._retries = grid, launcher, say, retries
        limits = [limit for limit in (max_parallel or launcher.usual, launcher.most) if limit is not None]
        self._parallel = min(limits, default=None)
        if max_parallel and self._parallel != max_parallel:
            say(f"--max_parallel {max_parallel}: {self._parallel} at a time, for which there are GPUs.")
        cells = grid.cells()
        self._places = {cell: place_of(cell, number, len(cells)) for number, cell in enumerate(cells, 1)}
        self._waiting: list[Cell] = []
        self._jobs: dict[Cell, Submitted] = {}
        self._ended: dict[Cell, tuple[float, bool]] = {}
        """When cells whose job has ended were first seen without a result, and whether their model was missing."""
        self._began: set[Cell] = set()
        self._failures: Counter[Cell] = Counter()
        self._says_that_it_waits = True

    def run(self) -> None:
        """Until there is nothing left to submit or to follow."""
        self._find_what_is_left()
        while self._waiting or self._jobs:
            self._collect()
            self._submit()
            if self._waiting or self._jobs:
                time.sleep(_PAUSE)

    def _find_what_is_left(self) -> None:
        for cell, place in self._places.items():
            if cell.status == "done":
                self._say(f"{place}: done before.")
            elif (job := self._submitted_before(cell)) is not None:
                self._jobs[cell] = job
                self._say(f"{place}: {job.words} of an earlier command has it.")
            else:
                self._waiting.append(cell)

    def _submitted_before(self, cell: Cell) -> Submitted | None:
        path = self._record(cell)
        if not path.is_file():
            return None
        record = read_json(path, "delete it")
        if record.get("launcher") != self._launcher.name:
            return None
        job = self._launcher.find(record)
        if job is None:
            # It ended while no command followed it, perhaps without a word.
            ended = Submitted(str(record.get("id", "")), "")
            release_ended(cell.folder, lambda owner: self._launcher.has_ended(ended, owner))
            if not is_taken(cell.folder):
                path.unlink(missing_ok=True)
        return job

    def _collect(self) -> None:
        """See which jobs have ended, and how."""
        unfinished = self._launcher.unfinished([*self._jobs.values()]) if self._jobs else set()
        for cell, job in [*self._jobs.items()]:
            if job.id in unfinished:
                self._say_that_it_runs(cell, job)
            # What is in the folder counts, and is read after the job has ended.
            elif cell.status == "done":
                self._say(f"{self._places[cell]}: done.")
                self._forget(cell)
            elif self._has_waited(cell, self._launcher.settling):
                self._end_without_result(cell, job)

    def _has_waited(self, cell: Cell, seconds: float) -> bool:
        """Whether the job of a cell without a result was first seen to have ended so long ago."""
        now = time.monotonic()
        since, _ = self._ended.setdefault(cell, (now, self._lacks_its_model(cell)))
        return now - since >= seconds

    def _say_that_it_runs(self, cell: Cell, job: Submitted) -> None:
        if cell not in self._began and (owner := owner_if_known(cell.folder)) is not None:
            self._began.add(cell)
            self._say(f"{self._places[cell]}: runs on {owner.host} ({job.words}).")

    def _end_without_result(self, cell: Cell, job: Submitted) -> None:
        place = self._places[cell]
        release_ended(cell.folder, lambda owner: self._launcher.has_ended(job, owner))
        owner = owner_if_known(cell.folder)
        if owner is not None and self._launcher.is_of(job, owner) and not self._has_waited(cell, _LONGEST_STOP):
            # Its process has noticed, and finishes its update and its checkpoint.
            return
        _, lacked_its_model = self._ended[cell]
        self._forget(cell)
        if is_taken(cell.folder):
            self._say(f"{place}: {who_has(cell.folder)}.")
            return
        result = cell.result()
        why = f"failed: {result.get('error')}" if result.get("status") == "failed" else "ended without a result"
        # Without its supervised model a cell cannot but fail: that counts as a try of that one's cell alone.
        if not lacked_its_model:
            self._failures[cell] += 1
        again = self._failures[cell] <= self._retries and not self._is_in_vain(cell)
        if again:
            self._waiting.insert(0, cell)
            tries = f" ({self._failures[cell]} of {self._retries})" if self._failures[cell] else ""
            why += f"; it is tried again{tries}"
        log = self._log(cell)
        self._say(f"{place}: {why} ({f'see {log}' if log.is_file() else self._launcher.last_words(job)}).")

    def _lacks_its_model(self, cell: Cell) -> bool:
        """Whether a cell needs a supervised model that is not there yet."""
        supervised = self._grid.supervised_cell(cell)
        return supervised is not None and supervised.status != "done" and self._is_to_come(supervised)

    def _is_in_vain(self, cell: Cell) -> bool:
        """Whether a cell needs a supervised model that there will not be."""
        supervised = self._grid.supervised_cell(cell)
        return supervised is not None and supervised.status != "done" and not self._is_to_come(supervised)

    def _is_to_come(self, cell: Cell) -> bool:
        return cell in self._waiting or cell in self._jobs or is_taken(cell.folder)

    def _forget(self, cell: Cell) -> None:
        del self._jobs[cell]
        self._ended.pop(cell, None)
        self._began.discard(cell)
        self._record(cell).unlink(missing_ok=True)

    def _submit(self) -> None:
        """Submit what can be: first what needs nothing, then what comes after jobs that there are."""
        for _ in range(2):
            groups: dict[str, tuple[Submitted | None, list[Cell]]] = {}
            room = len(self._waiting) if self._parallel is None else self._parallel - len(self._jobs)
            for cell in [*self._waiting]:
                if cell.status == "done" or is_taken(cell.folder):
                    self._waiting.remove(cell)
                    how = "done" if cell.status == "done" else who_has(cell.folder)
                    self._say(f"{self._places[cell]}: {how}.")
                elif room > 0 and self._is_ready(cell):
                    after = self._job_before(cell)
                    groups.setdefault(after.id if after else "", (after, []))[1].append(cell)
                    room -= 1
            for after, cells in groups.values():
                self._submit_group(cells, after)
        if self._waiting and not self._jobs and self._says_that_it_waits:
            self._say(f"Waiting for supervised models that other commands are training: {len(self._waiting)} cells.")
            self._says_that_it_waits = False

    def _job_before(self, cell: Cell) -> Submitted | None:
        """The job that trains the supervised model of a cell, if it has not ended."""
        supervised = self._grid.supervised_cell(cell)
        return None if supervised is None or supervised.status == "done" else self._jobs.get(supervised)

    def _is_ready(self, cell: Cell) -> bool:
        supervised = self._grid.supervised_cell(cell)
        if supervised is None or supervised.status == "done":
            return True
        if supervised in self._jobs:
            return self._launcher.queues
        return not self._is_to_come(supervised)

    def _submit_group(self, cells: Sequence[Cell], after: Submitted | None) -> None:
        jobs = [
            CellJob(
                self._places[cell],
                request_of(self._grid, cell, self._places[cell]),
                str(self._grid.folder.absolute()),
                str(Path.cwd()),
                str(self._log(cell).absolute()),
                environment_of_runs(),
            )
            for cell in cells
        ]
        for cell, job in zip(cells, self._launcher.submit(jobs, after), strict=True):
            self._waiting.remove(cell)
            self._jobs[cell] = job
            if self._launcher.goes_on:
                self._keep_record(cell, {**job.record, "launcher": self._launcher.name, "id": job.id})
            self._say(f"{self._places[cell]}: {job.words}" + (f", after {after.words}." if after else "."))

    def _keep_record(self, cell: Cell, record: dict[str, Any]) -> None:
        path = self._record(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(record) + "\n")

    def _record(self, cell: Cell) -> Path:
        return record_of(self._grid.folder, cell)

    def _log(self, cell: Cell) -> Path:
        return log_of(self._grid.folder, cell)

    def leave(self, how: str) -> str:
        """Leave the jobs to themselves, or stop them, where they would end with this command; says what is where."""
        words = [f"{how}."]
        if self._jobs:
            words.append(f"{self._launcher.leave([*self._jobs.values()])}.")
        if self._waiting:
            words.append(f"{len(self._waiting)} more were not submitted yet.")
        return " ".join([*words, "The same command goes on from there, and follows what still runs."])


def record_of(folder: Path, cell: Cell) -> Path:
    """Where a command keeps which job a cell has."""
    return (folder / JOBS_NAME / cell.folder.relative_to(folder)).with_suffix(".json")


def log_of(folder: Path, cell: Cell) -> Path:
    """Where the output of a cell's jobs goes, one after the other."""
    return (folder / JOBS_NAME / cell.folder.relative_to(folder)).with_suffix(".log")
