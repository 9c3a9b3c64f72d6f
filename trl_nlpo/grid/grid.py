"""GRUE's grid: every task with every algorithm and seed, cell by cell, so that it can stop and resume anywhere.

Several commands can share a grid: each cell is run by the one that has the lock on its folder.
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import Interrupted, Terminated, UserError
from ..recipes.overrides import parse_overrides
from ..recipes.recipe import load_recipe
from ..secrets import redacted
from ..storage.files import check_folder, read_json, replace_file
from ..storage.results import CELL_NAME, RunResults
from ..storage.run_lock import LOCK_NAME, FolderTakenError, Owner, check_not_taken, lock_on, owner_of
from .asked import keep_asked
from .cells import Cell, Grid, fingerprint_of, keys_of, paths_of, scoring_of, shared_keys


GRID_NAME = "grid.json"


def run_grid(grid: Grid, run: Callable[[Any], Any], say: Callable[[str], None]) -> list[Cell]:
    """Run what is left of a grid; a cell that fails does not stop the others.

    Args:
        grid ([`Grid`])
        run: what runs a recipe ([`experiment.run_experiment`]), given the recipe, whether to resume it whatever
            differs, and whether to replace what is there.
        say: prints a line.

    Returns:
        `list[Cell]`: the cells that failed; those that other commands have are not among them.

    Raises:
        UserError: the folder has a grid with other settings, or a recipe is wrong from the start, or was edited since.
    """
    check_folder(grid.folder, "--out")
    cells = grid.cells()
    check_earlier(grid)
    left = [(cell, place_of(cell, number, len(cells))) for number, cell in enumerate(cells, 1)]
    says_that_it_waits = True
    while left:
        left = [(cell, place) for cell, place in left if not _visit(grid, cell, place, run, say)]
        if left and says_that_it_waits:
            say(f"Waiting for supervised models that other commands are training: {len(left)} cells need them.")
            says_that_it_waits = False
        time.sleep(_PAUSE if left else 0.0)
    return failed_of(grid, say)


def run_cell(grid: Grid, cell: Cell, place: str, run: Callable[..., Any], say: Callable[[str], None]) -> None:
    """Run one cell of a grid under its lock, unless it is done or another command has it.

    Args:
        grid, run, say: as for [`run_grid`].
        cell ([`Cell`])
        place (`str`): what it is called in lines.
    """
    while not _visit(grid, cell, place, run, say):
        time.sleep(_PAUSE)


def place_of(cell: Cell, number: int, total: int) -> str:
    """What a cell is called in lines: `[3/24] commongen, nlpo, seed 0`."""
    return f"[{number}/{total}] {cell.task}, {cell.variant.label}, seed {cell.seed}"


def failed_of(grid: Grid, say: Callable[[str], None]) -> list[Cell]:
    """The cells that are neither done nor being run by other commands; what else there is to know is said."""
    cells = grid.cells()
    _hint_at_rescoring(grid, cells, say)
    taken = [cell for cell in cells if cell.status != "done" and is_taken(cell.folder)]
    if taken:
        say(f"{len(taken)} cells are being run by other commands; the last to end writes the whole leaderboard.")
    return [cell for cell in cells if cell.status != "done" and cell not in taken]


def _hint_at_rescoring(grid: Grid, cells: Sequence[Cell], say: Callable[[str], None]) -> None:
    """Say which cells were scored with other metrics than the recipes have now."""
    others = [cell for cell in cells if cell.result().get("scoring", scoring_of(grid, cell)) != scoring_of(grid, cell)]
    if others:
        say(f"{len(others)} cells were scored with other metrics: the same command with --rescore scores them again.")


_PAUSE = 2.0
"""Seconds between two looks at what other commands are doing."""


def _visit(grid: Grid, cell: Cell, place: str, run: Callable[..., Any], say: Callable[[str], None]) -> bool:
    """Run a cell unless it is done or another command has it; False where it has to be looked at again.

    That is while another command is training the supervised model that it needs.
    """
    supervised = grid.supervised_cell(cell)
    if cell.status == "done":
        say(f"{place}: done before.")
        return True
    if supervised is not None and supervised.status != "done" and is_taken(supervised.folder):
        return False
    try:
        with lock_on(cell.folder):
            # It may have been done since.
            if cell.status != "done":
                say(f"{place} ...")
                _run_cell(grid, cell, run, say)
    except FolderTakenError:
        say(f"{place}: {who_has(cell.folder)}.")
    return True


def is_taken(folder: Path) -> bool:
    """Whether another process is writing into a folder."""
    try:
        check_not_taken(folder)
    except FolderTakenError:
        return True
    return False


def who_has(folder: Path) -> str:
    """That another command has a folder, and what is known of its process; in words."""
    owner = owner_if_known(folder)
    if owner is None:
        return "another command has it"
    # Of a process elsewhere nobody here can see whether it has ended.
    hint = "" if owner.host == Owner.here().host else f"; if that has ended, delete {folder / LOCK_NAME}"
    return f"another command has it (process {owner.pid} on {owner.host}{hint})"


def owner_if_known(folder: Path) -> Owner | None:
    """Who is writing into a folder; None: nobody, or somebody whose lock cannot be read yet."""
    with contextlib.suppress(UserError):
        return owner_of(folder)
    return None


def _run_cell(grid: Grid, cell: Cell, run: Callable[..., Any], say: Callable[[str], None]) -> None:
    fingerprint = fingerprint_of(grid, cell)
    try:
        resumes = cell.result().get("recipe") == fingerprint
        write_cell(cell, {"recipe": fingerprint})
        words = ["--resume_from_checkpoint", "true"] if resumes else []
        # What differs in a cell that is resumed are paths of the grid, which may have been moved.
        run(load_recipe(cell.recipe, [*keys_of(grid, cell), *paths_of(grid, cell), *words]), resumes, not resumes)
        stages = RunResults.read(cell.folder).stages
        write_cell(
            cell,
            {
                "status": "done",
                "recipe": fingerprint,
                "scoring": scoring_of(grid, cell),
                "metrics": stages[cell.stage],
            },
        )
    except (Interrupted, Terminated) as stop:
        message = f"{str(stop).partition(';')[0]} of {cell.folder}; the same command goes on from there."
        raise type(stop)(message) from None
    except UserError as error:
        write_cell(cell, {"status": "failed", "recipe": fingerprint, "error": str(error)})
        say(f"  failed: {error}")
    except Exception as error:
        # Whatever it is, the other cells are worth running; the traceback is kept for whoever repairs it.
        write_cell(
            cell,
            {"status": "failed", "recipe": fingerprint, "error": f"{type(error).__name__}: {redacted(str(error))}"},
        )
        replace_file(cell.folder / "traceback.txt", redacted(traceback.format_exc()))
        say(f"  failed: {type(error).__name__}: {redacted(str(error))} (see {cell.folder / 'traceback.txt'})")


def check_earlier(grid: Grid) -> None:
    """Refuse to mix a grid with what ran before in its folder with other keys or recipes: they would share a table.

    Raises:
        UserError: a recipe is wrong (a misspelt key is known before the first cell has run for hours), the folder has
            a grid with other keys, or a recipe was edited since a cell of it ran; or a key is none for all cells.
    """
    _check_keys(grid)
    fingerprints = {cell: fingerprint_of(grid, cell) for cell in grid.cells()}
    _remember(grid)
    for cell, fingerprint in fingerprints.items():
        result = cell.result()
        # Cells of versions that recorded no fingerprint are taken as they are.
        if result.get("status") == "done" and result.get("recipe", fingerprint) != fingerprint:
            raise UserError(
                f"{cell.folder} ran with another recipe than {cell.recipe!r} is now (it is kept as "
                f"{cell.folder / 'recipe.yaml'}): undo the edit, give another --out, or delete "
                f"{grid.folder / cell.task} to run all of the task again."
            )


def _check_keys(grid: Grid) -> None:
    """Refuse what every cell has of its own, and would not take from the keys for all."""
    given = parse_overrides(grid.overrides)
    for key, instead in _OF_CELLS.items():
        if key in given:
            raise UserError(f"--{key}: each cell of a grid has its own: {instead}.")
    # Seeds do not differ in what is looked at.
    for cell in (cell for cell in grid.cells() if cell.seed == grid.seeds[0]):
        recipe = load_recipe(cell.recipe, keys_of(grid, cell)) if cell.variant.algorithm.reinforces else None
        if recipe and recipe.arguments.supervised_model and grid.supervised_cell(cell):
            raise UserError(
                f"supervised_model in recipe {cell.recipe!r}: the cells of a grid start from the supervised model of "
                f"their own seed. Leave it out; or, to {_FROM_ONE_MODEL}."
            )
        if recipe and recipe.training.push_to_hub:
            raise UserError(
                "push_to_hub: the cells of a grid would overwrite one another on the Hub: give --push_to_hub false, "
                "and afterwards push the cell that you want: trl-nlpo push FOLDER --hub_model_id NAME."
            )


_FROM_ONE_MODEL = (
    "start all of them from a model of yours, give that as model_name_or_path, and algorithms without supervised+"
)
_OF_CELLS = {
    "seed": "give --seeds",
    "output_dir": "give --out",
    "supervised_model": f"its supervised cell trains it; to {_FROM_ONE_MODEL}",
    "zero_shot_results": "they are those of the first cell of its seed",
}
"""Keys that a grid gives to its cells, and what to do instead of giving them."""


def _remember(grid: Grid) -> None:
    """Record what all cells share, and refuse to mix it with something else."""
    path = grid.folder / GRID_NAME
    shared = {"overrides": shared_keys(grid)}
    if path.is_file():
        before = read_json(path, "delete it to continue the grid with the keys given now")
        if before != shared:
            raise UserError(
                f"{grid.folder} holds a grid that ran with {' '.join(before['overrides']) or 'no keys'}: give the "
                "same keys, or another --out."
            )
    grid.folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(shared, indent=2) + "\n")
    keep_asked(grid)


def write_cell(cell: Cell, content: dict[str, Any]) -> None:
    """Record how a cell is: `status`, hashes of its recipe and metrics, and `metrics` or `error`."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    replace_file(cell.folder / CELL_NAME, json.dumps(content, indent=2) + "\n")
