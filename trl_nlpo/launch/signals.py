"""Ctrl-C and SIGTERM: the current update is finished, a checkpoint written, and the exit code says what happened."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from ..errors import StoppedAtOnce, StoppedRunError, Terminated


_STOPPING = b"\nStopping after this update, with a checkpoint. Ctrl-C again stops at once.\n"


class StopRequest:
    """Which signal has asked to stop, if any.

    Attributes:
        signal (`int`, *optional*): SIGINT or SIGTERM.
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
        if self.signal is None:
            # `print` could be interrupted in the middle of another `print`.
            os.write(2, _STOPPING)
        self.signal = number


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM while inside; the handlers that were there before come back.

    Outside the main thread, where Python allows no handlers, and for signals that are ignored (as under `nohup`),
    nothing is changed.
    """
    request = StopRequest()
    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers.enter_context(_handler(number, request.receive))
        yield request


@contextlib.contextmanager
def ending_with_a_line(how_to_resume: str) -> Iterator[None]:
    """For the command line: SIGINT and SIGTERM at any time as one line and an exit code.

    Args:
        how_to_resume (`str`): said when the signal came outside training, where nothing says it yet.

    Raises:
        StoppedRunError: a signal came.
    """

    def terminate(number: int, frame: Any) -> None:
        raise Terminated(f"terminated. {how_to_resume}")

    try:
        with _handler(signal.SIGTERM, terminate):
            yield
    except KeyboardInterrupt as stop:
        raise StoppedRunError(str(stop) or f"interrupted. {how_to_resume}", 128 + signal.SIGINT) from None
    except Terminated as stop:
        raise StoppedRunError(str(stop), 128 + signal.SIGTERM) from None


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
