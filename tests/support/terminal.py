"""Commands on a terminal of their own, of which the screen is read as a person would read it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from dataclasses import dataclass, field


@dataclass
class Shown:
    """What came of a command.

    Attributes:
        code (`int`): its exit code.
        raw (`str`): all that it wrote.
        screens (`list` of `list` of `str`): the lines of the screen, each time that something was written.
        lines (`list` of `str`): the screen at the end, with what was scrolled out of it.
    """

    code: int = -1
    raw: str = ""
    screens: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def ever(self, text: str) -> bool:
        """Whether a line of a screen ever held this."""
        return any(text in line for screen in self.screens for line in screen)


def _as_from_a_shell():
    # Its controlling terminal, so that Ctrl-C is typed and not sent.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Ignored by whatever runs in the background of a script, which tests may do, and inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def on_terminal(words, environment, cwd=None, columns=80, rows=40, interrupt_at=None, timeout=400):
    """Run a command on a terminal of so many columns.

    Args:
        interrupt_at (`str`, *optional*): Ctrl-C is typed as soon as this can be read.
    """
    import pyte

    screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1)
    stream = pyte.ByteStream(screen)
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {key: value for key, value in environment.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [*map(str, words)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=cwd,
        env={**environment, "TERM": "xterm-256color"},
        start_new_session=True,
        preexec_fn=_as_from_a_shell,
    )
    os.close(terminal)
    shown, raw, end = Shown(), bytearray(), time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            if not select.select([controller], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(controller, 65536)
            except OSError:
                break
            if not data:
                break
            raw += data
            # A line at a time: what is drawn and taken away soon after may come in one piece.
            for line in data.splitlines(keepends=True):
                stream.feed(line)
                shown.screens.append([text.rstrip() for text in screen.display])
            if interrupt_at is not None and any(interrupt_at in line for line in screen.display):
                os.write(controller, b"\x03")
                interrupt_at = None
        shown.code = process.wait(timeout=max(end - time.monotonic(), 5))
    finally:
        process.kill()
        os.close(controller)
    past = ["".join(line[column].data for column in range(columns)) for line in screen.history.top]
    shown.raw, shown.lines = raw.decode(errors="replace"), [line.rstrip() for line in [*past, *screen.display]]
    return shown
