"""Reward functions by name: the built-in ones, and anything importable by its dotted path."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError


# Dotted paths, so that naming one reward imports no other, nor the package it may need.
_BUILT_IN: dict[str, tuple[str, dict[str, Any]]] = {
    "concept_coverage": ("trl_nlpo.rewards.concepts.ConceptCoverage", {}),
    "rouge1": ("trl_nlpo.rewards.overlap.Rouge", {"kind": "rouge1"}),
    "rouge2": ("trl_nlpo.rewards.overlap.Rouge", {"kind": "rouge2"}),
    "rougeL": ("trl_nlpo.rewards.overlap.Rouge", {"kind": "rougeL"}),
    "rougeLsum": ("trl_nlpo.rewards.overlap.Rouge", {"kind": "rougeLsum"}),
    "grammatical": ("trl_nlpo.tasks.quickstart.Grammatical", {}),
    "pleasant_sentence": ("trl_nlpo.tasks.quickstart.PleasantSentence", {}),
}


def built_in_names() -> list[str]:
    """Names that [`get_reward`] knows, sorted."""
    return sorted(_BUILT_IN)


def get_reward(name: str, **options: Any) -> Callable[..., list[float | None]]:
    """A reward function by its name or dotted path.

    Args:
        name (`str`): a built-in (`built_in_names()`), or `my_module.my_reward`: a function with TRL's signature, or a
            class whose instances are one. Modules in the working directory are found, as in TRL's scripts.
        options: arguments of the class, or fixed keywords of the function.

    Returns:
        A callable with TRL's signature.

    Raises:
        UserError: nothing of that name, no such option, or not callable.

    Example:
        >>> get_reward("rougeL", use_stemmer=False).__name__
        'rougeL'
    """
    if name in _BUILT_IN:
        path, fixed = _BUILT_IN[name]
        return _instantiate(_import(path, name), name, options, fixed)
    if "." not in name:
        hint = did_you_mean(name, _BUILT_IN) or "."
        raise UserError(
            f"unknown reward {name!r}{hint} Take one of {', '.join(built_in_names())}, or the dotted path of a "
            "function, such as my_module.my_reward."
        )
    found = _import(name, name)
    if inspect.isclass(found):
        return _instantiate(found, name, options, {})
    if not callable(found):
        raise UserError(f"reward {name!r} is {type(found).__name__}, not a function.")
    return functools.partial(found, **options) if options else found


def did_you_mean(word: str, known: Any) -> str:
    """`, did you mean 'x'?` for the nearest known word, or nothing."""
    # Case first: `rougel` is nearer to `rougeL` than difflib thinks.
    lowered = {name.lower(): name for name in sorted(known, reverse=True)}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1)
    return f", did you mean {lowered[near[0]]!r}?" if near else ""


def _instantiate(cls: type, name: str, options: dict[str, Any], fixed: dict[str, Any]) -> Any:
    parameters = inspect.signature(cls).parameters.values()
    own = [parameter for parameter in parameters if not _variadic(parameter) and parameter.name not in fixed]
    known = [parameter.name for parameter in own]
    flexible = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for option in options:
        if option not in known and not flexible:
            have = ", ".join(known) or "none"
            raise UserError(f"reward {name!r} has no option {option!r}{did_you_mean(option, known)}; it has: {have}.")
    for parameter in own:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise UserError(f"reward {name!r} needs an option: write {{name: {name}, {parameter.name}: ...}}.")
    return cls(**fixed, **options)


def _variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _import(path: str, name: str) -> Any:
    module_name, _, attribute = path.rpartition(".")
    cwd = str(Path.cwd())
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that the user's own module misses is told by the traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"reward {name!r}: there is no module {error.name!r} in {cwd} or among the installed packages."
        ) from None
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"reward {name!r}: {module_name} has no {attribute!r}{did_you_mean(attribute, known)}.")
    return getattr(module, attribute)
