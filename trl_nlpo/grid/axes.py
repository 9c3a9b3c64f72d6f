"""The axes of an ablation: keys of one recipe and the values that each is given."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..naming import did_you_mean
from ..recipes.algorithms import Algorithm
from ..recipes.recipe import Recipe, load_recipe
from ..secrets import is_secret_name
from .cells import Grid, Variant


@dataclass(frozen=True)
class Axis:
    """A key and its values, as a command line writes them: `mask_top_p=0.5,0.9`.

    Attributes:
        key (`str`)
        values (`tuple[str, ...]`): two at least, each once.
        base (`str`): the value that the others are compared with: the recipe's own if it is among them, or the first.
    """

    key: str
    values: tuple[str, ...]
    base: str


STUDIES: dict[str, tuple[str, ...]] = {
    "gamma": ("gamma=0.5,0.95,1.0",),
    "dropout": ("disable_dropout=true,false",),
    "top_p": ("mask_top_p=0.5,0.9,0.95",),
    "mu": ("mask_sync_steps=5,10,20,50,null",),
    "kl": ("kl_target=null,2.0,10.0,20.0",),
    "budget": ("max_train_samples=100,500,null",),
    "sampling": ('eval_generation_kwargs=null,{"do_sample": false},{"top_k": 50},{"temperature": 0.7}',),
}
"""The questions of the paper's section 5, and of its masks, as axes: what `--study` stands for."""


_LONGEST_LABEL = 240


def axes_of(recipe: str, overs: Sequence[str], overrides: Sequence[str]) -> tuple[Axis, ...]:
    """Axes as `--over` has them.

    Args:
        recipe (`str`): name or file.
        overs (`Sequence[str]`): `key=value,value`, once for each axis.
        overrides (`Sequence[str]`): words of a command line for all cells.

    Raises:
        UserError: one is not written so, or a key that is no axis, is there twice, or is given for all cells too.
    """
    axes: list[Axis] = []
    given = {word[2:].partition("=")[0].replace("-", "_") for word in overrides if word.startswith("--")}
    without = load_recipe(recipe, list(overrides))
    for over in overs:
        key, equals, text = over.partition("=")
        key = key.strip().removeprefix("--").replace("-", "_")
        values = tuple(dict.fromkeys(split_values(text)))
        if not equals or len(values) < 2:
            raise UserError(f"--over {over!r}: write a key and two values at least, as gamma=0.95,1.0.")
        if key in ("seed", "output_dir"):
            raise UserError(f"--over {key}: {'--seeds is for that' if key == 'seed' else 'each cell has its own'}.")
        if is_secret_name(key):
            raise UserError(f"--over {key}: its values name folders and rows: give it as --{key}.")
        if key in given or any(axis.key == key for axis in axes):
            raise UserError(f"--over {key}: the key is given twice.")
        varied = ((value, [*overrides, f"--{key}", value]) for value in values)
        own = (value for value, words in varied if _is_equal(without, recipe, words, key))
        axes.append(Axis(key, values, next(own, values[0])))
    return tuple(axes)


def study(name: str) -> tuple[str, ...]:
    """The axes of a study, as `--over` has them.

    Raises:
        UserError: there is none of this name.
    """
    if name not in STUDIES:
        hint = did_you_mean(name, STUDIES) or "."
        raise UserError(f"unknown study {name!r}{hint} Take one of {', '.join(STUDIES)}.")
    return STUDIES[name]


def grid_of(recipe: str, axes: Sequence[Axis], seeds: tuple[int, ...], folder: Path, overrides: Sequence[str]) -> Grid:
    """Every combination of the axes' values, as a grid of one recipe."""
    own = load_recipe(recipe, list(overrides)).algorithm
    variants = [variant_of(own, dict(values)) for values in combinations(axes)]
    return Grid((recipe,), tuple(variants), seeds, folder, tuple(overrides))


def combinations(axes: Sequence[Axis]) -> list[tuple[tuple[str, str], ...]]:
    """`(key, value)` pairs of every cell."""
    return list(itertools.product(*([(axis.key, value) for value in axis.values] for axis in axes)))


def variant_of(own: Algorithm, values: dict[str, str]) -> Variant:
    """A cell's variant of the recipe's algorithm; the label names its values."""
    algorithm = Algorithm.parse(values["algorithm"]) if "algorithm" in values else own
    keys = {key: value for key, value in values.items() if key != "algorithm"}
    # It names a folder, whose name most file systems limit to 255 bytes.
    label = algorithm.name + (f"[{','.join(f'{key}={value}' for key, value in keys.items())}]" if keys else "")
    if len(label.encode()) > _LONGEST_LABEL:
        raise UserError(
            f"the values {', '.join(keys.values())} are too long to name a folder: write each into a recipe of its "
            "own, and run trl-nlpo grue --tasks with the recipes."
        )
    words = tuple(word for key, value in keys.items() for word in (f"--{key}", value))
    return Variant(label, algorithm, words)


def split_values(text: str) -> list[str]:
    """Values separated by commas; those inside of brackets and braces do not separate."""
    parts = re.findall(r"(?:\{[^{}]*\}|\[[^\[\]]*\]|[^,])+", text)
    return [part.strip() for part in parts if part.strip()]


def _is_equal(without: Recipe, recipe: str, words: Sequence[str], key: str) -> bool:
    """Whether a recipe with an axis' value has what it has without it, however either is written."""
    # One that goes only with another axis' value is refused where their combination is made.
    with contextlib.suppress(UserError):
        return bool(_value(load_recipe(recipe, list(words)), key) == _value(without, key))
    return False


def _value(recipe: Recipe, key: str) -> Any:
    """A key's value in a recipe, a default where the recipe does not have it."""
    parts = (recipe.arguments, recipe.training, recipe.model)
    return next((getattr(part, key) for part in parts if hasattr(part, key)), recipe.resolved.get(key))
