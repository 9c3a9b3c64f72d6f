"""FSDP2 through accelerate: shares of weights, gradients and optimizer on every process, put together when needed.

Everything here that takes an accelerator does nothing under another launch.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import nn

from ..errors import UserError
from .environment import is_set


_FIRST_VERSION = "FSDP1 is not supported: set fsdp_version (the key version of fsdp_config) to 2."


def is_fsdp(accelerator: Any) -> bool:
    """Whether FSDP trains."""
    return getattr(accelerator, "distributed_type", None) == DistributedType.FSDP


def asks_for_fsdp(args: Any) -> bool:
    """Whether the training arguments or the launcher ask for FSDP."""
    return bool(getattr(args, "fsdp", None)) or is_set("ACCELERATE_USE_FSDP")


def check_fsdp(args: Any) -> None:
    """Refuse what cannot work under FSDP, before anything is loaded.

    Args:
        args ([`NLPOConfig`]): its `fsdp` and `fsdp_config`; else the launcher's variables count.

    Raises:
        UserError: FSDP1, a machine on which accelerate would train with DDP, or a setting that leaves a process
            without whole weights.
    """
    config = dict(getattr(args, "fsdp_config", None) or {}) if getattr(args, "fsdp", None) else None

    def setting(name: str, default: Any) -> str:
        value = os.environ.get(f"FSDP_{name.upper()}", default) if config is None else config.get(name, default)
        return str(value).lower()

    def is_on(*names: str) -> bool:
        return any(setting(name, False) in ("1", "true", "yes") for name in names)

    if not is_on_accelerators():
        raise UserError(
            "FSDP was asked for, but accelerate runs it on several GPUs only, and would train with DDP here without a "
            "word: leave FSDP out, or launch on GPUs with torchrun or accelerate launch."
        )
    # Without a version the launcher means the first; what a configuration means depends on transformers.
    if setting("version", 2 if config is not None else 1) != "2":
        raise UserError(_FIRST_VERSION)
    if is_on("cpu_ram_efficient_loading"):
        raise UserError(
            "fsdp_cpu_ram_efficient_loading leaves all processes but one without weights, and each needs whole models "
            "to sample from and to compare with: set it to false."
        )
    if is_on("activation_checkpointing"):
        raise UserError("fsdp_activation_checkpointing is not supported: set gradient_checkpointing instead.")
    if is_on("offload_params", "cpu_offload"):
        raise UserError("fsdp_offload_params is not supported: set it to false.")


def is_on_accelerators() -> bool:
    """Whether accelerate would really train with FSDP here."""
    return PartialState().distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU)


def configure_fsdp(accelerator: Any, args: Any) -> None:
    """Settings of this trainer's own: accelerate keeps those of the first, which know that one's layers.

    Raises:
        UserError: they are for FSDP1.
    """
    if is_fsdp(accelerator):
        from accelerate.utils import FullyShardedDataParallelPlugin

        plugin = FullyShardedDataParallelPlugin(**(getattr(args, "fsdp_plugin_args", None) or {}))
        if plugin.fsdp_version != 2:
            raise UserError(_FIRST_VERSION)
        if accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(accelerator.mixed_precision)
        accelerator.state.fsdp_plugin = plugin


def start_fsdp(accelerator: Any, model: Any) -> None:
    """Let FSDP find out that this module is the root of all others, whichever of them computes first."""
    if is_fsdp(accelerator):
        from torch.distributed.fsdp import register_fsdp_forward_method

        # Nothing that the update does to logits and values is done in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        register_fsdp_forward_method(model, "empty_pass")
        model.empty_pass()
        model.reshard()


def computing_dtype(accelerator: Any) -> torch.dtype | None:
    """The precision that FSDP casts weights to when it puts them together; None: their own."""
    if not is_fsdp(accelerator):
        return None
    return getattr(accelerator.state.fsdp_plugin.mixed_precision_policy, "param_dtype", None)


@contextlib.contextmanager
def unsharded(root: Any, accelerator: Any) -> Iterator[None]:
    """Whole weights in the precision that FSDP computes in, which stay whole through any number of passes; nests."""
    if getattr(root, "computes_whole", False):
        yield
        return
    modules = _sharded_modules(root)
    for module in modules:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    root.computes_whole = True
    try:
        yield
    finally:
        root.computes_whole = False
        for module in modules:
            # As accelerate has it: what the root holds is needed again at once when the backward pass begins.
            reshards = module is not root and bool(accelerator.state.fsdp_plugin.reshard_after_forward)
            module.set_reshard_after_forward(reshards, recurse=False)
            module.reshard()


def _sharded_modules(root: Any) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in root.modules() if isinstance(module, FSDPModule)]


@contextlib.contextmanager
@torch.no_grad()
def whole_parameters(root: Any, write_back: bool = False) -> Iterator[None]:
    """Plain parameters in place of the shares, in the precision of the shares."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    # What the last pass left whole may be in another precision, and would be lost with what is written.
    for module in _sharded_modules(root):
        module.reshard()
    places = [
        (module, name, parameter)
        for module in root.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(parameter, DTensor)
    ]
    # Tied weights are one parameter in several places, and stay one.
    shares = {id(parameter): parameter for _, _, parameter in places}
    whole = {
        key: nn.Parameter(share.full_tensor(), requires_grad=share.requires_grad) for key, share in shares.items()
    }
    # After `load_state_dict` FSDP looks whether its shares are still in their places.
    hooks = {module: module._load_state_dict_post_hooks for module, _, _ in places}
    for module, name, share in places:
        setattr(module, name, whole[id(share)])
        module._load_state_dict_post_hooks = OrderedDict()
    try:
        yield
    finally:
        for module, name, share in places:
            setattr(module, name, share)
            module._load_state_dict_post_hooks = hooks[module]
    if write_back:
        for key, share in shares.items():
            share.copy_(distribute_tensor(whole[key].data, share.device_mesh, share.placements))
    if getattr(root, "computes_whole", False):
        for module in _sharded_modules(root):
            module.unshard()


def save_fsdp_optimizer(accelerator: Any, optimizer: Any, model: nn.Module, folder: str) -> None:
    """Optimizer states, of which every process writes its share (or the first one all: `fsdp_state_dict_type`)."""
    from accelerate.utils import save_fsdp_optimizer as save

    save(accelerator.state.fsdp_plugin, accelerator, optimizer, model, folder)


def optimizer_files(folder: str | Path) -> list[Path]:
    """What `save_fsdp_optimizer` wrote."""
    return [path for pattern in ("optimizer_0", "optimizer.bin") for path in Path(folder).glob(pattern)]
