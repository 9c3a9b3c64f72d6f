"""Ctrl-C, SIGTERM and their like: the current update is finished, a checkpoint written, and the exit code says why."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import StoppedAtOnce, StoppedRunError, Terminated


_AS_SIGTERM = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""Requests to end: a scheduler's, a terminal's that was closed, and Slurm's warnings that time is up."""

_STOPPING = "Stopping after this update, with a checkpoint. Ctrl-C again stops at once."

_tellers: list[Callable[[str], None]] = []
"""Who says that a run is about to stop, in the place of a line on stderr; the last one does."""


class StopRequest:
    """Which signal has asked to stop, if any.

    Attributes:
        signal (`int`, *optional*): SIGINT, or SIGTERM for that and its like (SIGHUP, SIGUSR1, SIGUSR2).
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def receive(self, number: int, frame: Any = None) -> None:
        """Note the signal. A second Ctrl-C does not wait; schedulers repeat SIGTERM, which changes nothing.

        Raises:
            StoppedAtOnce: the second SIGINT.
        """
        if self.signal == number == signal.SIGINT:
            raise StoppedAtOnce
        is_first = self.signal is None
        # Before it is said: another signal may come in the middle of that.
        self.signal = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        if is_first:
            _say_that_it_stops()


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 while inside; the handlers that were there before come back.

    Outside the main thread, where Python allows no handlers, and for signals that are ignored (as under `nohup`),
    nothing is changed.
    """
    request = StopRequest()
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, *_AS_SIGTERM):
            handlers.enter_context(_handler(number, request.receive))
        yield request


@contextlib.contextmanager
def ending_with_a_line(how_to_resume: str) -> Iterator[None]:
    """For the command line: SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 at any time as one line and an exit code.

    Args:
        how_to_resume (`str`): said when the signal came outside training, where nothing says it yet.

    Raises:
        StoppedRunError: a signal came.
    """

    def terminate(number: int, frame: Any) -> None:
        raise Terminated(f"terminated. {how_to_resume}")

    try:
        with contextlib.ExitStack() as handlers:
            for number in _AS_SIGTERM:
                handlers.enter_context(_handler(number, terminate))
            yield
    except KeyboardInterrupt as stop:
        raise StoppedRunError(str(stop) or f"interrupted. {how_to_resume}", 128 + signal.SIGINT) from None
    except Terminated as stop:
        raise StoppedRunError(str(stop), 128 + signal.SIGTERM) from None


@contextlib.contextmanager
def telling_of_stops(tell: Callable[[str], None]) -> Iterator[None]:
    """Inside, a signal's line is told and not written, for whoever draws on the terminal.

    Args:
        tell: called in a signal handler, so in the middle of anything: it may not print, nor wait for a lock.
    """
    _tellers.append(tell)
    try:
        yield
    finally:
        _tellers.remove(tell)


def _say_that_it_stops() -> None:
    if _tellers:
        _tellers[-1](_STOPPING)
        # Nothing to be seen, but it notices when the terminal is gone.
        _say(_PLAIN)
    else:
        _say(f"\n{_STOPPING}\n".encode())


_PLAIN = b"\x1b[0m"
"""Asks a terminal for letters without a style."""


def _say(line: bytes) -> None:
    """Write to stderr; `print` could be interrupted in the middle of another `print`.

    Where the terminal is gone, what is said from now on goes nowhere, instead of ending the run by an error.
    """
    try:
        os.write(2, line)
    except OSError:
        gone = os.fstat(2).st_rdev
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            if os.fstat(number).st_rdev == gone:
                os.dup2(nowhere, number)
        os.close(nowhere)


@contextlib.contextmanager
def _handler(number: int, handler: Any) -> Iterator[None]:
    before = signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
