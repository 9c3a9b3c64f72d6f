"""DeepSpeed ZeRO through accelerate: optimizer states, gradients (ZeRO-2) and weights (ZeRO-3) are sharded.

The engine is driven as accelerate drives it: it adds up over processes, clips and takes the optimizer step inside the
last `backward` of a step. A contact file, written against torch 2.13 (`Module._apply`), accelerate 1.15
(`AcceleratorState._reset_state`) and DeepSpeed 0.19.8.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn

from .._trl import without_zero3_hooks
from ..errors import UserError
from .launch import Launch, check_is_loaded
from .processes import start_equal


if TYPE_CHECKING:
    from accelerate import Accelerator


STAGES = (1, 2, 3)
"""Stages of ZeRO that shard anything."""

_BATCH_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def check_zero(args: Any) -> None:
    """Refuse what cannot work under DeepSpeed, before anything is loaded.

    Args:
        args ([`NLPOConfig`]): built under the launcher, which tells it of DeepSpeed.

    Raises:
        UserError: a stage that shards nothing, a launch that is none of DeepSpeed's, or an optimizer or
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
    if state.distributed_type != DistributedType.DEEPSPEED:
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


def disable_sharded_loading() -> None:
    """Keep `from_pretrained` from sharding models under ZeRO-3, for copies are made of them first."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, unset_hf_deepspeed_config

    if is_deepspeed_zero3_enabled():
        unset_hf_deepspeed_config()


def zero_shares(checkpoint: str | Path) -> int:
    """Of how many processes a checkpoint has optimizer states as DeepSpeed writes them."""
    return len(list(Path(checkpoint).glob("global_step*/*zero_pp_rank_*_optim_states.pt")))


class Zero(Launch):
    """ZeRO-1 and ZeRO-2: every process has all weights, and a share of what the optimizer needs."""

    splits_passes = False
    trains_parts_alone = False

    @property
    def description(self) -> str:
        """Its optimizer states are read by as many processes as wrote them."""
        return f"DeepSpeed with {self.accelerator.num_processes} processes"

    def configure(self, args: Any) -> None:
        """Clipping, precision and batch sizes.

        Raises:
            UserError: the engine's configuration says otherwise than `args`.
        """
        # Models are loaded after it too: of rewards, or to compare with.
        disable_sharded_loading()
        plugin = self.accelerator.state.deepspeed_plugin
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
            train_batch_size=args.per_device_train_batch_size * self.accelerator.num_processes,
        )

    def place(self, model: nn.Module, ref_model: nn.Module | None = None) -> None:
        """The engine places and casts a model only when it is prepared; copies must compute as it does."""
        check_is_loaded(model, ref_model)
        model.to(self.accelerator.device)
        start_equal(model)
        for module in (model, ref_model):
            self._cast(module)

    def _cast(self, module: nn.Module | None) -> None:
        if module is None:
            return
        config = self.accelerator.state.deepspeed_plugin.deepspeed_config
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            if config.get(name, {}).get("enabled") is True:
                # As the engine does it: quantized models refuse `to`, and only their other weights are cast.
                module._apply(lambda tensor, dtype=dtype: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    @contextlib.contextmanager
    def accumulating(self, model: Any, is_last: bool) -> Iterator[None]:
        """In the last passes of a step DeepSpeed takes the step too."""
        self.accelerator.sync_gradients = is_last
        yield

    def backward(self, loss: torch.Tensor, scale: torch.Tensor, is_finite: torch.Tensor) -> None:
        """DeepSpeed steps before it can be asked not to, but never with gradients that are not finite."""
        self.accelerator.backward(loss * torch.where(is_finite, scale, torch.nan))

    def load_shares(self, model: Any, checkpoint: str) -> None:
        """Weights and optimizer states, of which every process reads its share."""
        from transformers.integrations.deepspeed import deepspeed_load_checkpoint

        # Frozen weights under an adapter are not in it.
        deepspeed_load_checkpoint(model, checkpoint, load_module_strict=False)

    def weights_were_set(self, optimizer: Any) -> None:
        """The engine keeps a float32 copy of the weights."""
        optimizer.optimizer.refresh_fp32_params()

    def release(self) -> None:
        """accelerate keeps the DeepSpeed settings of one trainer at a time."""
        AcceleratorState._reset_state()
        disable_sharded_loading()


class Zero3(Zero):
    """ZeRO-3: between passes every process has a share of the weights."""

    is_sharded = True

    def __init__(self, accelerator: Accelerator):
        super().__init__(accelerator)
        self._computes_gathered = False

    def gathered(self, model: Any, write_back: bool = False) -> AbstractContextManager[None]:
        """By DeepSpeed's own context; inside [`gathered_to_compute`] they are gathered already."""
        return self._gathered(model, computes=False, write_back=write_back)

    def gathered_to_compute(self, model: Any) -> AbstractContextManager[None]:
        """Without the engine's hooks, which would shard each layer's weights again after its pass."""
        return self._gathered(model, computes=True)

    @contextlib.contextmanager
    def _gathered(self, model: Any, computes: bool, write_back: bool = False) -> Iterator[None]:
        import deepspeed

        if self._computes_gathered:
            yield
            return
        parameters = list(model.module.parameters())
        gathered = deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if write_back else None)
        with gathered, without_zero3_hooks(model) if computes else contextlib.nullcontext():
            self._computes_gathered = computes
            try:
                yield
            finally:
                self._computes_gathered = False
