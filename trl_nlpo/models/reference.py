"""The reference policy, whoever it is: a model of its own, or other weights on the policy's base model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..functional.output_layer import PolicyOutput
from ..records import TokenRows
from .adapters import active_adapter, is_adapter_model, without_adapter
from .copies import frozen_adapter, frozen_copy, swapped_weights, with_dtype
from .policy_and_value import completion_output


class Reference:
    """The policy that the KL penalty holds on to, π_0 (paper, section 4).

    Args:
        policy: the policy, as it starts.
        ref_model (*optional*): a model of its own. None: a copy of the policy; with PEFT, the adapter `ref_adapter`,
            or else the adapter as it starts, or, when that is fresh, the base model without an adapter.
        adapter (`str`): of a PEFT model, the adapter that is trained.
        ref_adapter (`str`, *optional*): of a PEFT model, the adapter that is the reference.
        is_fresh (`bool`): whether the adapter was made for this run: the policy without it is where the run starts.
        device (`torch.device`, *optional*): where a model of its own goes.
        dtype (`torch.dtype`, *optional*): of the copies, as in [`MaskingPolicy`].
    """

    def __init__(
        self,
        policy: Any,
        ref_model: nn.Module | None = None,
        *,
        adapter: str = "",
        ref_adapter: str | None = None,
        is_fresh: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        self.policy = policy
        self._ref_adapter = ref_adapter
        shares_base = is_adapter_model(policy)
        # A policy that was trained before is the reference, with its adapter; a fresh adapter changes nothing yet.
        starts_warm = shares_base and not is_fresh and ref_adapter is None and ref_model is None
        if ref_model is None and not shares_base:
            ref_model = frozen_copy(policy)
        self.model: nn.Module | None = None if ref_model is None else with_dtype(ref_model, dtype)
        """The reference as a model of its own; None where it shares the policy's base model."""
        if self.model is not None:
            self.model.to(device).eval()
        self._weights = frozen_adapter(policy, adapter, dtype) if starts_warm else {}
        self.fuses_output_layer = False
        """As in [`PolicyAndValue`]."""

    def output(self, sequences: TokenRows) -> PolicyOutput:
        """Raw logits `(B, T, V)` of the completion tokens, or what they are computed from."""
        with self.weights():
            return completion_output(self.any_model, sequences, self.fuses_output_layer)

    @property
    def any_model(self) -> Any:
        """The model that computes it, inside of `weights`."""
        return self.policy if self.model is None else self.model

    @contextlib.contextmanager
    def weights(self) -> Iterator[None]:
        """The policy's base model computes as the reference while inside; no change for a model of its own."""
        with contextlib.nullcontext() if self.model is not None else self._on_the_policys_base():
            yield

    def _on_the_policys_base(self) -> Any:
        if self._ref_adapter:
            return active_adapter(self.policy, self._ref_adapter)
        if self._weights:
            return swapped_weights(self.policy, self._weights)
        return without_adapter(self.policy) if is_adapter_model(self.policy) else contextlib.nullcontext()
