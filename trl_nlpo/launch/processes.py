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

from ..errors import UserError
from .environment import is_first_process, is_set
from .fsdp import asks_for_fsdp, check_fsdp
from .zero import check_zero


T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds that a process which fails waits for the others to fail too."""


def check_launch(args: Any) -> None:
    """Refuse what a launcher or the arguments ask for and is not supported, before anything is loaded or trained.

    Args:
        args ([`NLPOConfig`]): its `fsdp` and `deepspeed`.

    Raises:
        UserError: another kind of parallelism than DDP, FSDP2 and DeepSpeed ZeRO, or a setting of these that cannot
            work.
    """
    if getattr(args, "deepspeed_plugin", None) is not None or is_set("ACCELERATE_USE_DEEPSPEED"):
        check_zero(args)
    if asks_for_fsdp(args):
        check_fsdp(args)
    asked = {
        "Megatron-LM": is_set("ACCELERATE_USE_MEGATRON_LM"),
        "Tensor or context parallelism": is_set("ACCELERATE_USE_PARALLELISM_CONFIG"),
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise UserError(
                f"{name} is not supported, as every process samples from a whole policy: launch with DDP (torchrun or "
                "accelerate launch --multi_gpu), FSDP2 or DeepSpeed ZeRO, and save memory by an adapter (use_peft, "
                "peft_config), load_in_4bit, gradient_checkpointing or a smaller per_device_train_batch_size."
            )


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
    """The key-value store of torchrun or `accelerate launch`; None under other launchers."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        return torch.distributed.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=_PATIENCE)
        )
    except (KeyError, ValueError, RuntimeError):
        return None
