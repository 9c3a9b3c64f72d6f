"""The cells of a grid: a task, an algorithm and a seed each, and the recipe that follows from them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..recipes import algorithms
from ..recipes.algorithms import Algorithm
from ..recipes.files import find_recipe
from ..recipes.overrides import parse_overrides, without_keys
from ..recipes.recipe import load_recipe
from ..recipes.stages_of_keys import decide_the_start
from ..secrets import is_secret_name, redacted_words
from ..storage.results import read_cell


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

    @property
    def has_own_start(self) -> bool:
        """Whether its keys change the model that reinforcement starts from, which it then cannot share."""
        return decide_the_start(word[2:] for word in self.overrides if word.startswith("--"))


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
        seeds (`tuple[int, ...]`): of every cell; given a number N, 0 to N - 1.
        folder (`Path`)
        overrides (`tuple[str, ...]`): keys for every recipe, as words of a command line.
    """

    recipes: tuple[str, ...]
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    folder: Path
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.seeds, int):
            object.__setattr__(self, "seeds", tuple(range(self.seeds)))

    def cells(self) -> list[Cell]:
        """Every cell in the order of running: the supervised one of a task and seed comes first, as others need it."""
        variants = list(self.variants)
        if self._shares_supervised_models:
            variants = [SUPERVISED, *(variant for variant in variants if variant != SUPERVISED)]
        return [
            self._cell(recipe, variant, seed) for recipe in self.recipes for seed in self.seeds for variant in variants
        ]

    def supervised_cell(self, cell: Cell) -> Cell | None:
        """Whose supervised model a cell uses; None for that one, where the grid has none, and for one of its own."""
        if cell.variant == SUPERVISED or not self._shares_supervised_models:
            return None
        if cell.variant.starts_supervised and cell.variant.has_own_start:
            return None
        return self._cell(cell.recipe, SUPERVISED, cell.seed)

    def zero_shot_cell(self, cell: Cell) -> Cell | None:
        """Whose zero-shot results a cell may take, the first of its task and seed; None where it takes none."""
        first = next(other for other in self.cells() if (other.recipe, other.seed) == (cell.recipe, cell.seed))
        return None if cell == first or cell.variant.starts_supervised else first

    @property
    def _shares_supervised_models(self) -> bool:
        return any(
            variant.is_supervised and not (variant.starts_supervised and variant.has_own_start)
            for variant in self.variants
        )

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


def keys_of(grid: Grid, cell: Cell) -> list[str]:
    """Words for the keys by which a cell's recipe differs from the task's; the same in whatever folder the grid is."""
    own = parse_overrides(cell.variant.overrides)
    # A list that both have is the variant's, not both together.
    words = [*without_keys(grid.overrides, own), *cell.variant.overrides]
    return [*words, "--algorithm", cell.variant.algorithm.name, "--seed", str(cell.seed)]


def paths_of(grid: Grid, cell: Cell) -> list[str]:
    """Words for the folder that a cell writes to, and those of the model and the results that it takes from others."""
    words = ["--output_dir", str(cell.folder)]
    supervised, zero_shot = grid.supervised_cell(cell), grid.zero_shot_cell(cell)
    if supervised is not None:
        model = str(supervised.folder / "supervised")
        if load_recipe(cell.recipe, keys_of(grid, cell)).arguments.judge_model is None:
            words += ["--judge_model", model]
        if cell.variant.starts_supervised:
            words += ["--supervised_model", model]
    if zero_shot is not None:
        words += ["--zero_shot_results", str(zero_shot.folder)]
    return words


def fingerprint_of(grid: Grid, cell: Cell) -> str:
    """A hash of what in a cell's recipe decides its model and its samples: not the grid's paths, nor the metrics."""
    resolved = load_recipe(cell.recipe, keys_of(grid, cell)).resolved
    return _hash({key: value for key, value in resolved.items() if key not in ("output_dir", "metrics")})


def scoring_of(grid: Grid, cell: Cell) -> str:
    """A hash of a cell's metrics, by which its samples are scored."""
    return _hash(load_recipe(cell.recipe, keys_of(grid, cell)).resolved.get("metrics"))


def _hash(values: Any) -> str:
    return hashlib.sha256(yaml.safe_dump(values, sort_keys=True).encode()).hexdigest()


def shared_keys(grid: Grid) -> list[str]:
    """What all cells of a grid share, without what is secret and without the metrics, which may change."""
    words: list[str] = []
    is_left_out = False
    for word in redacted_words(grid.overrides):
        if word.startswith("--"):
            is_left_out = word[2:].partition("=")[0].replace("-", "_") == "metrics"
        if not is_left_out:
            words.append(word)
    return words


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds as a command line writes them, each once, in their order.

    Args:
        text (`str`): a number of seeds, or seeds and ranges (without their end) separated by commas.

    Raises:
        UserError: it is not written so, or names no seed.

    Example:
        >>> parse_seeds("3"), parse_seeds("2:5"), parse_seeds("0,3,7:9")
        ((0, 1, 2), (2, 3, 4), (0, 3, 7, 8))
    """
    text = text.strip()
    parts = [f"0:{text}"] if text.isdecimal() else [part.strip() for part in text.split(",")]
    seeds: list[int] = []
    for part in parts:
        first, colon, end = (word.strip() for word in part.partition(":"))
        if not first.isdecimal() or (colon and not (end.isdecimal() and int(first) < int(end))):
            raise UserError(
                f"--seeds {text!r}: write how many (3 is 0, 1, 2), a range (2:5 is 2, 3, 4), or a list (0,3,7)."
            )
        seeds += range(int(first), int(end)) if colon else [int(first)]
    return tuple(dict.fromkeys(seeds))


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
