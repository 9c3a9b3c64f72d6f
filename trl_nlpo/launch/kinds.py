"""Which kind of launch this is, and what is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import DistributedType

from ..errors import UserError
from .environment import is_set
from .fsdp import Fsdp2, asks_for_fsdp, check_fsdp, fsdp_optimizer_files
from .launch import Launch
from .zero import Zero, Zero3, check_zero, zero_shares


if TYPE_CHECKING:
    from accelerate import Accelerator


def launch_of(accelerator: Accelerator) -> Launch:
    """The launch that an accelerator was made under."""
    kind = getattr(accelerator, "distributed_type", None)
    if kind == DistributedType.FSDP:
        return Fsdp2(accelerator)
    if kind == DistributedType.DEEPSPEED:
        is_sharded = accelerator.state.deepspeed_plugin.zero_stage == 3
        return Zero3(accelerator) if is_sharded else Zero(accelerator)
    return Launch(accelerator)


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
                f"{name} is not supported, as every process samples with all weights: launch with DDP (torchrun or "
                "accelerate launch --multi_gpu), FSDP2 or DeepSpeed ZeRO, and save memory by an adapter (use_peft, "
                "peft_config), load_in_4bit, gradient_checkpointing or a smaller per_device_train_batch_size."
            )


def check_resumed_launch(launch: Launch, checkpoint: str | Path) -> None:
    """Refuse to resume from optimizer states that this launch cannot read, `--force` or not.

    Raises:
        UserError: a checkpoint of another kind of launch, or under DeepSpeed of another number of processes.
    """
    shares = zero_shares(checkpoint)
    if shares:
        written = f"DeepSpeed with {shares} processes"
    else:
        written = "FSDP" if fsdp_optimizer_files(checkpoint) else "neither DeepSpeed nor FSDP"
    if written != launch.description:
        raise UserError(
            f"The optimizer states in {checkpoint} were written under {written}, and this run has "
            f"{launch.description}: resume it as it was launched."
        )
