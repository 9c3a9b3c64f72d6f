"""GRUE's grid: every task with every algorithm and seed, cell by cell, so that it can stop and resume anywhere."""

from __future__ import annotations

import hashlib
import json
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..recipes import algorithms
from ..recipes.algorithms import Algorithm
from ..recipes.files import find_recipe
from ..recipes.recipe import load_recipe
from ..secrets import is_secret_name, redacted, redacted_words
from ..storage.files import read_json, replace_file
from ..storage.results import CELL_NAME, RunResults, read_cell


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

    def supervised_model(self, cell: Cell) -> Path | None:
        """The supervised model of a cell's task and seed; None where the grid has none."""
        if not any(variant.is_supervised for variant in self.variants):
            return None
        return self._cell(cell.recipe, SUPERVISED, cell.seed).folder / "supervised"

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
        run: what runs a recipe ([`experiment.run_experiment`]).
        say: prints a line.

    Returns:
        `list[Cell]`: the cells that failed.

    Raises:
        UserError: the folder has a grid with other settings, or a recipe is wrong from the start, or was edited since.
    """
    cells = grid.cells()
    # A misspelt key or task is known before the first cell has run for hours.
    fingerprints = {cell: _fingerprint(grid, cell) for cell in cells}
    _remember(grid)
    _refuse_edited_recipes(grid, fingerprints)
    for number, cell in enumerate(cells, 1):
        place = f"[{number}/{len(cells)}] {cell.task}, {cell.variant.label}, seed {cell.seed}"
        if cell.status == "done":
            say(f"{place}: done before.")
            continue
        say(f"{place} ...")
        _run_cell(grid, cell, run, say)
    return [cell for cell in cells if cell.status != "done"]


def _run_cell(grid: Grid, cell: Cell, run: Callable[[Any], Any], say: Callable[[str], None]) -> None:
    try:
        fingerprint = _fingerprint(grid, cell)
        run(load_recipe(cell.recipe, [*_keys(grid, cell), *_paths(grid, cell)]))
        stages = RunResults.read(cell.folder).stages
        _write(cell, {"status": "done", "recipe": fingerprint, "metrics": stages[cell.stage]})
    except UserError as error:
        _write(cell, {"status": "failed", "error": str(error)})
        say(f"  failed: {error}")
    except Exception as error:
        # Whatever it is, the other cells are worth running; the traceback is kept for whoever repairs it.
        _write(cell, {"status": "failed", "error": f"{type(error).__name__}: {redacted(str(error))}"})
        replace_file(cell.folder / "traceback.txt", redacted(traceback.format_exc()))
        say(f"  failed: {type(error).__name__}: {redacted(str(error))} (see {cell.folder / 'traceback.txt'})")


def _keys(grid: Grid, cell: Cell) -> list[str]:
    """The keys by which a cell's recipe differs from the task's; the same in whatever folder the grid is."""
    words = [*grid.overrides, *cell.variant.overrides]
    return [*words, "--algorithm", cell.variant.algorithm.name, "--seed", str(cell.seed)]


def _paths(grid: Grid, cell: Cell) -> list[str]:
    """The folder that a cell writes to, and the supervised model that it uses."""
    words = ["--output_dir", str(cell.folder)]
    supervised = grid.supervised_model(cell)
    if supervised is not None and cell.variant != SUPERVISED:
        words += ["--judge_model", str(supervised)]
        if cell.variant.starts_supervised:
            words += ["--supervised_model", str(supervised)]
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
    path.write_text(json.dumps(shared, indent=2) + "\n", encoding="utf-8")


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
