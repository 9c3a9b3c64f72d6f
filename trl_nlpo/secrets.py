"""What is secret is neither written nor printed: [`redacted`] is what everything goes through that leaves the process.

A value is secret by the name that it was given under (`hub_token`, `api_key`, `DB_PASSWD`), by its shape
(`https://user:password@host`, `hf_...`), or because it was secret before: what [`note_secrets`] has seen under such a
name, and the values of environment variables with such names, are recognized wherever they turn up.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote


HIDDEN = "<hidden>"
"""What is written in the place of a secret."""

_SECRET = re.compile(
    r"secret|passw|passphrase|pwd|credential|apikey|bearer|authorization|private_key|token"
    r"|(^|_)(pat|auth|jwt|cookie|dsn)(_|$)|_keys?(_|$)|^key_"
)
_SECRET_NUMBER = re.compile(r"secret|passw|passphrase|pwd|credential")
_HARMLESS = re.compile(
    # Tokens of a text, not of a service; keys of a table.
    r"tokeniz|token_(type|ids?|level|mask)|tokens_(per|seen|across)|_token_ids?$"
    r"|(^|_)(stop|eos|bos|pad|mask|unk|cls|sep|end|start|image|audio|video|special)_tokens?$"
    r"|(^|_)(min|max|num|new|mean|total|suppress|prompt|completion|input|output)_tokens?(_|$)"
    r"|(sort|group|join|primary|foreign|column|row|json|dict)_keys?$|key_value"
    # What Python raises: `KeyError: 'name'`.
    r"|_(error|exception|warning|interrupt)$"
)
_URL_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s/@'\"<>]+)@")
_VALUE = r"\"[^\"]*\"|'[^']*'|[^\s\"',;&(){}\[\]]+"
_ASSIGNMENT = re.compile(rf"([A-Za-z][\w.-]*)([\"']?\s*[:=]\s*)(?!//)({_VALUE})")
_OPTION = re.compile(rf"(--[A-Za-z][\w-]*)(\s+)(?!--)({_VALUE})")
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[\w-]{16,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bxox[a-z]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"
    r"|(?<=Bearer )[\w.~+/=-]{6,}|(?<=Basic )[\w+/=]{8,}"
)
_SHORTEST = 6
"""A shorter value is hidden where its name stands, but not looked for elsewhere: "abc" is part of too much."""

_known: set[str] = set()


@functools.lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether what is called so is secret: `api_key`, `HF_TOKEN`, `MY_PAT`; not `stop_token` or `max_new_tokens`."""
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
    return bool(_SECRET.search(words)) and not _HARMLESS.search(words)


def note_secrets(value: Any, name: str = "") -> None:
    """Remember what is secret in a value, so that it is recognized wherever it turns up.

    Args:
        value: a text, or mappings and sequences of them.
        name (`str`, *optional*): what the value is called.
    """
    _known.update(secret for secret in _secrets_in(value, name) if len(secret) >= _SHORTEST)


def note_words(words: Sequence[str]) -> None:
    """As [`note_secrets`], of the words of a command line."""
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, word = word[2:].partition("=")
        note_secrets(_parsed(word), name)


