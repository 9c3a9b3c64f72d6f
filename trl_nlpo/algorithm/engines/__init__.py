"""What samples the completions of a rollout, behind one interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from ...models.masking_policy import MaskingPolicy
from ..distribution import MaskSettings, SamplingSettings
from ..generation import Sample


class RolloutEngine(Protocol):
    """Samples completions, and records the set that each token was sampled from.

    Given the same logits, every engine gives the same tokens and sets: the draws decide. Log-probabilities for the
    update are always the trainer's own.
    """

    def sync(self, policy: Any, masking_policy: MaskingPolicy) -> None:
        """Take over the weights of policy and masking policy as they are now."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        draws: torch.Tensor,
        sampling: SamplingSettings,
        mask: MaskSettings,
        rows_at_a_time: int,
    ) -> Iterator[Sample]:
        """A completion per prompt.

        Args:
            prompts: B rows of token ids.
            draws (`torch.Tensor` of shape `(B, max_new_tokens)`): what decides the tokens, see [`row_draws`].
            sampling ([`SamplingSettings`]), mask ([`MaskSettings`]): how, and what may be sampled.
            rows_at_a_time (`int`): rows of each [`Sample`], in the order of the prompts.
        """
        ...
