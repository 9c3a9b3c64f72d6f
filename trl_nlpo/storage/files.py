"""Files that are whole or not there, and a full disk, told from other failures and said in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import DiskFullError
from .checkpoint_folder import UNFINISHED, checkpoint_bytes


_FULL = {errno.ENOSPC, errno.EDQUOT}
# What safetensors, which is Rust, makes of it.
_SAID = ("No space left on device", "Disk quota exceeded", "(os error 28)", "(os error 122)")
# `torch.save` only says that a write failed. That it was for want of room shows on the disk.
_SAID_BY_TORCH = ("inline_container", "PytorchStreamWriter failed writing")
_NO_ROOM = 1_000_000


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error, or one that it came from, says that there is no room on the disk that `folder` is on."""
    has_room = shutil.disk_usage(folder).free > _NO_ROOM
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(words in str(seen) for words in (_SAID if has_room else _SAID + _SAID_BY_TORCH)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextlib.contextmanager
def explain_full_disk(folder: Path, what: str, last_checkpoint: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into one line.

    Args:
        folder (`Path`): where was to be written.
        what (`str`): what was to be written.
        last_checkpoint (`Path`, *optional*): the newest whole one; the next is taken to be as large.

    Raises:
        DiskFullError: says what is needed, as far as that is known, and what is free.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_disk_full(error, folder):
            raise
        written = _bytes_in(folder / UNFINISHED)
        needed = max(written, 0 if last_checkpoint is None else checkpoint_bytes(last_checkpoint))
        free = shutil.disk_usage(folder).free + written
        size = f" of {'about' if needed > written else 'more than'} {_readable(needed)}" if needed else ""
        goes_on = "" if last_checkpoint is None else f"; {last_checkpoint} is whole, go on from there with --resume"
        raise DiskFullError(
            f"The disk is full: there is no room for {what}{size} in {folder}, where {_readable(free)} are free. "
            f"Make room, or keep fewer checkpoints with save_total_limit{goes_on}."
        ) from error


def replace_file(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader never sees half a file, and a crash leaves the old or the new one.

    Raises:
        DiskFullError: there is no room; the old file is still there.
    """
    temporary = path.parent / f".{path.name}.part"
    with explain_full_disk(path.parent, path.name):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _readable(size: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size = size / 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"
