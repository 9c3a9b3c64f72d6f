"""One value of a recipe, as YAML or the command line has it, turned into the type that its field asks for."""

from __future__ import annotations

import difflib
import enum
import json
import math
import re
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


class Words(list[Any]):
    """What a command line gives for a key in several words: texts, or mappings."""


class Repeated(list[Any]):
    """What a command line gives for a key that it has several times, once each."""


def last(value: Any) -> Any:
    """The value that counts where a key has only one."""
    return value[-1] if isinstance(value, Repeated) else value


def convert(value: Any, hint: Any, choices: Sequence[str] | None = None) -> Any:
    """`value` as the type `hint`.

    Text is read as numbers, true/false, null or JSON where the type is one of these: the command line has only text,
    and YAML 1.1 takes `1e-4` for text. Its `no`, which it takes for false, is "no" where that is a choice.

    Args:
        value: what was given; [`Words`] and [`Repeated`] from a command line. A list may be spelled `a,b`,
            `[a, b]`, as several words, or by giving the key again; of a key without a list the last counts.
        hint: a type: `int`, `float`, `bool`, `str`, `Literal`, an enum, `list[...]`, `dict`, or a union of these.
        choices (`Sequence[str]`, *optional*): the only values allowed.

    Raises:
        WrongValueError: it does not fit.
    """
    members = _members(hint)
    choices = list(choices) if choices else _choices(members)
    optional = type(None) in members
    takes_list = any((get_origin(member) or member) is list for member in members)
    value = value if takes_list else last(value)
    if value is None or (isinstance(value, str) and value.lower() == "null"):
        return _required(None, optional, members, choices)
    if choices:
        return _choice(value, choices, optional, members)
    if isinstance(value, str) and value.lower() == "none" and optional and str not in members:
        return None
    if takes_list:
        value = _as_list(value, members, choices)
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
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
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
    if not isinstance(value, list):
        raise WrongValueError
    arguments = get_args(hint)
    return [convert(item, arguments[0]) for item in value] if arguments else list(value)


def _as_list(value: Any, members: Sequence[Any], choices: Sequence[Any]) -> Any:
    """The list that a value spells, where a list fits; a value that spells none and may be one is left as it is."""
    takes_text = str in members or dict in members
    if isinstance(value, (Words, Repeated)):
        return [item for word in value for item in _items_of(word, members, choices)]
    if isinstance(value, str):
        items = _items_of(value, members, choices)
        is_one = len(items) == 1 and not value.lstrip().startswith("[")
        return items[0] if is_one and takes_text else items
    return value if isinstance(value, list) or takes_text else [value]


def _items_of(word: Any, members: Sequence[Any], choices: Sequence[Any]) -> list[Any]:
    """The entries that a word of a list stands for: `a`, `a,b`, `[a, b]`, `{name: a},{name: b}`."""
    if isinstance(word, (Words, list)):
        return [item for inner in word for item in _items_of(inner, members, choices)]
    if not isinstance(word, str):
        return [word]
    is_bracketed = word.lstrip().startswith("[")
    # A regular expression may have commas too.
    if not is_bracketed and ("," not in word or _PATTERN.search(word)) and not word.lstrip().startswith("{"):
        return [word]
    text = word if is_bracketed else f"[{word}]"
    try:
        # Of texts the spelling counts (`no`, `1e-4`), and only what is in mappings has types of its own.
        plain, typed = yaml.load(text, Loader=yaml.BaseLoader), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        plain, typed = None, None
    if not isinstance(plain, list) or not isinstance(typed, list) or "" in plain:
        raise WrongValueError(expected(members, choices))
    return [mean if isinstance(mean, (dict, list)) else said for said, mean in zip(plain, typed, strict=True)]


_PATTERN = re.compile(r"[()\\|*^$+?]")


def _dict(value: Any, _: Any) -> dict[str, Any]:
    parsed = _mapping_in(value) if isinstance(value, str) and value.lstrip().startswith("{") else value
    if not isinstance(parsed, dict):
        raise WrongValueError
    return parsed


def _mapping_in(text: str) -> Any:
    """What is written as JSON, or else as YAML, which needs fewer quotes."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise WrongValueError from None


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
