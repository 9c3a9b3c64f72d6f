"""One value of a recipe, as YAML or the command line has it, turned into the type that its field asks for."""

from __future__ import annotations

import difflib
import enum
import json
import math
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

import yaml


_MOST_NAMED = 12
"""Choices that an error message lists; thirty optimizers would fill the screen."""

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


class WrongValueError(ValueError):
    """A value that does not fit; the message says what would: "a whole number"."""


def convert(value: Any, hint: Any, choices: Sequence[str] | None = None) -> Any:
    """`value` as the type `hint`.

    Text is read as numbers, true/false, null or JSON where the type is one of these: the command line has only text,
    and YAML 1.1 takes `1e-4` for text. Its `no`, which it takes for false, is "no" where that is a choice.

    Args:
        value: what was given; a list of texts from several words on the command line.
        hint: a type: `int`, `float`, `bool`, `str`, `Literal`, an enum, `list[...]`, `dict`, or a union of these.
        choices (`Sequence[str]`, *optional*): the only values allowed.

    Raises:
        WrongValueError: it does not fit.
    """
    members = _members(hint)
    choices = list(choices) if choices else _choices(members)
    optional = type(None) in members
    if value is None or (isinstance(value, str) and value.lower() == "null"):
        return _required(None, optional, members, choices)
    if choices:
        return _choice(value, choices, optional, members)
    if isinstance(value, str) and value.lower() == "none" and optional and str not in members:
        return None
    if str not in members and any((get_origin(member) or member) is list for member in members):
        value = _as_list(value)
    for member in sorted(members, key=_strictness):
        converter = _CONVERTERS.get(get_origin(member) or member)
        if converter is None:
            if member is not type(None):
                return value
            continue
        try:
            return converter(value, member)
        except WrongValueError:
            continue
    raise WrongValueError(expected(members, choices))


def expected(members: Sequence[Any], choices: Sequence[Any]) -> str:
    """What would have fitted, in words."""
    if choices:
        words = [f"one of {', '.join(repr(choice) for choice in choices)}"]
    else:
        words = list(
            dict.fromkeys(_WORDS[kind] for member in members if (kind := get_origin(member) or member) in _WORDS)
        )
    return " or ".join([*words, "null"] if type(None) in members else words)


def described(hint: Any, choices: Sequence[str] | None = None, most: int = _MOST_NAMED) -> str:
    """What a type takes, in words.

    Args:
        hint, choices: as for [`convert`].
        most (`int`): where there are more choices than these, their number is given instead.
    """
    members = _members(hint)
    every = list(choices) if choices else _choices(members)
    if len(every) <= most:
        return expected(members, every)
    return f"one of {len(every)} names{' or null' if type(None) in members else ''}"


def as_yaml(value: Any) -> str:
    """A value in one line of YAML."""
    plain = value.value if isinstance(value, enum.Enum) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, flat."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for argument in get_args(hint) for member in _members(argument))
    return (hint,)


def _choices(members: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for member in members:
        if isinstance(member, type) and issubclass(member, enum.Enum):
            found += [item.value for item in member]
        elif get_origin(member) is Literal and str not in members:
            found += get_args(member)
    return found


def _choice(value: Any, choices: list[Any], optional: bool, members: Sequence[Any]) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is False and "no" in choices:
        return "no"
    if isinstance(value, (str, bool, int)) and value in choices:
        return value
    if isinstance(value, str) and value.lower() == "none" and optional:
        return None
    if len(choices) <= _MOST_NAMED:
        raise WrongValueError(expected(members, choices))
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise WrongValueError(f"one of {len(choices)} names{hint}")


def _required(value: None, optional: bool, members: Sequence[Any], choices: Sequence[Any]) -> None:
    if not optional:
        raise WrongValueError(expected(members, choices))
    return value


def _bool(value: Any, _: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, int)) and str(value).lower() in _TRUE + _FALSE:
        return str(value).lower() in _TRUE
    raise WrongValueError


def _int(value: Any, _: Any) -> int:
    number = _float(value, float)
    if not math.isfinite(number) or number != int(number):
        raise WrongValueError
    return value if isinstance(value, int) else int(number)


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise WrongValueError
    try:
        # YAML's way to write infinity, from a command line too.
        number = float(value.replace(".inf", "inf") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        raise WrongValueError from None
    if math.isnan(number):
        raise WrongValueError
    return number


def _str(value: Any, _: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise WrongValueError
    return str(value)


def _list(value: Any, hint: Any) -> list[Any]:
    items = _json(value, "[")
    if not isinstance(items, list):
        raise WrongValueError
    arguments = get_args(hint)
    return [convert(item, arguments[0]) for item in items] if arguments else items


def _as_list(value: Any) -> Any:
    """A single value where only a list will do, unless it is a list in JSON (or an attempt at one)."""
    is_list = isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))
    return value if is_list else [value]


def _dict(value: Any, _: Any) -> dict[str, Any]:
    parsed = _json(value, "{")
    if not isinstance(parsed, dict):
        raise WrongValueError
    return parsed


def _json(value: Any, opening: str) -> Any:
    if isinstance(value, str) and value.lstrip().startswith(opening):
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            raise WrongValueError from None
    return value


def _strictness(member: Any) -> int:
    """Unions are tried from the type that takes least to the one that takes most."""
    order = [dict, list, bool, int, float, str]
    kind = get_origin(member) or member
    return order.index(kind) if kind in order else len(order)


_CONVERTERS = {bool: _bool, int: _int, float: _float, str: _str, list: _list, dict: _dict}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping (or JSON such as '{\"top_k\": 50}')",
}
