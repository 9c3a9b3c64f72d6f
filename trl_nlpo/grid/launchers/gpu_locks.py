"""The GPUs of this machine, which the cells of one user take in turn, whichever command started them."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from ...errors import UserError


_PAUSE = 1.0
"""Seconds between two looks at a GPU that another cell has."""


def lock_folder() -> Path:
    """Where this user's locks are, for all commands with one TMPDIR: a file for each GPU that a cell has ever had."""
    return Path(tempfile.gettempdir()) / f"trl-nlpo-gpus-{os.getuid()}"


@contextmanager
def held_gpus(
    numbers: Sequence[int], say: Callable[[str], None], given_up: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Wait until no other cell has these GPUs, and have them until the block ends.

    The locks are the operating system's: those of a process that has died are free. Programs that are no cells of
    `--launcher local` have none.

    Args:
        numbers (`Sequence[int]`): of the GPUs. All processes take them in the same order, so that none waits for ever.
        say: prints a line, once for each GPU that is waited for.
        given_up: whether to wait no longer.

    Yields:
        `bool`: whether they are held; False where it was given up.

    Raises:
        UserError: the locks cannot be written.
    """
    with ExitStack() as files:
        # One after the other, and none after one that was given up.
        yield all(_is_held(files.enter_context(_opened(number)), number, say, given_up) for number in sorted(numbers))


def is_free(number: int) -> bool:
    """Whether no cell has a GPU at this moment.

    Raises:
        UserError: its lock cannot be written.
    """
    with _opened(number) as file:
        return _is_taken_now(file)


def _opened(number: int) -> IO[str]:
    path = lock_folder() / f"{number}.lock"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise UserError(f"{path}, by which cells take turns at GPU {number}, cannot be written: {error}.") from None


def _is_held(file: IO[str], number: int, say: Callable[[str], None], given_up: Callable[[], bool]) -> bool:
    if not _is_taken_now(file):
        say(f"waits for GPU {number}, which a cell of another command has")
        while not _is_taken_now(file):
            if given_up():
                return False
            time.sleep(_PAUSE)
    return True


def _is_taken_now(file: IO[str]) -> bool:
    """Try to have the lock, and say whether that went well."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
