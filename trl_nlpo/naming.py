"""From a name to what it names: dotted paths, packages, options and their checks, and the nearest known name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UserError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the nearest known word, or nothing."""
    # Case first: `rougel` is nearer to `rougeL` than difflib thinks.
    lowered = {name.lower(): name for name in sorted(known, reverse=True)}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1)
    return f", did you mean {lowered[near[0]]!r}?" if near else ""


def import_attribute(path: str, who: str, separator: str = ".") -> Any:
    """What a dotted path (`package.module.name`, or `package.module:name`) names.

    Modules in the working directory are found, as in TRL's scripts.

    Args:
        path (`str`)
        who (`str`): how messages call the thing, `"reward 'my_module.mine'"`.
        separator (`str`): the character before the last name.

    Raises:
        UserError: no such module, or nothing of that name in it.
    """
    module_name, _, attribute = path.rpartition(separator)
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(f"{who}: this is no path of a module and a name in it, such as my_module{separator}my_name.")
    cwd = str(Path.cwd())
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Where the user's own module imports one that is missing, the traceback says so best.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"{who}: there is no module {error.name!r} in {cwd} or among the installed packages."
        ) from None
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{who}: {module_name} has no {attribute!r}{did_you_mean(attribute, known)}.")
    return getattr(module, attribute)


def require_package(module: str, who: str, extra: str = "metrics") -> ModuleType:
    """A module of an optional package, imported.

    Args:
        module (`str`): dotted, `"rouge_score.rouge_scorer"`; its first part, with hyphens, is the package's name.
        who (`str`): what needs it, for messages: `"metric 'rougeL'"`.
        extra (`str`): the extra of `trl-nlpo` that installs it.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0].replace("_", "-")
        raise UserError(
            f'{who} needs the package {package}: install it with `pip install "trl-nlpo[{extra}]"`.'
        ) from None


def check_int(who: str, name: str, value: Any, least: int, what: str = "a whole number") -> None:
    """Check an option that counts something; True and False, which Python takes for 1 and 0, are not numbers here.

    Args:
        who (`str`): whose option, for messages: `"metric 'msttr'"`.
        name (`str`): the option.
        value: what was given.
        least (`int`): the smallest value allowed.
        what (`str`): what is counted: `"a number of tokens"`.

    Raises:
        UserError: not an `int`, or less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{who}: {name} must be {what} from {least}, not {value!r}.")


def instantiate(cls: type, name: str, options: dict[str, Any], fixed: dict[str, Any], what: str) -> Any:
    """An instance of a class from the options that a recipe gives.

    Args:
        cls (`type`)
        name (`str`): the name in the recipe.
        options (`dict`): from the recipe.
        fixed (`dict`): what the name itself decides.
        what (`str`): `"reward"` or `"metric"`, for messages.

    Raises:
        UserError: an option that the class does not have, or one that it needs.
    """
    parameters = inspect.signature(cls).parameters.values()
    own = [parameter for parameter in parameters if not _variadic(parameter) and parameter.name not in fixed]
    known = [parameter.name for parameter in own]
    flexible = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for option in options:
        if option not in known and not flexible:
            have = ", ".join(known) or "none"
            raise UserError(f"{what} {name!r} has no option {option!r}{did_you_mean(option, known)}; it has: {have}.")
    for parameter in own:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise UserError(f"{what} {name!r} needs an option: write {{name: {name}, {parameter.name}: ...}}.")
    return cls(**fixed, **options)


def _variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
