"""What a reward model is trained with: keys of a YAML file, of a recipe that ships, or of the command line alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..naming import did_you_mean
from ..recipes.files import read_yaml, shipped_recipes
from ..recipes.keys import converted, recipe_fields
from ..recipes.overrides import arguments_from, words_of
from .classifier import ClassifierArguments
from .reward_model import RewardModelArguments


@dataclass
class _Kind:
    """The key that says whose arguments the others are."""

    kind: str = "auto"


def arguments_of(name: str, words: Sequence[str], out: str) -> RewardModelArguments | ClassifierArguments:
    """The arguments of `trl-nlpo train-reward`.

    Args:
        name (`str`): a file or folder with data, a YAML file of keys, or a recipe that ships.
        words (`Sequence[str]`): keys on the command line, which override those of a file.
        out (`str`): folder for the model.

    Raises:
        UserError: an unknown key, a value that does not fit, or no data.
    """
    recipe = _recipe(name)
    values, where = ({"data": name}, "command line") if recipe is None else (read_yaml(recipe), recipe.name)
    own, rest = words_of(_Kind, words)
    kind = arguments_from(_Kind, {"kind": values.pop("kind", "auto")}, own).kind
    cls: Any = RewardModelArguments
    if kind == "labels":
        cls = ClassifierArguments
    else:
        rest += ["--kind", kind]
    fields = recipe_fields((cls,), refused=())
    given = {key: converted(key, value, where, fields) for key, value in values.items()}
    if "data" not in given and not any(word.partition("=")[0] == "--data" for word in rest):
        raise UserError(f"{where} names no data: give --data FOLDER.")
    made: RewardModelArguments | ClassifierArguments = arguments_from(cls, {"data": "", **given, "out": out}, rest)
    return made


def reward_name(out: str) -> str:
    """How a recipe's `rewards` names the model in a folder: what has no slash would be a function's name."""
    return out if "/" in out else f"./{out}"


def _recipe(name: str) -> Path | None:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"recipe {name!r} is not there (looked in {Path.cwd()}).")
        return path
    if path.exists():
        return None
    shipped = shipped_recipes("reward_models")
    if name in shipped:
        return shipped[name]
    if path.parent != Path():
        return None
    raise UserError(
        f"{name!r} is no file or folder, and no recipe of a reward model{did_you_mean(name, shipped) or '.'} "
        f"There are: {', '.join(shipped)}."
    )
