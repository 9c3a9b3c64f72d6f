"""DeepSpeed ZeRO through accelerate: every process has shares of optimizer, gradients (ZeRO-2) and weights (ZeRO-3).

Everything here does nothing under another launch. The engine is driven as accelerate drives it: it adds up over
processes, clips and takes the optimizer step inside the last `backward` of a step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import nn

from .._trl import without_zero3_hooks
from ..errors import UserError


STAGES = (1, 2, 3)
"""Stages of ZeRO that share anything out."""

_BATCH_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def is_zero(accelerator: Any) -> bool:
    """Whether DeepSpeed trains."""
    return getattr(accelerator, "distributed_type", None) == DistributedType.DEEPSPEED


def is_zero3(accelerator: Any) -> bool:
    """Whether DeepSpeed trains and cuts weights."""
    return is_zero(accelerator) and accelerator.state.deepspeed_plugin.zero_stage == 3


def check_zero(args: Any) -> None:
    """Refuse what cannot work under DeepSpeed, before anything is loaded.

    Args:
        args ([`NLPOConfig`]): built under the launcher, which tells it of DeepSpeed.

    Raises:
        UserError: a stage that cuts weights or nothing, a launch that is none of DeepSpeed's, or an optimizer or
            scheduler of DeepSpeed's.
    """
    plugin = getattr(args, "deepspeed_plugin", None)
    if plugin is None:
        raise UserError(
            "DeepSpeed was asked for after the training arguments were built: build NLPOConfig in a process that "
            "torchrun or accelerate launch started."
        )
    if plugin.zero_stage not in STAGES:
        raise UserError(
            f"DeepSpeed ZeRO-{plugin.zero_stage} is not supported, as it is DDP by another name: set zero_stage to 2, "
            "or launch with DDP (torchrun or accelerate launch --multi_gpu)."
        )
    if args.use_cpu:
        raise UserError(
            "DeepSpeed and use_cpu exclude each other, as accelerate would train with DDP: leave use_cpu out; on a "
            "machine without a GPU set the variable DS_ACCELERATOR=cpu."
        )
    state = PartialState()
    if not is_zero(state):
        raise UserError(
            f"DeepSpeed was asked for, but accelerate runs {state.distributed_type.value}: launch with torchrun or "
            "accelerate launch, and make no Accelerator before the training arguments."
        )
    if state.num_processes != int(os.environ.get("WORLD_SIZE", "1")):
        raise UserError(
            "accelerate takes each of these processes for the only one, as it finds no GPU: set ddp_backend to gloo "
            "and, in place of the key `deepspeed`, the variable ACCELERATE_USE_DEEPSPEED=true."
        )
    for name in ("optimizer", "scheduler"):
        if name in plugin.deepspeed_config:
            raise UserError(
                f"The DeepSpeed configuration has {name!r}, which NLPOConfig decides (learning_rate, optim, "
                "lr_scheduler_type, …): take it out of the file."
            )


def configure_zero(accelerator: Any, args: Any) -> None:
    """Tell the engine, before it is made, what the training arguments say of clipping, precision and batches.

    Raises:
        UserError: its configuration says otherwise than `args`.
    """
    if not is_zero(accelerator):
        return
    # Models are loaded after it too: of rewards, or to compare with.
    load_models_whole()
    plugin = accelerator.state.deepspeed_plugin
    mismatches = [line.strip(" -") for line in getattr(plugin.hf_ds_config, "mismatches", [])]
    mismatches = [line for line in mismatches if not any(name in line for name in _BATCH_SIZES)]
    if mismatches:
        raise UserError(
            "The DeepSpeed configuration contradicts the training arguments "
            f"({'; '.join(mismatches)}): write 'auto' for these in its file."
        )
    limit = args.max_grad_norm
    plugin.deepspeed_config.update(
        gradient_clipping=float(limit) if limit and limit > 0 else 0.0,
        # Microbatches are accumulated in the update itself, by tokens; the engine must not divide a second time.
        gradient_accumulation_steps=1,
        train_micro_batch_size_per_gpu=args.per_device_train_batch_size,
        train_batch_size=args.per_device_train_batch_size * accelerator.num_processes,
    )


def load_models_whole() -> None:
    """Keep `from_pretrained` from cutting models under ZeRO-3, for copies are made of them first."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

    if is_deepspeed_zero3_enabled():
        unset_hf_deepspeed_config()


@contextlib.contextmanager
def gathered(engine: Any, computes: bool = False, write_back: bool = False) -> Iterator[None]:
    """Whole weights under ZeRO-3.

    Args:
        engine: the model as DeepSpeed wrapped it.
        computes (`bool`): also keep the engine from cutting them again after each layer's pass.
        write_back (`bool`): keep what the first process changes.
    """
    import deepspeed

    if getattr(engine, "computes_whole", False):
        yield
        return
    parameters = list(engine.module.parameters())
    whole = deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if write_back else None)
    with whole, without_zero3_hooks(engine) if computes else contextlib.nullcontext():
        engine.computes_whole = computes
        try:
            yield
        finally:
            engine.computes_whole = False


def cast_like_zero(accelerator: Any, module: nn.Module | None) -> None:
    """Cast to bf16 or fp16 where the engine casts the policy, so that copies of the policy compute as it does."""
    if is_zero(accelerator) and module is not None:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            if config.get(name, {}).get("enabled") is True:
                # As the engine does it: quantized models refuse `to`, and only their other weights are cast.
                module._apply(lambda tensor, dtype=dtype: tensor.to(dtype) if tensor.is_floating_point() else tensor)


@contextlib.contextmanager
def accumulating(model: nn.Module, accelerator: Any, is_last: bool) -> Iterator[None]:
    """Backward passes whose gradients are added up over processes in the last of a step only.

    Args:
        model: as accelerate wrapped it.
        is_last (`bool`): the last of a step, in which DeepSpeed takes the step too.
    """
    if is_zero(accelerator):
        accelerator.sync_gradients = is_last
        yield
    else:
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            yield


def spoiled_unless(is_finite: torch.Tensor, accelerator: Any, scale: torch.Tensor) -> torch.Tensor:
    """The factor of a loss, or NaN where the step must not be taken.

    DeepSpeed steps before it can be asked not to; what it never takes is a step with gradients that are not finite.
    """
    return torch.where(is_finite, scale, torch.nan) if is_zero(accelerator) else scale


def zero_shares(checkpoint: str | Path) -> int:
    """Of how many processes a checkpoint has optimizer states as DeepSpeed writes them."""
    return len(list(Path(checkpoint).glob("global_step*/*zero_pp_rank_*_optim_states.pt")))


def load_zero(engine: Any, checkpoint: str) -> None:
    """Weights and optimizer states of a checkpoint, of which every process reads its share."""
    from transformers.integrations.deepspeed import deepspeed_load_checkpoint

    # Frozen weights under an adapter are not in it.
    deepspeed_load_checkpoint(engine, checkpoint, load_module_strict=False)


def weights_were_set(accelerator: Any, optimizer: Any) -> None:
    """Let the optimizer go on from weights that were loaded into the model, and not from its own copy of them."""
    if is_zero(accelerator):
        optimizer.optimizer.refresh_fp32_params()