def redacted(value: Any, name: str = "", known_only: bool = False) -> Any:
    """A value without what is secret in it: [`HIDDEN`] stands in its place.

    Args:
        value: a text, or mappings, lists and tuples of them; anything else is returned as it is.
        name (`str`, *optional*): what the value is called.
        known_only (`bool`): hide only what is known to be secret, and nothing because of its looks: for data, in which
            "password: swordfish" is a text like others.

    Returns:
        The same kind of value.
    """
    if _is_secret(value, name) and not known_only:
        return HIDDEN
    if isinstance(value, str):
        text = _without_known(value)
        return text if known_only else _without_suspicious(text)
    if isinstance(value, Mapping):
        return {key: redacted(item, str(key), known_only) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [redacted(item, "", known_only) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def redacted_words(words: Sequence[str]) -> list[str]:
    """The words of a command line without what is secret in them."""
    found, name = [], ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            shown = redacted(value, name) if equals else ""
            found.append(f"--{name}{equals}{shown}")
        else:
            parsed = _parsed(word)
            is_text = isinstance(parsed, str) or _is_secret(parsed, name)
            found.append(redacted(word, name) if is_text else json.dumps(redacted(parsed)))
    return found


def without_secret_keys(value: Any) -> Any:
    """A value without what is secret in it, which can be used again: secret entries of mappings are left out."""
    if isinstance(value, Mapping):
        return {key: without_secret_keys(item) for key, item in value.items() if not _is_secret(item, str(key))}
    if isinstance(value, list):
        return [without_secret_keys(item) for item in value]
    # Of a text only what cannot be anything else: "password: {prompt}" may be the template of a prompt.
    return _without_shapes(_without_known(value)) if isinstance(value, str) else value


@contextmanager
def redacted_output() -> Iterator[None]:
    """Hide known secrets in whatever this process prints, by whichever library.

    After an error that nobody handles it stays so, as Python prints the traceback later.
    """
    own = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Redacting(own[0]), _Redacting(own[1])
    try:
        yield
    except SystemExit:
        sys.stdout, sys.stderr = own
        raise
    sys.stdout, sys.stderr = own


class _Redacting:
    """A text stream that hides known secrets in what is written to it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, and say how much was to be written."""
        self._stream.write(_without_known(text))
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write all."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_secret(value: Any, name: str) -> bool:
    if not name or value is None or isinstance(value, bool) or value in ("", HIDDEN) or not is_secret_name(name):
        return False
    return not isinstance(value, (int, float)) or bool(_SECRET_NUMBER.search(name.lower()))


def _secrets_in(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets_in(item, name if _is_secret(item, name) else str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets_in(item, name)
    elif _is_secret(value, name):
        yield str(value)
    elif isinstance(value, str):
        for login in _URL_LOGIN.findall(value):
            yield login[1]
            yield unquote(login[1].rpartition(":")[2])
        if (parsed := _parsed(value)) is not value:
            yield from _secrets_in(parsed, name)


def _parsed(word: str) -> Any:
    """A word of a command line: a mapping or list where it is one in JSON."""
    if word.lstrip().startswith(("{", "[")):
        try:
            return json.loads(word)
        except ValueError:
            return word
    return word


def _without_known(text: str) -> str:
    for secret in sorted({*_known, *_of_environment()}, key=len, reverse=True):
        for form in {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret)}:
            if form in text:
                text = text.replace(form, HIDDEN)
    return text


def _of_environment() -> Iterator[str]:
    """Values of variables with secret names. Not short ones, nor plain words, which texts may hold by chance."""
    for name, value in os.environ.items():
        if is_secret_name(name) and len(value) >= 8 and not re.fullmatch(r"[a-z]{1,11}|[\d.]+|/.*", value):
            yield value


def _without_suspicious(text: str) -> str:
    text = _without_shapes(text)
    for pattern in (_ASSIGNMENT, _OPTION):
        text = pattern.sub(_hide_assigned, text)
    return text


def _without_shapes(text: str) -> str:
    return _SHAPES.sub(HIDDEN, _URL_LOGIN.sub(rf"\1{HIDDEN}@", text))


def _hide_assigned(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    bare = value.strip("\"'")
    number = int(bare) if bare.isdecimal() else bare
    # "unknown key 'api_key': it is ..." is a sentence.
    is_prose = bare == value and re.fullmatch(r"[a-z]+\.?", bare) and ":" in between and not name.isupper()
    if HIDDEN in bare or is_prose or bare.lower() in ("true", "false", "none") or not _is_secret(number, name):
        return match.group()
    return f"{name}{between}{HIDDEN}"
