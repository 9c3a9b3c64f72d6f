"""How far a grid is: of each cell what it is doing, where, how far, and the last that is known of it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..display import printable
from ..errors import UserError, one_line
from ..storage.files import read_json
from ..storage.json_lines import read_json_lines
from ..storage.results import LOG_NAME, read_recipe
from ..storage.run_lock import Owner, owner_of
from .asked import asked_cells
from .cells import Cell
from .launchers.launching import log_of, record_of
from .launchers.local import has_ended_here


_LONGEST = 160
"""Characters of a last line."""

STATES = ("done", "running", "failed", "submitted", "stopped", "waiting")


@dataclass(frozen=True)
class CellStatus:
    """What is known of a cell.

    Attributes:
        cell ([`Cell`])
        state (`str`): one of `STATES`; `submitted`: it has a job that has not begun; `stopped`: it has begun, and no
            process has it.
        progress (`str`): stage and step, with the number of steps where the recipe says it; empty: unknown.
        host (`str`): where it runs; empty: nowhere.
        line (`str`): its error, its reward, or the last that its job has printed.
    """

    cell: Cell
    state: str
    progress: str = ""
    host: str = ""
    line: str = ""

    @property
    def name(self) -> str:
        """Task, algorithm and seed."""
        return f"{self.cell.task}, {self.cell.variant.label}, seed {self.cell.seed}"


def statuses(folder: str | Path) -> list[CellStatus]:
    """How all cells are that commands asked for in a folder.

    Raises:
        UserError: there is no grid in it, or its files are damaged.
    """
    return [_status(Path(folder), cell) for cell in asked_cells(folder)]


def _status(folder: Path, cell: Cell) -> CellStatus:
    # First, as a cell that ends in between is then seen as done.
    owner = _owner(cell)
    result = cell.result()
    if result.get("status") == "done":
        reward = (result.get("metrics") or {}).get("reward")
        return CellStatus(cell, "done", line="" if reward is None else f"reward {reward:.3f}")
    progress, line = _progress(cell), _last_line(log_of(folder, cell))
    if owner is not None:
        return CellStatus(cell, "running", progress, owner.host, line)
    if result.get("status") == "failed":
        return CellStatus(cell, "failed", progress, line=one_line(RuntimeError(result.get("error", "")), _LONGEST))
    record = record_of(folder, cell)
    if record.is_file():
        job = read_json(record, "delete it")
        if not has_ended_here(job):
            return CellStatus(cell, "submitted", progress, line=f"{job.get('launcher')} job {job.get('id')}")
    return CellStatus(cell, "stopped" if result or progress else "waiting", progress, line=line)


def _owner(cell: Cell) -> Owner | None:
    try:
        return owner_of(cell.folder)
    except UserError:
        # Just being written.
        return Owner("?", 0)


def _progress(cell: Cell) -> str:
    """Stage and step of the last log line."""
    path = cell.folder / LOG_NAME
    rows = [row for _, row in read_json_lines(path, growing=True)] if path.is_file() else []
    trained = [row for row in rows if isinstance(row, dict) and row.get("step")]
    if not trained:
        return ""
    stage, step = trained[-1]["stage"], trained[-1]["step"]
    recipe = read_recipe(cell.folder) or {}
    total = recipe.get("max_steps") if stage == cell.stage and cell.variant.algorithm.reinforces else None
    return f"{stage} {step}/{total}" if isinstance(total, int) and total > 0 else f"{stage} {step}"


def _last_line(path: Path) -> str:
    """The last line of a log, of which only the end is read."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return printable(lines[-1])[:_LONGEST] if lines else ""


def show_status(folder: str | Path, say: Callable[[str], None]) -> None:
    """Show a table that follows the grid for as long as anything runs, on a terminal; else a line for each cell.

    A command that runs one cell after another has none for a moment between two: the table waits a while for the next.

    Args:
        folder (`str` or `Path`): the grid's.
        say: prints a line.

    Raises:
        UserError: as for [`statuses`].
    """
    console = Console()
    found = statuses(folder)
    if not console.is_terminal:
        for status in found:
            say("  ".join(word for word in (f"{status.state:<9}", status.name, *_rest(status)) if word))
        say(_summary(found))
        return
    with Live(_shown(found), console=console, refresh_per_second=4, vertical_overflow="visible") as live:
        seen = time.monotonic() if _is_busy(found) else -math.inf
        while time.monotonic() - seen < _BETWEEN_CELLS and any(status.state != "done" for status in found):
            time.sleep(_PAUSE)
            found = statuses(folder)
            live.update(_shown(found))
            seen = time.monotonic() if _is_busy(found) else seen


_PAUSE = 2.0
"""Seconds between two looks at the folder."""

_BETWEEN_CELLS = 30.0
"""Seconds in which another cell is expected to begin after the last was seen."""


def _is_busy(found: Sequence[CellStatus]) -> bool:
    return any(status.state in ("running", "submitted") for status in found)


def _rest(status: CellStatus) -> Sequence[str]:
    return (status.progress, f"on {status.host}" if status.host else "", status.line)


def _summary(found: Sequence[CellStatus]) -> str:
    numbers = Counter(status.state for status in found)
    return f"{len(found)} cells: " + ", ".join(f"{numbers[state]} {state}" for state in STATES if numbers[state])


_STYLES = {"done": "green", "running": "bold", "failed": "red", "stopped": "yellow"}


def _shown(found: Sequence[CellStatus]) -> Any:
    table = Table(box=None, pad_edge=False)
    for title in ("task", "algorithm", "seed", "state", "progress", "host", "last"):
        table.add_column(title, overflow="ellipsis" if title == "last" else "fold", no_wrap=title == "last")
    for status in found:
        cell = status.cell
        words = (
            cell.task,
            cell.variant.label,
            str(cell.seed),
            status.state,
            status.progress,
            status.host,
            status.line,
        )
        styles = ("", "", "", _STYLES.get(status.state, "dim"), "", "", "dim")
        table.add_row(*(Text(printable(word), style=style) for word, style in zip(words, styles, strict=True)))
    return Group(table, Text(_summary(found)))
