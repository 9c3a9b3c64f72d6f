"""What the command line says of an error that nobody foresaw: whose it is; its traceback goes into a file."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

from .errors import one_line
from .secrets import redacted


_LONGEST = 400

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
    errno.ENOENT,
)  # fmt: skip
_DAMAGED = (json.JSONDecodeError, UnicodeDecodeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError)
_DAMAGED_NAMES = (
    "SafetensorError",
    "YAMLError",
    "ScannerError",
    "ParserError",
    "ArrowInvalid",
    "DatasetGenerationError",
)
_DAMAGED_WORDS = ("PytorchStreamReader failed", "invalid header or archive", "HeaderTooLarge", "git-lfs")
_ENVIRONMENT_WORDS = (
    "CUDA", "cuDNN", "NCCL", "out of memory", "DefaultCPUAllocator", "Connection", "timed out", "Temporary failure",
    "Too many open files", "cannot open shared object", "shared memory", "No space left on device", "os error 28",
)  # fmt: skip
_LOST_PEER_WORDS = ("gloo/transport", "Gloo connectFullMesh failed", "ncclRemoteError", "remote process exited")
"""Of gloo and NCCL themselves: that a connection was closed is what any server's client says too."""

_OURS = str(Path(__file__).parent) + os.sep


def explain(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code.

    Args:
        error (`BaseException`): no `UserError`.

    Returns:
        `tuple[str, int]`: the line, and 2 where the user or the machine has to mend it, 1 for a bug of ours.
    """
    said = f"{type(error).__name__}: {one_line(error, _LONGEST)}"
    causes = _causes(error)
    if found := next((cause for cause in causes if isinstance(cause, OSError) and cause.errno in _FULL), None):
        return f"The disk is full ({one_line(found, _LONGEST)}): make room, then resume with --resume.", 2
    found = next((cause for cause in causes if isinstance(cause, OSError) and cause.errno in _NOT_ALLOWED), None)
    if found is not None and getattr(found, "filename", None):
        return f"{found.filename} cannot be used ({found.strerror}): see to the path and its permissions.", 2
    if any(map(_is_damaged_file, causes)):
        return f"A file that was to be read is broken ({said}): restore it, or download it again.", 2
    if _is_loading(error):
        return f"A model or tokenizer cannot be loaded, its files or its name are wrong ({said}).", 2
    if place := _users_own_code(error):
        return f"{place} failed ({said}): this is code of yours, which the recipe names.", 2
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(map(_is_lost_peer, causes)):
        return (
            f"Another process of this run has gone, or its machine ({said}): its own output may say why. "
            "Start all of them again with --resume.",
            2,
        )
    if any(map(_is_environment, causes)):
        return f"The environment is at fault, a package, the memory, the device or the network ({said}).", 2
    return (
        f"A bug of trl-nlpo, or of a library under it ({said}): please report it with the output of `trl-nlpo env`.",
        1,
    )


def write_traceback(error: BaseException, folder: str | None = None) -> Path:
    """Keep an error's traceback as `traceback.txt`, without what is secret in it.

    Args:
        error (`BaseException`)
        folder (`str`, *optional*): the run's; the folder for temporary files where it is not there, or not writable.

    Returns:
        `Path`: the file.
    """
    text = redacted("".join(traceback.format_exception(error)))
    name = "traceback.txt"
    if folder is not None and Path(folder).is_dir():
        try:
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            return path
        except OSError:
            pass
    path = Path(tempfile.gettempdir()) / f"trl-nlpo-{os.getpid()}-{int(time.time())}-{name}"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError:
        # No room anywhere: then the terminal is all there is.
        sys.stderr.write(text)
        return Path("the lines above")
    return path


def _causes(error: BaseException) -> list[BaseException]:
    """The error and those that it came from."""
    found: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in found:
        found.append(seen)
        seen = seen.__cause__ or seen.__context__
    return found


def _is_damaged_file(error: BaseException) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return (
        isinstance(error, _DAMAGED)
        or bool(names & {*_DAMAGED_NAMES})
        or any(words in str(error) for words in _DAMAGED_WORDS)
    )


def _is_loading(error: BaseException) -> bool:
    """Whether it came up while a model or tokenizer was read."""
    return any(frame.name == "from_pretrained" for frame in traceback.extract_tb(error.__traceback__))


def _is_lost_peer(error: BaseException) -> bool:
    """Whether a collective operation says that somebody is not there any more ."""
    return any(words in str(error) for words in _LOST_PEER_WORDS)


def _is_environment(error: BaseException) -> bool:
    if isinstance(error, (ImportError, MemoryError, ConnectionError, TimeoutError, BlockingIOError)):
        return True
    return any(words in str(error) for words in _ENVIRONMENT_WORDS)


def _users_own_code(error: BaseException) -> str | None:
    """File and line where the error was raised, if that is neither ours nor an installed package's."""
    frames = traceback.extract_tb(error.__traceback__)
    installed = [os.path.realpath(path) + os.sep for path in {sys.prefix, sys.base_prefix}]
    for frame in reversed(frames):
        file = os.path.realpath(frame.filename)
        if file.startswith(_OURS):
            return None
        if os.path.isfile(file) and "site-packages" not in file and not file.startswith(tuple(installed)):
            return f"{file}, line {frame.lineno}"
    return None
