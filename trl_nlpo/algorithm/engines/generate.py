"""The policy itself as the engine: `generate` of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ...models.masking_policy import MaskingPolicy
from ..distribution import MaskSettings, SamplingSettings
from ..generation import Sample, sample_completions


class TransformersEngine:
    """[`RolloutEngine`] that holds the models by reference: there is nothing to copy."""

    _policy: Any
    _masking_policy: MaskingPolicy

    def sync(self, policy: Any, masking_policy: MaskingPolicy) -> None:
        self._policy, self._masking_policy = policy, masking_policy

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        draws: torch.Tensor,
        sampling: SamplingSettings,
        mask: MaskSettings,
        rows_at_a_time: int,
    ) -> Iterator[Sample]:
        for start in range(0, len(prompts), rows_at_a_time):
            rows = slice(start, start + rows_at_a_time)
            yield sample_completions(self._policy, prompts[rows], sampling, mask, self._masking_policy, draws[rows])
