"""GRUE's grid: every task with every algorithm and seed, cell by cell, so that it can stop and resume anywhere.

Several commands can share a grid: each cell is run by the one that has the lock on its folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import Interrupted, Terminated, UserError
from ..recipes import algorithms
from ..recipes.algorithms import Algorithm
from ..recipes.files import find_recipe
from ..recipes.recipe import load_recipe
from ..secrets import is_secret_name, redacted, redacted_words
from ..storage.files import check_folder, read_json, replace_file
from ..storage.results import CELL_NAME, RunResults, read_cell
from ..storage.run_lock import FolderTakenError, check_not_taken, lock_on


GRID_NAME = "grid.json"


@dataclass(frozen=True)
class Variant:
    """An algorithm, perhaps with keys of its own: `supervised+nlpo[mask_sync_steps=null]`.

    Attributes:
        label (`str`): as it was written; names folder and row.
        algorithm ([`Algorithm`]): what it is a variant of.
        overrides (`tuple[str, ...]`): its keys, as words of a command line.
    """

    label: str
    algorithm: Algorithm
    overrides: tuple[str, ...] = ()

    @property
    def is_supervised(self) -> bool:
        """Whether it begins with the supervised stage."""
        return self.algorithm.supervised

    @property
    def starts_supervised(self) -> bool:
        """Whether it starts from a supervised model."""
        return self.algorithm.supervised and self.algorithm.reinforces


SUPERVISED = Variant(algorithms.SUPERVISED.name, algorithms.SUPERVISED)
"""The run whose model others start from, and which judges their perplexity."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid: a recipe (a task's), a variant and a seed, in a folder of its own."""

    recipe: str
    variant: Variant
    seed: int
    folder: Path

    @property
    def task(self) -> str:
        """The recipe's name without folder and ending."""
        return Path(self.recipe).stem

    @property
    def stage(self) -> str:
        """What the run calls the result that counts."""
        return self.variant.algorithm.last_stage

    def result(self) -> dict[str, Any]:
        """How the cell ended: `status`, and `metrics` or `error`; empty when it has not been run.

        Raises:
            UserError: the file that says so is damaged.
        """
        return read_cell(self.folder) or {}

    @property
    def status(self) -> str | None:
        """`"done"`, `"failed"` or, when it has not been run to its end, None."""
        return self.result().get("status")


@dataclass(frozen=True)
class Grid:
    """All cells and what they share.

    Attributes:
        recipes (`tuple[str, ...]`): names of recipes, or their files.
        variants (`tuple[Variant, ...]`)
        seeds (`int`): 0, 1, ... of every cell.
        folder (`Path`)
        overrides (`tuple[str, ...]`): keys for every recipe, as words of a command line.
    """

    recipes: tuple[str, ...]
    variants: tuple[Variant, ...]
    seeds: int
    folder: Path
    overrides: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        """Every cell in the order of running: the supervised one of a task and seed comes first, as others need it."""
        variants = list(self.variants)
        if any(variant.is_supervised for variant in variants):
            variants = [SUPERVISED, *(variant for variant in variants if variant != SUPERVISED)]
        return [
            self._cell(recipe, variant, seed)
            for recipe in self.recipes
            for seed in range(self.seeds)
            for variant in variants
        ]

    def supervised_cell(self, cell: Cell) -> Cell | None:
        """Whose supervised model a cell uses; None for that one, and where the grid has none."""
        if cell.variant == SUPERVISED or not any(variant.is_supervised for variant in self.variants):
            return None
        return self._cell(cell.recipe, SUPERVISED, cell.seed)

    def _cell(self, recipe: str, variant: Variant, seed: int) -> Cell:
        label = variant.label.replace("/", "_")
        return Cell(recipe, variant, seed, self.folder / Path(recipe).stem / label / f"seed-{seed}")


