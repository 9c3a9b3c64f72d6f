"""Single files: replaced in one step, read as JSON; and a full disk, recognized and explained in one line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DiskFullError, UserError, one_line
from ..secrets import redacted


UNFINISHED = "_unfinished"
"""Folder for what is being written or removed. Uploads to the Hub leave out names with this first letter."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
# What safetensors, which is Rust, makes of it.
_MESSAGES = ("No space left on device", "Disk quota exceeded", "(os error 28)", "(os error 122)")
# `torch.save` only says that a write failed. Whether the disk is full must be checked separately.
_MESSAGES_OF_TORCH = ("inline_container", "PytorchStreamWriter failed writing")
_NO_ROOM = 1_000_000
"""Bytes; with fewer free, a failed write of `torch.save` is taken for a full disk."""


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error, or one that it came from, says that there is no room on the disk that `folder` is on."""
    has_room = shutil.disk_usage(folder).free > _NO_ROOM
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(words in str(seen) for words in (_MESSAGES if has_room else _MESSAGES + _MESSAGES_OF_TORCH)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def check_folder(path: str | Path, setting: str) -> None:
    """Refuse a folder that cannot be made, or not be written into, before there is anything to write.

    Args:
        path (`str` or `Path`): need not exist.
        setting (`str`): what the user calls it.

    Raises:
        UserError: it, or a folder that it would be in, is a file or must not be written into.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{setting} {path} is a file: give a folder.")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(
            f"{setting} {path} cannot be written into: give another, or see to the permissions of {parent}."
        )


@contextlib.contextmanager
def explain_full_disk(folder: Path, what: str, last_checkpoint: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into one line.

    Args:
        folder (`Path`): where it was to be written.
        what (`str`): what was to be written.
        last_checkpoint (`Path`, *optional*): folder of the newest complete one; the next is taken to be as large.

    Raises:
        DiskFullError: says what is needed, as far as that is known, and what is free.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_disk_full(error, folder):
            raise
        written = _bytes_in(folder / UNFINISHED)
        needed = max(written, 0 if last_checkpoint is None else _bytes_in(last_checkpoint))
        free = shutil.disk_usage(folder).free + written
        size = f" of {'about' if needed > written else 'more than'} {_readable(needed)}" if needed else ""
        hint = "" if last_checkpoint is None else f"; {last_checkpoint} is complete, resume from it with --resume"
        raise DiskFullError(
            f"The disk is full: there is no room for {what}{size} in {folder}, where {_readable(free)} are free. "
            f"Make room, or keep fewer checkpoints with save_total_limit{hint}."
        ) from error


def replace_file(path: Path, text: str) -> None:
    """Write beside it and rename, so that no reader sees half a file, and a crash leaves the old one or the new one.

    Nothing that is known to be secret is written.

    Raises:
        DiskFullError: there is no room; the old file is still there.
    """
    # A name of its own, as several commands may write the table of one grid, from containers where each is process 1.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    try:
        with explain_full_disk(path.parent, path.name):
            with temporary.open("w", encoding="utf-8") as file:
                file.write(redacted(text, known_only=True))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path (`Path`)
        advice (`str`): what to do where it cannot be read, as the end of the message.

    Raises:
        UserError: there is no such file, or it is damaged; the message names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or one_line(error)}): {advice}.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): {advice}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (it holds {type(value).__name__} instead of an object): {advice}.")
    return value


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _readable(size: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size = size / 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"
