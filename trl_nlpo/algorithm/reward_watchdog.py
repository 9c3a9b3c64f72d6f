"""A process beside this one that ends it when a reward function holds Python's interpreter beyond its time.

A thread can be given up on, but not while it holds the interpreter (the GIL), as a regular expression that
backtracks does: then no other thread runs, and no handler of a signal. Only another process can act. It is told
when a call begins and when it has ended or was given up on. If it hears nothing until some seconds after the
limit, it writes a line and kills this process with SIGKILL (exit code 137 in a shell, -9 in `subprocess`).
Checkpoints are complete at any moment, so the run resumes from the last one.

POSIX only; elsewhere nothing watches. This file is also the program of that process, so it imports nothing of ours.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator


GRACE = 10.0
"""Seconds that this process has for saying that a call was given up on, once its time is over."""

_LINE = (
    "trl-nlpo: {who} did not return within {timeout:g} seconds (reward_timeout), and holds the interpreter, so that "
    "nothing in this process can end it: the process is killed (exit code 137). The last checkpoint is undamaged; "
    "resume with --resume, and let the function give up by itself (rewrite a regular expression that backtracks)."
)


@contextlib.contextmanager
def watched(who: str, timeout: float | None) -> Iterator[None]:
    """Have this process killed if what runs inside still runs some seconds after `timeout`.

    Args:
        who (`str`): what runs, for the line.
        timeout (`float`, *optional*): seconds; None: nothing is watched.
    """
    if timeout is None or os.name != "posix":
        yield
        return
    line = _LINE.format(who=who, timeout=timeout)
    _tell({"seconds": timeout, "grace": GRACE, "line": line})
    try:
        yield
    finally:
        _tell({})


_watchdogs: dict[int, subprocess.Popen[bytes]] = {}
"""By the process that is watched: a fork has to start its own."""


def _tell(message: dict[str, object]) -> None:
    own = _watchdogs.get(os.getpid())
    if own is None or own.poll() is not None:
        own = _watchdogs[os.getpid()] = _started()
    assert own.stdin is not None
    # Without the watchdog, which something has just ended, a call that hangs as usual is given up on as usual.
    with contextlib.suppress(BrokenPipeError):
        own.stdin.write(json.dumps(message).encode() + b"\n")
        own.stdin.flush()


def _started() -> subprocess.Popen[bytes]:
    # In a session of its own, Ctrl-C does not reach it. Isolated, it does not read the user's modules.
    words = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    atexit.register(_stop, process, os.getpid())
    return process


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner and process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


def watch(pid: int) -> None:
    """What the watchdog does: read messages until there are no more, or until time is over."""
    task: dict[str, object] = {}
    buffer = b""
    while True:
        seconds = task.get("seconds", 60.0)
        ready, _, _ = select.select([0], [], [], float(str(seconds)))
        if ready:
            received = os.read(0, 65536)
            if not received:
                return
            *lines, buffer = (buffer + received).split(b"\n")
            task = json.loads(lines[-1]) if lines else task
        elif os.getppid() != pid:
            return
        elif "grace" in task:
            # Anew after the limit: both processes may have been asleep, as after Ctrl-Z, until now.
            task["seconds"] = task.pop("grace")
        elif task:
            os.write(2, f"{task['line']}\n".encode())
            os.kill(pid, signal.SIGKILL)
            return


if __name__ == "__main__":
    watch(int(sys.argv[1]))
