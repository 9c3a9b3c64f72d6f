"""Keys given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from .keys import converted, recipe_fields


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`--key value`, `--key=value`, `--key a b c` (a list) and a lone `--key` (true); hyphens are underscores.

    Raises:
        UserError: a word that belongs to no key.
    """
    found: dict[str, Any] = {}
    key = None
    for word in words:
        if word.startswith("--") and len(word) > 2:
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            found[key] = [value] if equals else []
        elif key is None:
            raise UserError(f"unexpected {word!r}: recipe keys are given as `--key value`.")
        else:
            found[key].append(word)
    return {key: True if not words else words[0] if len(words) == 1 else words for key, words in found.items()}


def arguments_from(cls: type, values: dict[str, Any], overrides: Sequence[str]) -> Any:
    """An instance of a dataclass from values and the words of a command line.

    Raises:
        UserError: an unknown key, or a value that does not fit its field.
    """
    fields = recipe_fields((cls,))
    converted = {
        key: converted(key, value, "command line", fields) for key, value in parse_overrides(overrides).items()
    }
    return cls(**values, **converted)
