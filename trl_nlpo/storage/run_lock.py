"""One writer per folder: who is writing into a run's folder now, as a small file that only a live run leaves there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import UserError, one_line
from .files import check_folder, explain_full_disk


LOCK_NAME = "_lock.json"
"""Uploads to the Hub leave out names with this first letter."""

JOB_VARIABLE = "TRL_NLPO_JOB"
"""Environment variable by which a launcher tells a process which of its jobs it belongs to."""

_LOOKS = 10
_PAUSE = 0.02
"""How often a lock without content is looked at, and seconds in between: its owner is about to write it."""

_TAKEOVER_NAME = "_lock_takeover"
_LONGEST_TAKEOVER = 60.0
"""Seconds after which a takeover, which takes milliseconds, was that of a process that died in it."""


class FolderTakenError(UserError):
    """Another process is writing into the folder."""


@dataclass(frozen=True)
class Owner:
    """A process, told from others that have or had its number.

    Attributes:
        host (`str`): its machine.
        pid (`int`): its number there.
        began (`str`): when it began, as the system counts; empty where the system does not say (without `/proc`).
        space (`str`): in which space of process numbers (containers have their own); empty likewise.
        job (`str`): the launcher's job that it belongs to, which has one process at a time; empty without a launcher.
    """

    host: str
    pid: int
    began: str = ""
    space: str = ""
    job: str = ""

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _began(os.getpid()), _space(), os.environ.get(JOB_VARIABLE, ""))

    @classmethod
    def of(cls, pid: int) -> Owner:
        """A process of this machine, by its number."""
        return cls(socket.gethostname(), pid, _began(pid), _space())

    @property
    def may_be_alive(self) -> bool:
        """False where it has certainly ended.

        That is on this machine where no process is the one that it was, and on another where it belonged to the job
        that this process belongs to: the job was requeued.
        """
        if self.host != socket.gethostname() or self.space != _space():
            return not self.job or self.job != os.environ.get(JOB_VARIABLE)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            return True
        return not self.began or self.began == _began(self.pid)


def owner_of(folder: str | Path) -> Owner | None:
    """Who is writing into a folder; None: nobody, or a process that has ended.

    Args:
        folder (`str` or `Path`): need not exist.

    Raises:
        FolderTakenError: there is a lock that cannot be read.
    """
    lock = Path(folder) / LOCK_NAME
    for _ in range(_LOOKS):
        if not os.path.lexists(lock):
            return None
        owner = _read(lock)
        if owner is not None:
            return owner if owner.may_be_alive else None
        time.sleep(_PAUSE)
    raise FolderTakenError(
        f"{folder} may have a run that is just starting: its {LOCK_NAME} cannot be read. Try again; if no run is "
        f"writing there, delete {lock}."
    )


def check_not_taken(folder: str | Path) -> None:
    """Raise a [`FolderTakenError`] where another process is writing into a folder."""
    owner = owner_of(folder)
    if owner is None or owner == Owner.here():
        return
    end = (
        f"kill {owner.pid} ends it"
        if owner.host == socket.gethostname()
        else f"if it has ended, delete {Path(folder) / LOCK_NAME}"
    )
    raise FolderTakenError(
        f"{folder} is in use: process {owner.pid} on {owner.host} is writing a run there. Wait for it, or give "
        f"another output_dir; {end}."
    )


@contextlib.contextmanager
def lock_on(folder: str | Path, wanted: bool = True) -> Iterator[None]:
    """Be the one process that writes into a folder. One that has it already keeps it; a dead process's is taken over.

    A folder that was made for the lock is removed again when nothing was written into it.

    Args:
        folder (`str` or `Path`): created if necessary.
        wanted (`bool`): False on processes that write nothing.

    Raises:
        FolderTakenError: another process has it; the message says which, and what to do.
        UserError: the folder cannot be made or written into.
    """
    folder = Path(folder)
    if not wanted or owner_of(folder) == Owner.here():
        yield
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        _take(folder)
        yield
    finally:
        _release(folder)
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def release_ended(folder: str | Path, has_ended: Callable[[Owner], bool]) -> None:
    """Remove the lock of a process that is known to have ended, though it could not remove it itself.

    Args:
        folder (`str` or `Path`)
        has_ended: whether that is so of the owner that it is given.
    """
    _remove_ended(Path(folder) / LOCK_NAME, has_ended)


def check_lockable(folder: str | Path) -> None:
    """Try whether of two that take a lock in a folder only one has it.

    Args:
        folder (`str` or `Path`): it is there.

    Raises:
        UserError: both have it, or nobody: the file system has no locks that work.
    """
    probe = Path(folder) / f"_lock_probe.{uuid.uuid4().hex}"
    takes = 0
    problem = "two processes could have one lock"
    try:
        for _ in range(2):
            with contextlib.suppress(FileExistsError):
                _write_new(probe)
                takes += 1
        if _read(probe) != Owner.here():
            takes, problem = 0, "what is written is not there afterwards"
    except OSError as error:
        takes, problem = 0, error.strerror or one_line(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    if takes != 1:
        raise UserError(
            f"the file system of {folder} has no locks that work ({problem}), by which the jobs of a grid share its "
            "cells: give an --out elsewhere."
        )


def _take(folder: Path) -> None:
    for _ in range(_LOOKS):
        check_not_taken(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_ended(folder / LOCK_NAME, lambda owner: not owner.may_be_alive)
            with explain_full_disk(folder, LOCK_NAME):
                _write_new(folder / LOCK_NAME)
            return
        except FileExistsError:
            # A file is in the way; or there is a folder, and another process was faster.
            check_folder(folder, "output_dir")
            time.sleep(_PAUSE)
        except OSError as error:
            raise UserError(
                f"output_dir {folder} cannot be written into ({error.strerror or one_line(error)}): give another, or "
                "see to its permissions."
            ) from None
    raise FolderTakenError(f"{folder} is in use: another run has just begun there.")


def _write_new(lock: Path) -> None:
    """Write the lock of this process, unless there is one; nobody sees it without its content."""
    # Containers that share a folder may have one process number, and one host name.
    beside = lock.with_name(f"{LOCK_NAME}.{uuid.uuid4().hex}")
    beside.write_text(json.dumps(asdict(Owner.here())) + "\n", encoding="utf-8")
    try:
        os.link(beside, lock)
    except FileExistsError:
        raise
    except OSError:
        # Not every file system has links.
        with lock.open("x", encoding="utf-8") as file:
            file.write(beside.read_text(encoding="utf-8"))
    finally:
        beside.unlink(missing_ok=True)


def _remove_ended(lock: Path, has_ended: Callable[[Owner], bool]) -> None:
    """Remove the lock of a process that has ended, and never one that was written in the meantime.

    Whoever removes locks has a second one for it, and looks once more while having it: of several that saw the same
    dead owner the first removes its lock, and the others find nothing, or that of the next owner.
    """
    owner = _read(lock)
    if owner is None or not has_ended(owner):
        return
    takeover = lock.with_name(_TAKEOVER_NAME)
    try:
        os.close(os.open(takeover, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - takeover.stat().st_mtime > _LONGEST_TAKEOVER:
                takeover.unlink()
        return
    try:
        owner = _read(lock)
        if owner is not None and has_ended(owner):
            lock.unlink(missing_ok=True)
    finally:
        takeover.unlink(missing_ok=True)


def _read(lock: Path) -> Owner | None:
    """Who a lock names; None where it cannot be read, as while it is being written."""
    try:
        return Owner(**json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _release(folder: Path) -> None:
    with contextlib.suppress(UserError, OSError):
        if owner_of(folder) == Owner.here():
            (folder / LOCK_NAME).unlink()


def _began(pid: int) -> str:
    """Field 22 of `/proc/<pid>/stat`; nothing for a process that has ended and only waits to be noticed."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field may hold spaces and brackets, and ends with the last bracket.
        state, *rest = text.rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except (OSError, IndexError, ValueError):
        return ""


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
