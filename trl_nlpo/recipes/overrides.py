"""Keys given on the command line."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, TypeVar

import yaml

from ..errors import UserError, one_line
from .keys import converted, recipe_fields
from .values import Repeated, Words


T = TypeVar("T")


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`--key value`, `--key=value`, `--key a b c` (a list) and a lone `--key` (true); hyphens are underscores.

    A list's words may be mappings: `--metrics rouge '{"name": "bleu", "lowercase": true}'`. A key that is there
    several times has all its values, as [`Repeated`].

    Raises:
        UserError: a word that belongs to no key, or that begins as a mapping and is none.
    """
    found: dict[str, list[list[str]]] = {}
    key = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            found.setdefault(key, []).append([value] if equals else [])
        elif key is None:
            raise UserError(f"unexpected {word!r}: recipe keys are given as `--key value`.")
        else:
            found[key][-1].append(word)
    values = {key: [_value(key, given) for given in times] for key, times in found.items()}
    return {key: given[0] if len(given) == 1 else Repeated(given) for key, given in values.items()}


def _value(key: str, words: list[str]) -> Any:
    if len(words) < 2:
        return words[0] if words else True
    return Words(_entry(key, word) for word in words)


def without_keys(words: Sequence[str], keys: Container[str]) -> list[str]:
    """The words of a command line but those of some keys."""
    kept: list[str] = []
    keeps = True
    for word in words:
        if word.startswith("--") and len(word) > 2:
            keeps = word[2:].partition("=")[0].replace("-", "_") not in keys
        if keeps:
            kept.append(word)
    return kept


def words_of(cls: type, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that are about the fields of a dataclass, and the others."""
    names = recipe_fields((cls,), refused=())
    own: list[str] = []
    rest: list[str] = []
    place = rest
    for word in words:
        if word.startswith("--") and len(word) > 2:
            key = word[2:].partition("=")[0].replace("-", "_")
            place = own if key in names else rest
        place.append(word)
    return own, rest


def _entry(key: str, word: str) -> Any:
    """A word of a list: a text, or the mapping that it is."""
    if not word.lstrip().startswith("{"):
        return word
    try:
        entry = yaml.safe_load(word)
    except yaml.YAMLError as error:
        raise UserError(f"command line: {key} has {word!r}, which is no mapping: {one_line(error, 200)}") from None
    return entry


def arguments_from(cls: type[T], values: dict[str, Any], overrides: Sequence[str]) -> T:
    """An instance of a dataclass from values and the words of a command line.

    Args:
        cls (`type`): the dataclass.
        values (`dict`): of its fields, as they are.
        overrides (`Sequence[str]`): keys for further fields, as [`parse_overrides`] reads them.

    Raises:
        UserError: an unknown key, or a value that does not fit its field.
    """
    # What a recipe may not set is a name like any other here: batch_size.
    fields = recipe_fields((cls,), refused=())
    given = parse_overrides(overrides).items()
    return cls(**{**values, **{key: converted(key, value, "command line", fields) for key, value in given}})