def parse_variant(text: str) -> Variant:
    """`nlpo`, or `nlpo[mask_sync_steps=null,mask_top_p=0.5]`.

    Raises:
        UserError: an unknown algorithm, or keys that are not written so.
    """
    name, bracket, rest = text.strip().partition("[")
    algorithm = Algorithm.parse(name)
    if not bracket:
        return Variant(name, algorithm)
    words: list[str] = []
    for pair in rest.removesuffix("]").split(","):
        key, equals, value = pair.partition("=")
        if not equals or not rest.endswith("]"):
            raise UserError(f"algorithm {text!r}: write keys of its own as {name}[mask_sync_steps=null,gamma=1.0].")
        if is_secret_name(key):
            raise UserError(
                f"algorithm {name}[{key.strip()}=...]: its keys name folders and rows: give it as --{key}."
            )
        words += [f"--{key.strip()}", value.strip()]
    return Variant(text.strip(), algorithm, tuple(words))


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
    # A misspelt key or task is known before the first cell has run for hours.
    fingerprints = {cell: _fingerprint(grid, cell) for cell in cells}
    _remember(grid)
    _refuse_edited_recipes(grid, fingerprints)
    left = list(enumerate(cells, 1))
    says_that_it_waits = True
    while left:
        left = [
            (number, cell) for number, cell in left if not _visit(grid, cell, f"[{number}/{len(cells)}]", run, say)
        ]
        if left and says_that_it_waits:
            say(f"Waiting for supervised models that other commands are training: {len(left)} cells need them.")
            says_that_it_waits = False
        time.sleep(_PAUSE if left else 0.0)
    taken = [cell for cell in cells if cell.status != "done" and _is_taken(cell.folder)]
    if taken:
        say(f"{len(taken)} cells are being run by other commands; the last to end writes the whole leaderboard.")
    return [cell for cell in cells if cell.status != "done" and cell not in taken]


_PAUSE = 2.0
"""Seconds between two looks at what other commands are doing."""


def _visit(grid: Grid, cell: Cell, number: str, run: Callable[..., Any], say: Callable[[str], None]) -> bool:
    """Run a cell unless it is done or another command has it; False where it has to be looked at again.

    That is while another command is training the supervised model that it needs.
    """
    place = f"{number} {cell.task}, {cell.variant.label}, seed {cell.seed}"
    supervised = grid.supervised_cell(cell)
    if cell.status == "done":
        say(f"{place}: done before.")
        return True
    if supervised is not None and supervised.status != "done" and _is_taken(supervised.folder):
        return False
    try:
        with lock_on(cell.folder):
            # It may have been done since.
            if cell.status != "done":
                say(f"{place} ...")
                _run_cell(grid, cell, run, say)
    except FolderTakenError:
        say(f"{place}: another command has it.")
    return True


def _is_taken(folder: Path) -> bool:
    """Whether another process is writing into a folder."""
    try:
        check_not_taken(folder)
    except FolderTakenError:
        return True
    return False


def _run_cell(grid: Grid, cell: Cell, run: Callable[..., Any], say: Callable[[str], None]) -> None:
    fingerprint = _fingerprint(grid, cell)
    try:
        resumes = cell.result().get("recipe") == fingerprint
        _write(cell, {"recipe": fingerprint})
        words = ["--resume_from_checkpoint", "true"] if resumes else []
        # What differs in a cell that is resumed are paths of the grid, which may have been moved.
        run(load_recipe(cell.recipe, [*_keys(grid, cell), *_paths(grid, cell), *words]), resumes, not resumes)
        stages = RunResults.read(cell.folder).stages
        _write(cell, {"status": "done", "recipe": fingerprint, "metrics": stages[cell.stage]})
    except (Interrupted, Terminated) as stop:
        message = f"{str(stop).partition(';')[0]} of {cell.folder}; the same command goes on from there."
        raise type(stop)(message) from None
    except UserError as error:
        _write(cell, {"status": "failed", "recipe": fingerprint, "error": str(error)})
        say(f"  failed: {error}")
    except Exception as error:
        # Whatever it is, the other cells are worth running; the traceback is kept for whoever repairs it.
        _write(
            cell,
            {"status": "failed", "recipe": fingerprint, "error": f"{type(error).__name__}: {redacted(str(error))}"},
        )
        replace_file(cell.folder / "traceback.txt", redacted(traceback.format_exc()))
        say(f"  failed: {type(error).__name__}: {redacted(str(error))} (see {cell.folder / 'traceback.txt'})")


