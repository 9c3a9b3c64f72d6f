"""The masking policy: a frozen copy of the policy that decides which tokens may be sampled (paper, section 4)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from .adapters import MASK_ADAPTER, add_frozen_adapter, is_adapter_model, takes_mixed_batches, trained_weights
from .copies import frozen_adapter, frozen_copy, swapped_weights


class MaskingPolicy:
    """A copy of the policy's weights as they were at the last sync, and the schedule of syncs.

    A plain model is copied in full. Of a PEFT model only the adapter is copied: its weights are put in place of the
    policy's for the time of a forward pass, so that both live on one base model.

    Args:
        policy: the policy; copied at once.
        sync_steps (`int`, *optional*): updates between two syncs (the paper's µ). None: never.
        masks (`bool`): False where nothing is ever masked (PPO): then there is no copy, and no memory for one.
        adapter (`str`, *optional*): of a PEFT model, the adapter that is the policy; by default the active one.
        in_one_batch (`bool`): of a LoRA model, keep the copy as an adapter, so that rollouts can compute the rows of
            policy and masking policy in one batch: twice the rows instead of twice the passes. Meant for GPUs, where
            a pass is bound by reading weights; see `benchmarks/README.md`.
        dtype (`torch.dtype`, *optional*): of the copy's weights, where the policy computes in another precision than
            it is kept in, as under FSDP2. None: the policy's.
    """

    def __init__(
        self,
        policy: Any,
        sync_steps: int | None,
        masks: bool = True,
        adapter: str | None = None,
        in_one_batch: bool = False,
        dtype: torch.dtype | None = None,
    ):
        self.policy = policy
        self.sync_steps = sync_steps
        self.masks = masks
        self.age = 0
        """Updates since the last sync."""
        self.num_syncs = 0
        self._is_current = True
        self._shares_base = is_adapter_model(policy)
        self._adapter = adapter or (policy.active_adapter if self._shares_base else "")
        self._model = frozen_copy(policy, dtype) if masks and not self._shares_base else policy
        self.in_one_batch = in_one_batch and masks and self._shares_base and takes_mixed_batches(policy)
        """Whether rollouts compute policy and masking policy as rows of one batch."""
        if self.in_one_batch:
            self._weights = add_frozen_adapter(policy, MASK_ADAPTER, self._adapter)
        else:
            self._weights = frozen_adapter(policy, self._adapter, dtype) if masks and self._shares_base else {}

    @property
    def is_current(self) -> bool:
        """Whether the policy has not moved since the last sync: its own top-p set is the mask then."""
        return self._is_current or not self.masks

    @contextlib.contextmanager
    def model(self) -> Iterator[Any]:
        """The masking policy as a model, to be used inside the `with` only."""
        if not self._shares_base:
            yield self._model
            return
        with swapped_weights(self.policy, self._weights):
            yield self.policy

    def adapters_of_rows(self, num_rows: int) -> list[str]:
        """Names of the adapters for a batch of the policy's rows and then as many of the masking policy's."""
        return [self._adapter] * num_rows + [MASK_ADAPTER] * num_rows

    def policy_moved(self) -> None:
        """Call after changing the policy's weights yourself; `update_policy` does."""
        self.age += 1
        self._is_current = False

    @property
    def sync_is_due(self) -> bool:
        """Whether µ updates have passed since the last sync."""
        return self.sync_steps is not None and self.age >= self.sync_steps

    @torch.no_grad()
    def sync(self) -> None:
        """Copy the policy: ψ ← θ. The very next forward pass of the masking policy uses the new weights."""
        if self.masks and self._shares_base:
            for name, weight in trained_weights(self.policy, self._adapter).items():
                self._weights[name].copy_(weight)
        elif self.masks:
            copies = dict(self._model.named_parameters())
            for name, parameter in self.policy.named_parameters():
                copies[name].copy_(parameter)
            buffers = dict(self._model.named_buffers())
            for name, buffer in self.policy.named_buffers():
                buffers[name].copy_(buffer)
        self.age = 0
        self.num_syncs += 1
        self._is_current = True

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The copied weights, by the names of the policy's."""
        if not self.masks:
            return {}
        source = self._weights.items() if self._shares_base else self._model.named_parameters()
        return {name: tensor.detach().clone() for name, tensor in source}

    @torch.no_grad()
    def load_state_dict(self, weights: dict[str, torch.Tensor], age: int, num_syncs: int = 0) -> None:
        """Restore what `state_dict` gave, and how old it was."""
        if self.masks:
            target = self._weights if self._shares_base else dict(self._model.named_parameters())
            for name, tensor in weights.items():
                target[name].copy_(tensor)
        self.age, self.num_syncs, self._is_current = age, num_syncs, age == 0
