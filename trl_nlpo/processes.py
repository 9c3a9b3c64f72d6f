"""What the processes of one run do together: start equal, share out rows, fail as one, and speak with one voice.

Everything here is the identity where there is one process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather_object
from torch import nn

from .environment import is_first_process
from .errors import UserError


T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds that a process which fails waits for the others to fail too."""


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Let all processes raise what one of them raised, so that none waits for one that is gone.

    Only for code in which processes do not talk to one another.

    Raises:
        UserError: the first process's that raised one.
    """
    if PartialState().num_processes == 1:
        yield
        return
    own: UserError | None = None
    try:
        yield
    except UserError as error:
        own = error
    first = next((error for error in gather_object([own]) if error is not None), None)
    if first is not None:
        raise first from own


def of_all(items: list[T]) -> list[T]:
    """The items of all processes, those of the first process first."""
    return gather_object(items) if PartialState().num_processes > 1 else items


def shared_out(num_rows: int, compute: Callable[[Sequence[int]], list[T]]) -> list[T]:
    """Something for each of the rows 0 … n - 1, of which every process computes its share; in order, on all of them.

    Args:
        num_rows (`int`): n; may be less than the number of processes.
        compute: from numbers of rows to a list of as many items, which can be pickled.
    """
    state = PartialState()
    indices = range(num_rows)[state.process_index :: state.num_processes]
    with failing_together():
        items = compute(indices)
    numbered = of_all(list(zip(indices, items, strict=True)))
    return [item for _, item in sorted(numbered, key=lambda pair: pair[0])]


@torch.no_grad()
def start_equal(module: nn.Module) -> None:
    """Give all processes the first one's weights: a fresh head or adapter is random, and copies are made of it."""
    if PartialState().num_processes > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(broadcast(tensor.detach().contiguous()))


def say_once(say: Callable[[], Any]) -> None:
    """Say the last words of a process that fails, on the first that gets here, and wait for the others a while.

    A launcher ends all processes when it sees that one has ended: whoever is late would neither speak nor end by
    itself. They meet in the launcher's own store, as the processes may not talk to one another yet, or any more.
    """
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    store = _launcher_store() if num_processes > 1 else None
    if store is None:
        if is_first_process():
            say()
        return
    key = f"trl_nlpo/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if store.add(key, 1) == 1:
        say()
    deadline = time.monotonic() + _PATIENCE
    while store.add(key, 0) < num_processes and time.monotonic() < deadline:
        time.sleep(0.05)


def _launcher_store() -> Any:
    """The key-value store of torchrun or `accelerate launch`; None under other launchers."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        return torch.distributed.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=_PATIENCE)
        )
    except (KeyError, ValueError, RuntimeError):
        return None