def _keys(grid: Grid, cell: Cell) -> list[str]:
    """The keys by which a cell's recipe differs from the task's; the same in whatever folder the grid is."""
    words = [*grid.overrides, *cell.variant.overrides]
    return [*words, "--algorithm", cell.variant.algorithm.name, "--seed", str(cell.seed)]


def _paths(grid: Grid, cell: Cell) -> list[str]:
    """The folder that a cell writes to, and the supervised model that it uses."""
    words = ["--output_dir", str(cell.folder)]
    supervised = grid.supervised_cell(cell)
    if supervised is not None:
        model = str(supervised.folder / "supervised")
        words += ["--judge_model", model]
        if cell.variant.starts_supervised:
            words += ["--supervised_model", model]
    return words


def _fingerprint(grid: Grid, cell: Cell) -> str:
    """A hash of everything in a cell's recipe but the paths of the grid."""
    resolved = load_recipe(cell.recipe, _keys(grid, cell)).resolved
    values = {key: value for key, value in resolved.items() if key != "output_dir"}
    return hashlib.sha256(yaml.safe_dump(values, sort_keys=True).encode()).hexdigest()


def _refuse_edited_recipes(grid: Grid, fingerprints: dict[Cell, str]) -> None:
    """Refuse to mix cells of an edited recipe with those that ran before the edit: they would share a table."""
    for cell, fingerprint in fingerprints.items():
        result = cell.result()
        # Cells of versions that recorded no fingerprint are taken as they are.
        if result.get("status") == "done" and result.get("recipe", fingerprint) != fingerprint:
            raise UserError(
                f"{cell.folder} ran with another recipe than {cell.recipe!r} is now (it is kept as "
                f"{cell.folder / 'recipe.yaml'}): undo the edit, give another --out, or delete "
                f"{grid.folder / cell.task} to run all of the task again."
            )


def _remember(grid: Grid) -> None:
    """Record what all cells share, and refuse to mix it with something else."""
    path = grid.folder / GRID_NAME
    shared = {"overrides": redacted_words(grid.overrides)}
    if path.is_file():
        before = read_json(path, "delete it to continue the grid with the keys given now")
        if before != shared:
            raise UserError(
                f"{grid.folder} holds a grid that ran with {' '.join(before['overrides']) or 'no keys'}: give the "
                "same keys, or another --out."
            )
    grid.folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(shared, indent=2) + "\n")


def _write(cell: Cell, content: dict[str, Any]) -> None:
    cell.folder.mkdir(parents=True, exist_ok=True)
    replace_file(cell.folder / CELL_NAME, json.dumps(content, indent=2) + "\n")


def split_names(text: str) -> list[str]:
    """Names separated by commas or spaces; those inside brackets do not separate."""
    return [name for name in re.split(r"[\s,]+(?![^\[\]]*\])", text) if name]


def known_recipes(names: Sequence[str]) -> tuple[str, ...]:
    """Names or files of recipes, each found, and each once.

    Raises:
        UserError: one is not there (the message names the nearest), or two would have the same folder and row.
    """
    found: dict[Path, str] = {}
    for name in names:
        found.setdefault(find_recipe(name).resolve(), name)
    by_task: dict[str, str] = {}
    for name in found.values():
        task = Path(name).stem
        if task in by_task:
            raise UserError(
                f"recipes {by_task[task]!r} and {name!r} would both be {task!r} in folder and table: rename one file."
            )
        by_task[task] = name
    return tuple(found.values())


def known_variants(names: Sequence[str]) -> tuple[Variant, ...]:
    """Algorithms as [`parse_variant`] reads them, each once."""
    return tuple(dict.fromkeys(map(parse_variant, names)))
