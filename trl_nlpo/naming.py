"""From a name to what it names: dotted paths, packages, options and their checks, and the nearest known name."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.machinery
import importlib.util
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
    module_name, attribute = _module_and_name(path, who, separator)
    cwd = _with_working_directory()
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


def check_attribute(path: str, who: str, separator: str = ".") -> None:
    """Whether a dotted path names something, as far as that can be told without importing it: importing runs code.

    Args:
        path, who, separator (`str`): as for [`import_attribute`].

    Raises:
        UserError: no such module, or nothing of that name in it.
    """
    module_name, attribute = _module_and_name(path, who, separator)
    cwd = _with_working_directory()
    first, *others = module_name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except ValueError:
        # Made in this process, without a file.
        return
    name = first
    for part in others:
        if spec is None:
            break
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations or [])
    if spec is None:
        raise UserError(f"{who}: there is no module {name!r} in {cwd} or among the installed packages.")
    known = _defined_in(spec.origin)
    if known is not None and attribute not in known:
        near = [name for name in known if not name.startswith("_")]
        raise UserError(f"{who}: {module_name} has no {attribute!r}{did_you_mean(attribute, near)}.")


def _with_working_directory() -> str:
    """The working directory, which modules are looked for in."""
    cwd = str(Path.cwd())
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    return cwd


def _module_and_name(path: str, who: str, separator: str) -> tuple[str, str]:
    module_name, _, attribute = path.rpartition(separator)
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(f"{who}: this is no path of a module and a name in it, such as my_module{separator}my_name.")
    return module_name, attribute


def _defined_in(file: str | None) -> set[str] | None:
    """Names that a Python file defines anywhere; None where its text does not tell, as with `import *`."""
    if file is None or not file.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    is_open = {"*", "__getattr__"} & found or any(
        isinstance(node, ast.Call) and ast.unparse(node.func) in ("globals", "exec", "setattr")
        for node in ast.walk(tree)
    )
    return None if is_open else found


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
    check_options(cls, name, options, fixed, what)
    return cls(**fixed, **options)


def check_options(cls: type, name: str, options: dict[str, Any], fixed: dict[str, Any], what: str) -> None:
    """Raise a `UserError` for options that [`instantiate`] would refuse, without making an instance."""
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


def _variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
