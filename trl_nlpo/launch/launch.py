"""Weights that are cut between processes, by FSDP2 or DeepSpeed ZeRO-3: whole for a while, and put back.

Rollouts, copies and checkpoints need whole weights, the update does not. Everything here does nothing under a launch
that leaves weights whole. Entering and leaving is done by all processes together.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

from accelerate.state import AcceleratorState
from torch import nn

from ..errors import UserError
from .fsdp import is_fsdp, optimizer_files, unsharded, whole_parameters
from .zero import gathered, is_zero, is_zero3, load_models_whole, zero_shares


def whole_to_compute(model: Any, accelerator: Any) -> AbstractContextManager[None]:
    """Whole weights that any part of the model can compute with, as often as it likes, without a word to others.

    Args:
        model: as accelerate wrapped it.
        accelerator: that did.
    """
    if is_fsdp(accelerator):
        return unsharded(model, accelerator)
    return gathered(model, computes=True) if is_zero3(accelerator) else contextlib.nullcontext()


def whole_to_hold(model: Any, accelerator: Any, write_back: bool = False) -> AbstractContextManager[None]:
    """Whole weights to read, save or change, in their own precision; not to compute with.

    Args:
        model: as accelerate wrapped it.
        accelerator: that did.
        write_back (`bool`): whether what the first process changes stays; otherwise changes are lost.
    """
    if is_fsdp(accelerator):
        return whole_parameters(model, write_back)
    return gathered(model, write_back=write_back) if is_zero3(accelerator) else contextlib.nullcontext()


def is_cut(accelerator: Any) -> bool:
    """Whether processes have only a share of the weights between passes."""
    return is_fsdp(accelerator) or is_zero3(accelerator)


def check_is_whole(*models: nn.Module | None) -> None:
    """Refuse models that were loaded in pieces, or not at all, for a launch that would have put them together later.

    Raises:
        UserError: `deepspeed.zero.Init` cut a model, or a weight has no data.
    """
    for model in models:
        for parameter in () if model is None else model.parameters():
            if hasattr(parameter, "ds_id") or parameter.is_meta:
                raise UserError(
                    f"{type(model).__name__} was loaded in pieces (deepspeed.zero.Init) or without weights, but copies"
                    " of it are needed: build NLPOConfig first, and load it whole on every process."
                )


def check_resumed_launch(accelerator: Any, checkpoint: str) -> None:
    """Refuse to go on from optimizer states that this launch cannot read, `--force` or not.

    Raises:
        UserError: a checkpoint of another kind of launch, or under DeepSpeed of another number of processes.
    """
    shares = zero_shares(checkpoint)
    written = f"DeepSpeed with {shares} processes" if shares else _kind(bool(optimizer_files(checkpoint)))
    own = f"DeepSpeed with {accelerator.num_processes} processes" if is_zero(accelerator) else None
    own = own or _kind(is_fsdp(accelerator))
    if written != own:
        raise UserError(
            f"The optimizer states in {checkpoint} were written under {written}, and this run has {own}: resume it as "
            "it was launched."
        )


def _kind(is_of_fsdp: bool) -> str:
    return "FSDP" if is_of_fsdp else "neither DeepSpeed nor FSDP"


def release_launch(accelerator: Any) -> None:
    """Make room for the next trainer's DeepSpeed settings: accelerate keeps those of one at a time."""
    if is_zero(accelerator):
        AcceleratorState._reset_state()
        load_models_whole()
