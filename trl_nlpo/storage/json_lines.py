"""JSON Lines, the one reader and the one writer: a JSON value on each line.

Lines end at line feeds only. A text may hold other separators, such as U+2028 or U+0085, which JSON does not escape
and at which `str.splitlines` would break a line in two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..secrets import redacted
from .files import replace_file


def read_json_lines(path: Path, growing: bool = False) -> Iterator[tuple[int, Any]]:
    """The number (from 1) and the value of every line that is not blank.

    Args:
        path (`Path`): UTF-8, with or without a byte order mark.
        growing (`bool`, defaults to `False`): for a file that is still being written, or was when its process was
            killed: a last line without a line feed is left out.

    Raises:
        UserError: a line is not valid JSON, or not UTF-8; the message names file and line.
        OSError: the file cannot be opened.
    """
    number = 0
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip() and not (growing and not line.endswith("\n")):
                    yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error.msg}).") from None
        except UnicodeDecodeError as error:
            # Text is decoded in blocks, so the line is one of those that follow.
            raise UserError(f"{path}, after line {number}: not valid UTF-8 ({error.reason}).") from None


def write_json_lines(path: Path, values: Iterable[Any], default: Callable[[Any], Any] | None = None) -> None:
    """Replace a file by one with a line for each value; a crash leaves the old file or the new one.

    Args:
        path (`Path`)
        values (`Iterable`)
        default (*optional*): makes something that JSON has of what it has not, as in `json.dumps`.

    Raises:
        DiskFullError: there is no room; the old file is still there.
    """
    replace_file(path, "".join(json_line(value, default) for value in values))


def json_line(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """A value as its line, line feed included, without what is known to be secret."""
    return redacted(json.dumps(value, ensure_ascii=False, default=default), known_only=True) + "\n"
