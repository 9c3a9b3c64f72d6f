"""FSDP2 through accelerate: weights, gradients and optimizer states are sharded, and gathered when needed.

A contact file, written against torch 2.13 and accelerate 1.15: it touches `Module._load_state_dict_post_hooks`, and
`state.fsdp_plugin`, which is public but not documented.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import nn

from ..errors import UserError
from .environment import is_set
from .launch import Launch, check_is_loaded
from .processes import start_equal


if TYPE_CHECKING:
    from accelerate import Accelerator


_FIRST_VERSION = "FSDP1 is not supported: set fsdp_version (the key version of fsdp_config) to 2."


def asks_for_fsdp(args: Any) -> bool:
    """Whether the training arguments or the launcher ask for FSDP."""
    return bool(getattr(args, "fsdp", None)) or is_set("ACCELERATE_USE_FSDP")


def check_fsdp(args: Any) -> None:
    """Refuse what cannot work under FSDP, before anything is loaded.

    Args:
        args ([`NLPOConfig`]): its `fsdp` and `fsdp_config`; else the launcher's variables count.

    Raises:
        UserError: FSDP1, a machine on which accelerate would train with DDP, or a setting that leaves a process
            without weights.
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
            "fsdp_cpu_ram_efficient_loading leaves all processes but one without weights, and each needs all weights "
            "to sample and to make copies: set it to false."
        )
    if is_on("activation_checkpointing"):
        raise UserError("fsdp_activation_checkpointing is not supported: set gradient_checkpointing instead.")
    if is_on("offload_params", "cpu_offload"):
        raise UserError("fsdp_offload_params is not supported: set it to false.")


def is_on_accelerators() -> bool:
    """Whether accelerate would really train with FSDP here."""
    return PartialState().distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU)


class Fsdp2(Launch):
    """FSDP2: between passes every process has a share of the weights."""

    is_sharded = True
    trains_parts_alone = False

    def __init__(self, accelerator: Accelerator):
        super().__init__(accelerator)
        self._computes_gathered = False

    @property
    def description(self) -> str:
        """Its optimizer states can be read by any number of processes."""
        return "FSDP"

    @property
    def copies_dtype(self) -> torch.dtype | None:
        """What FSDP casts weights to when it gathers them; None: their own precision."""
        policy = self.accelerator.state.fsdp_plugin.mixed_precision_policy
        return getattr(policy, "param_dtype", None)

    def configure(self, args: Any) -> None:
        """Settings of this trainer's own: accelerate keeps those of the first, which know that one's layers.

        Raises:
            UserError: they are for FSDP1.
        """
        from accelerate.utils import FullyShardedDataParallelPlugin

        plugin = FullyShardedDataParallelPlugin(**(getattr(args, "fsdp_plugin_args", None) or {}))
        if plugin.fsdp_version != 2:
            raise UserError(_FIRST_VERSION)
        if self.accelerator.mixed_precision != "no":
            plugin.set_mixed_precision(self.accelerator.mixed_precision)
        self.accelerator.state.fsdp_plugin = plugin

    def place(self, model: nn.Module, ref_model: nn.Module | None = None) -> None:
        """FSDP places a model only when it prepares it."""
        check_is_loaded(model, ref_model)
        model.to(self.accelerator.device)
        start_equal(model)

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Sharded; and FSDP knows that this module is the root of all others, whichever of them computes first.

        Silences a warning of FSDP's for the rest of the process.
        """
        from torch.distributed.fsdp import register_fsdp_forward_method

        wrapped, optimizer = super().prepare(model, optimizer)
        # Nothing that the update does to logits and values is done in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        register_fsdp_forward_method(wrapped, "empty_pass")
        wrapped.empty_pass()
        wrapped.reshard()
        return wrapped, optimizer

    @contextlib.contextmanager
    @torch.no_grad()
    def gathered(self, model: Any, write_back: bool = False) -> Iterator[None]:
        """Plain parameters in place of the shares, in the precision of the shares."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        # What the last pass left gathered may be in another precision, and would be lost with what is written.
        for module in _sharded_modules(model):
            module.reshard()
        places = [
            (module, name, parameter)
            for module in model.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if isinstance(parameter, DTensor)
        ]
        # Tied weights are one parameter in several places, and stay one.
        shares = {id(parameter): parameter for _, _, parameter in places}
        full = {
            key: nn.Parameter(share.full_tensor(), requires_grad=share.requires_grad) for key, share in shares.items()
        }
        # After `load_state_dict` FSDP looks whether its shares are still in their places.
        hooks = {module: module._load_state_dict_post_hooks for module, _, _ in places}
        for module, name, share in places:
            setattr(module, name, full[id(share)])
            module._load_state_dict_post_hooks = OrderedDict()
        try:
            yield
        finally:
            for module, name, share in places:
                setattr(module, name, share)
                module._load_state_dict_post_hooks = hooks[module]
        if write_back:
            for key, share in shares.items():
                share.copy_(distribute_tensor(full[key].data, share.device_mesh, share.placements))
        if self._computes_gathered:
            for module in _sharded_modules(model):
                module.unshard()

    @contextlib.contextmanager
    def gathered_to_compute(self, model: Any) -> Iterator[None]:
        """In the precision that FSDP computes in."""
        if self._computes_gathered:
            yield
            return
        modules = _sharded_modules(model)
        for module in modules:
            module.unshard()
            module.set_reshard_after_forward(False, recurse=False)
        self._computes_gathered = True
        try:
            yield
        finally:
            self._computes_gathered = False
            for module in modules:
                # As accelerate has it: what the root holds is needed again at once when the backward pass begins.
                reshards = module is not model and bool(self.accelerator.state.fsdp_plugin.reshard_after_forward)
                module.set_reshard_after_forward(reshards, recurse=False)
                module.reshard()

    def autocast(self) -> AbstractContextManager[Any]:
        """FSDP casts the weights instead, where it computes in another precision."""
        return super().autocast() if self.copies_dtype is None else contextlib.nullcontext()

    def clip_gradients(self, model: Any, limit: float) -> torch.Tensor:
        """Every process has a share of the norm."""
        norm: Any = self.accelerator.clip_grad_norm_(model.parameters(), limit)
        return torch.as_tensor(norm.full_tensor() if hasattr(norm, "full_tensor") else norm, dtype=torch.float64)

    def saved_optimizer(self, optimizer: Any, model: nn.Module, folder: str) -> bool:
        """Every process writes its share (or the first one all: `fsdp_state_dict_type`)."""
        from accelerate.utils import save_fsdp_optimizer

        # `transformers` would write the weights a second time.
        save_fsdp_optimizer(self.accelerator.state.fsdp_plugin, self.accelerator, optimizer, model, folder)
        return True


def fsdp_optimizer_files(folder: str | Path) -> list[Path]:
    """What `Fsdp2.saved_optimizer` wrote."""
    return [path for pattern in ("optimizer_0", "optimizer.bin") for path in Path(folder).glob(pattern)]


def _sharded_modules(root: Any) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in root.modules() if isinstance(module, FSDPModule)]
