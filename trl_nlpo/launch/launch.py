"""`Launch`: how the processes of one run hold and train the weights. One process and DDP; the base of the other kinds.

Rollouts, copies and checkpoints need all weights on every process, the update does not. Methods that talk to other
processes are called by all of them together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from .processes import start_equal


if TYPE_CHECKING:
    from accelerate import Accelerator


class Launch:
    """One process, or several with DDP: every process has all weights at all times.

    Args:
        accelerator (`Accelerator`): the trainer's.
    """

    is_sharded: ClassVar[bool] = False
    """Whether a process has only a share of the weights between passes."""

    splits_passes: ClassVar[bool] = True
    """Whether policy and value function may run their backward passes one after the other, with one process."""

    trains_parts_alone: ClassVar[bool] = True
    """Whether an optimizer step can be of policy or value function alone, and their gradients clipped apart."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._rehearsed_model: Any = None

    @property
    def description(self) -> str:
        """What optimizer states in a checkpoint have to have been written under, to be read by this launch."""
        return "neither DeepSpeed nor FSDP"

    @property
    def copies_dtype(self) -> torch.dtype | None:
        """Precision of copies of the policy, where it computes in another than its own. None: the weights'."""
        return None

    def configure(self, args: Any) -> None:
        """Tell the engine, before it is made, what the training arguments ([`NLPOConfig`]) say.

        Raises:
            UserError: its own configuration says otherwise.
        """

    def place(self, model: nn.Module, ref_model: nn.Module | None = None) -> None:
        """The policy on its device, equal on all processes and in the engine's precision, before copies are made.

        Raises:
            UserError: a model has no data, or was sharded while it was loaded.
        """
        check_is_loaded(model, ref_model)
        start_equal(model)

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        """Model and optimizer as accelerate wraps them."""
        return self.accelerator.prepare(model, optimizer)

    def gathered(self, model: Any, write_back: bool = False) -> AbstractContextManager[None]:
        """All weights on every process, in their own precision, to read, save or change; not to compute with.

        Args:
            model: as accelerate wrapped it.
            write_back (`bool`): keep what the first process changes; otherwise changes are lost.
        """
        return contextlib.nullcontext()

    def gathered_to_compute(self, model: Any) -> AbstractContextManager[None]:
        """All weights on every process, for any number of passes that other processes need not take part in; nests.

        Args:
            model: as accelerate wrapped it.
        """
        return contextlib.nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the update, for passes outside of it."""
        return self.accelerator.autocast()

    def needs_rehearsal(self, model: Any) -> bool:
        """Whether a forward and backward pass has to be made and thrown away before the first one that counts.

        DDP sorts its buckets anew after the first backward pass of a process. Where a gradient is in its bucket
        decides at which process its sum begins, and with three or more processes that changes the last bits: a run
        that is resumed would take its first step with other sums than the unbroken one. True until [`rehearsed`].

        Args:
            model: as accelerate wrapped it.
        """
        is_new = self._rehearsed_model is not model
        return is_new and self.accelerator.num_processes > 2 and isinstance(model, DistributedDataParallel)

    def rehearsed(self, model: Any) -> None:
        """The pass of [`needs_rehearsal`] has been made."""
        self._rehearsed_model = model

    def accumulating(self, model: Any, is_last: bool) -> AbstractContextManager[Any]:
        """Passes whose gradients are added up over processes in the last of an optimizer step only.

        Args:
            model: as accelerate wrapped it.
            is_last (`bool`): whether these are the last of a step.
        """
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(model)

    def backward(self, loss: torch.Tensor, scale: torch.Tensor, is_finite: torch.Tensor) -> None:
        """The gradient of `loss * scale`.

        Args:
            loss, scale (`torch.Tensor` of shape `()`)
            is_finite (`torch.Tensor` of shape `()`, bool): False where the step that is begun must not be taken. Only
                an engine that steps inside its backward pass needs to know; it gets gradients that are not finite.
        """
        self.accelerator.backward(loss * scale)

    def clip_gradients(self, model: Any, limit: float) -> torch.Tensor:
        """Clip the joint gradient of policy and value function; returns its norm before, float64."""
        return torch.as_tensor(self.accelerator.clip_grad_norm_(model.parameters(), limit), dtype=torch.float64)

    def clip_apart(self, parts: Sequence[tuple[Sequence[nn.Parameter], float]]) -> list[torch.Tensor]:
        """Clip the gradients of several sets of parameters, each to its limit; their norms before, float64."""
        self.accelerator.unscale_gradients()
        return [nn.utils.clip_grad_norm_(parameters, limit).double() for parameters, limit in parts]

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean over processes of gradients that were not taken through the wrapped model."""
        if self.accelerator.num_processes > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")

    def step_was_skipped(self, optimizer: Any, grad_norm: torch.Tensor) -> None:
        """With loss scaling (fp16) such a step is expected: the scaler takes none either, and lowers its scale."""
        if getattr(self.accelerator, "scaler", None) is not None and not grad_norm.isfinite():
            optimizer.step()

    def all_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        return self.accelerator.reduce(tensor, reduction="sum")

    def saved_optimizer(self, optimizer: Any, model: nn.Module, folder: str) -> bool:
        """Write optimizer states in a format of the launch's own; False: `transformers` has to."""
        return False

    def load_shares(self, model: Any, checkpoint: str) -> None:
        """Read what this process's share is in a checkpoint, after the weights were loaded into the model."""

    def weights_were_set(self, optimizer: Any) -> None:
        """Let the optimizer continue from weights that were loaded into the model, not from a copy of its own."""

    def release(self) -> None:
        """Make room for the next trainer of this process, whose settings may differ."""


def check_is_loaded(*models: nn.Module | None) -> None:
    """Refuse models that are sharded already, or have no data: each process makes copies of all weights.

    Raises:
        UserError: `deepspeed.zero.Init` sharded a model, or a weight is on the meta device.
    """
    for model in models:
        for parameter in () if model is None else model.parameters():
            if hasattr(parameter, "ds_id") or parameter.is_meta:
                raise UserError(
                    f"{type(model).__name__} was loaded sharded (deepspeed.zero.Init) or without weights, but every "
                    "process needs all weights to make copies: build NLPOConfig first, then load the model as usual."
                )
