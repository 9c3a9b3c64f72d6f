"""What the processes of one run do together: start equal, share out rows, and fail as one.

With one process, everything here is the identity.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather_object
from torch import nn

from ..errors import UserError


T = TypeVar("T")


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


def num_processes() -> int:
    """How many processes the run has."""
    return PartialState().num_processes


def process_index() -> int:
    """The number of this process, from 0."""
    return PartialState().process_index


def share_of(num_rows: int) -> range:
    """Which of the rows 0 … n - 1 are this process's: every one has as many as the others, or one less."""
    state = PartialState()
    return range(num_rows)[state.process_index :: state.num_processes]


def in_order(numbered: list[tuple[int, T]]) -> list[T]:
    """What all processes have made of their rows, in the order of the rows' numbers, on all of them.

    Args:
        numbered (`list`): the number of each row of this process, and what it made of it, which can be pickled.
    """
    return [item for _, item in sorted(of_all(numbered), key=lambda pair: pair[0])]


def shared_out(num_rows: int, compute: Callable[[Sequence[int]], list[T]]) -> list[T]:
    """Something for each of the rows 0 … n - 1, of which every process computes its share; in order, on all of them.

    Args:
        num_rows (`int`): n; may be less than the number of processes.
        compute: from numbers of rows to a list of as many items, which can be pickled.
    """
    indices = share_of(num_rows)
    with failing_together():
        items = compute(indices)
    return in_order(list(zip(indices, items, strict=True)))


@torch.no_grad()
def start_equal(module: nn.Module) -> None:
    """Give all processes the first one's weights: a fresh head or adapter is random, and copies are made of it."""
    if PartialState().num_processes > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(broadcast(tensor.detach().contiguous()))
