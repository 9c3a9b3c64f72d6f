"""How processes that fail end together, with one message."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from .environment import is_first_process


_PATIENCE = 30.0
"""Seconds that a process which fails waits for the others to fail too."""


def say_once(say: Callable[[], Any]) -> None:
    """Say the last words of a process that fails, on the first of all that gets here."""
    number = meet("failed")
    if number == 1 or (number is None and is_first_process()):
        say()


def meet(place: str) -> int | None:
    """Wait for the other processes to get here too, 30 seconds at most; they may all be failing.

    A launcher ends all processes when it sees that one has ended: whoever is late could neither speak nor end by
    itself. They meet in the launcher's own store, as the processes may not talk to one another yet, or any more.

    Returns:
        `int`: the how-many-eth this process is, from 1; None at once where the launcher has no such store.
    """
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    store = _launcher_store() if num_processes > 1 else None
    if store is None:
        return None
    key = f"trl_nlpo/{place}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    number = store.add(key, 1)
    deadline = time.monotonic() + _PATIENCE
    while store.add(key, 0) < num_processes and time.monotonic() < deadline:
        time.sleep(0.01)
    return number


def _launcher_store() -> Any:
    """The key-value store of torchrun or `accelerate launch`; None under other launchers, and of one that is gone."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A launcher that was killed leaves its workers behind. This is refused at once then, where PyTorch would try
        # again and again, and print its stack each time.
        socket.create_connection((host, port), timeout=_PATIENCE).close()
        return torch.distributed.TCPStore(host, port, timeout=timedelta(seconds=_PATIENCE))
    except (KeyError, ValueError, OSError, RuntimeError):
        return None
