"""What is said of every key of a recipe, and of those of other commands: `trl-nlpo keys`."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

import yaml

from ..display import in_yamls_words
from ..errors import UserError
from ..naming import did_you_mean
from . import arguments
from .inherited_help import INHERITED_HELP
from .keys import name_here, recipe_fields
from .recipe import RECIPE_DEFAULTS, classes_of_keys
from .themes import NEVER_OFF, OFF, THEMES, place_in_theme, theme_of
from .values import as_yaml, described


OTHERS = "Others"
"""Theme of keys that the installed transformers or TRL has and no theme names."""

WITHOUT_EFFECT = "Accepted, without effect here"
REFUSED = "Refused unless left at the default"

_INDENT = " " * 6
_JSON = re.compile(r" \(or JSON [^)]*\)")


@dataclass(frozen=True)
class Key:
    """A key of a recipe.

    Attributes:
        name (`str`)
        theme (`str`): what it is about.
        default (`str`): as YAML has it.
        values (`str`): type and range, in words.
        help (`str`): what it means: a sentence at least.
        off (`str`, *optional*): the value that switches off what it does; None where none does.
    """

    name: str
    theme: str
    default: str
    values: str
    help: str
    off: str | None = None


def all_keys(most_choices: int = 12) -> list[Key]:
    """Every key that a recipe may have, in the order of the themes; those without effect and the refused ones last.

    Args:
        most_choices (`int`): where a key has more than these, their number is given instead.
    """
    found = [Key("env", "Run", "null", "a mapping or null", _ENV, "null")]
    for name, (cls, item) in _fields().items():
        theme, text = _theme_and_help(name, cls, item)
        hint = get_type_hints(cls)[name]
        values = _JSON.sub("", described(hint, item.metadata.get("choices"), most_choices))
        default = _default(item)
        off = None if theme in (WITHOUT_EFFECT, REFUSED) else _off(name, default, values)
        found.append(Key(name, theme, default, _with_range(name, values), text, off))
    order = [*THEMES, OTHERS, WITHOUT_EFFECT, REFUSED]
    return sorted(found, key=lambda key: (order.index(key.theme), place_in_theme(key.name, key.theme)))


def keys_of_command(command: str, cls: type) -> list[Key]:
    """The keys of a command that is given no recipe, or keys beside a recipe's.

    Args:
        command (`str`): as it is typed; the keys' theme.
        cls (`type`): the dataclass of its keys.
    """
    found = []
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        values = described(hints[item.name], item.metadata.get("choices"), 1000)
        is_needed = item.default is item.default_factory is dataclasses.MISSING
        default = "must be given" if is_needed else _own_default(item)
        found.append(Key(item.name, command, default, values, _sentence(_own_help(item))))
    return found


def keys_named(words: Sequence[str]) -> list[Key]:
    """The keys of a recipe that have one of the words in their name; all for no words.

    Raises:
        UserError: none has one of them; the message has the nearest name, or what another trainer's name is here.
    """
    if not words:
        return all_keys()
    # Of few keys every choice can be listed.
    return meant_keys(all_keys(most_choices=1000), words, "trl-nlpo keys")


def meant_keys(keys: Sequence[Key], words: Sequence[str], lists_all: str) -> list[Key]:
    """Those keys that have one of the words in their name; all for no words.

    Args:
        keys (`Sequence[Key]`), words (`Sequence[str]`)
        lists_all (`str`): the command that lists all of them, for the message.

    Raises:
        UserError: no key has a word in its name.
    """
    for word in words:
        if not any(_is_meant(word, key) for key in keys):
            there = name_here(_spelled(word))
            hint = f": {there}." if there else did_you_mean(_spelled(word), [key.name for key in keys]) or "."
            raise UserError(f"no key has {word!r} in its name{hint} `{lists_all}` lists all.")
    return [key for key in keys if not words or any(_is_meant(word, key) for word in words)]


def key_lines(keys: Sequence[Key], width: int) -> Iterator[tuple[str, bool]]:
    """The lines of a list of keys, each with whether it is a heading.

    Args:
        keys (`Sequence[Key]`): sorted by theme.
        width (`int`): of the screen, in characters.
    """
    theme = ""
    for key in keys:
        if key.theme != theme:
            yield from [("", False)] if theme else []
            theme = key.theme
            yield theme, True
        yield from ((line, False) for line in _wrapped(f"  {key.name}: {key.default}", width, _INDENT))
        yield from ((line, False) for line in _wrapped(_INDENT + _about_values(key), width, _INDENT))
        yield from ((line, False) for line in _wrapped(_INDENT + key.help, width, _INDENT))


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _about_values(key: Key) -> str:
    if key.off is None:
        return f"{key.values}."
    is_off = yaml.safe_load(key.off.partition(" (")[0]) == yaml.safe_load(key.default)
    return f"{key.values}. Off: {key.off}{' (the default)' if is_off else ''}."


def _is_meant(word: str, key: Key) -> bool:
    return _spelled(word) in key.name


def _spelled(word: str) -> str:
    """A word as names have it: somebody may give `--learning-rate`."""
    return word.removeprefix("--").replace("-", "_").lower()


_ENV = "Environment variables to set before anything is imported, such as {CUDA_VISIBLE_DEVICES: 0}. null: none."


def _fields() -> dict[str, tuple[type, dataclasses.Field[Any]]]:
    """Every key with the field behind it, and the class that the key is read for."""
    known = recipe_fields(classes_of_keys())
    found: dict[str, tuple[type, dataclasses.Field[Any]]] = {}
    for cls in reversed(classes_of_keys()):
        found |= {item.name: (cls, item) for item in dataclasses.fields(cls) if item.name in known}
    return found


def _theme_and_help(name: str, cls: type, item: dataclasses.Field[Any]) -> tuple[str, str]:
    from ..config import inherited_settings as inherited

    if cls is not arguments.RecipeArguments:
        if name in inherited.REFUSED:
            return REFUSED, _sentence(_capital(inherited.REFUSED[name]))
        if name in inherited.WITHOUT_EFFECT:
            return WITHOUT_EFFECT, _sentence(_capital(inherited.WITHOUT_EFFECT[name]))
        if name in inherited.ALWAYS_SO:
            return WITHOUT_EFFECT, "It is done in one way here, whatever the key says."
        if name in inherited.FOR_SCRIPTS:
            return WITHOUT_EFFECT, "Only scripts of other libraries read it."
    return theme_of(name) or OTHERS, _sentence(INHERITED_HELP.get(name) or _own_help(item))


def _own_help(item: dataclasses.Field[Any]) -> str:
    return str(item.metadata.get("help") or "")


def _sentence(text: str) -> str:
    """A help text as it is shown: in YAML's words, and with a full stop."""
    # argparse wants percent signs doubled.
    text = in_yamls_words(" ".join(text.replace("%%", "%").split()))
    # Back-ticks are for documents.
    text = text.replace("`", "")
    return f"{text}." if text and not text.endswith((".", ".)")) else text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _default(item: dataclasses.Field[Any]) -> str:
    if item.name == "output_dir":
        return "runs/<recipe>"
    if item.name in RECIPE_DEFAULTS:
        return as_yaml(RECIPE_DEFAULTS[item.name])
    return _own_default(item)


def _own_default(item: dataclasses.Field[Any]) -> str:
    made = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
    return as_yaml(None if made is dataclasses.MISSING else made)


def _with_range(name: str, values: str) -> str:
    """Type and range: what is checked of a value, in the words of the check."""
    from ..config import range_of

    wanted = range_of(name) or arguments.range_of(name)
    if wanted is None:
        return values
    # What follows is said to those who gave another value.
    wanted = re.split("[:;]", wanted.replace("None", "null"))[0]
    if wanted.startswith(("'", "a number", "two numbers")):
        return wanted
    return f"{values.removesuffix(' or null') if 'null' in wanted else values}, {wanted}"


def _off(name: str, default: str, values: str) -> str | None:
    if name in OFF:
        return OFF[name]
    if values.startswith("true or false") and default != "null":
        return "false"
    return "null" if name not in NEVER_OFF and "null" in values.split(" or ") else None
