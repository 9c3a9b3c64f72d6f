"""Which cells the commands of a folder asked for: a small file for each of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipes.algorithms import Algorithm
from ..storage.files import read_json, replace_file
from ..storage.results import CELL_NAME
from .cells import Cell, Grid, Variant, parse_variant


ASKED_NAME = "_asked"
"""Folder in that of a grid. Uploads leave out names with this first letter."""


def as_json(grid: Grid) -> dict[str, Any]:
    """Recipes, variants and seeds of a grid, without its folder and its keys, in which there may be secrets."""
    return {
        "recipes": [*grid.recipes],
        "variants": [
            {"label": variant.label, "algorithm": variant.algorithm.name, "overrides": [*variant.overrides]}
            for variant in grid.variants
        ],
        "seeds": [*grid.seeds],
    }


def from_json(written: Mapping[str, Any], folder: Path, overrides: tuple[str, ...] = ()) -> Grid:
    """The grid that [`as_json`] has written.

    Raises:
        UserError: something is missing in it.
    """
    try:
        variants = tuple(
            Variant(entry["label"], Algorithm.parse(entry["algorithm"]), tuple(entry["overrides"]))
            for entry in written["variants"]
        )
        return Grid(tuple(written["recipes"]), variants, tuple(written["seeds"]), folder, overrides)
    except (KeyError, TypeError) as error:
        raise UserError(f"the grid of {folder} is written down without its {error}: run its command again.") from None


def keep_asked(grid: Grid) -> None:
    """Write down what a command asks for, once for all commands that ask for the same."""
    text = json.dumps(as_json(grid), indent=2, sort_keys=True) + "\n"
    path = grid.folder / ASKED_NAME / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)


def asked_grids(folder: str | Path) -> list[Grid]:
    """The grids that commands asked for in a folder, and cells in it that were copied there from elsewhere.

    Raises:
        UserError: there is no grid in the folder, or a file is damaged.
    """
    folder = Path(folder)
    files = sorted((folder / ASKED_NAME).glob("*.json"), key=lambda path: (path.stat().st_mtime, path.name))
    asked = [from_json(read_json(path, f"delete {path}"), folder) for path in files]
    grids = [*asked, *_found_on_disk(folder, asked)]
    if not grids:
        raise UserError(f"{folder} has no grid: give the --out of a grue or ablate command that has begun.")
    return grids


def whole_grid(folder: str | Path) -> Grid:
    """One grid with all recipes, variants and seeds that commands asked for in a folder.

    Raises:
        UserError: as for [`asked_grids`].
    """
    grids = asked_grids(folder)
    return Grid(
        tuple(dict.fromkeys(recipe for grid in grids for recipe in grid.recipes)),
        tuple(dict.fromkeys(variant for grid in grids for variant in grid.variants)),
        tuple(sorted({seed for grid in grids for seed in grid.seeds})),
        Path(folder),
    )


def asked_cells(folder: str | Path) -> list[Cell]:
    """Every cell that a command asked for in a folder, once.

    Raises:
        UserError: as for [`asked_grids`].
    """
    return list({cell.folder: cell for grid in asked_grids(folder) for cell in grid.cells()}.values())


def _found_on_disk(folder: Path, asked: Sequence[Grid]) -> list[Grid]:
    grids = []
    known = {cell.folder for grid in asked for cell in grid.cells()}
    recipes = {Path(recipe).stem: recipe for grid in asked for recipe in grid.recipes}
    for path in sorted(folder.glob(f"*/*/seed-*/{CELL_NAME}")):
        if path.parent in known:
            continue
        task, label, seed = path.parent.parts[-3:]
        # A label that cannot be read back is that of an ablation, whose own report has it.
        with contextlib.suppress(UserError, ValueError):
            grids.append(
                Grid((recipes.get(task, task),), (parse_variant(label),), (int(seed.removeprefix("seed-")),), folder)
            )
    return grids
