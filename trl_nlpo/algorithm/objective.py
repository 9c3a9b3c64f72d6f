"""The clipped objective: which losses, with which weights, over the tokens of some rows of a rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..functional.losses import clipped_policy_loss, clipped_value_loss
from ..records import Estimates, Rollout
from .distribution import SamplingSettings, action_logprobs
from .totals import Totals


@dataclass(frozen=True)
class Objective:
    """The loss is policy + `vf_coef` * value - `entropy_coef` * entropy; fields as in [`NLPOConfig`]."""

    cliprange: float
    cliprange_value: float
    vf_coef: float
    entropy_coef: float
    max_grad_norm: float
    cliprange_high: float | None = None
    dual_clip: float | None = None
    is_truncation: tuple[float, float] | None = None

    @classmethod
    def from_config(cls, args: Any) -> Objective:
        """Read the coefficients off an [`NLPOConfig`]."""
        return cls(
            args.cliprange,
            args.cliprange_value,
            args.vf_coef,
            args.entropy_coef,
            args.max_grad_norm,
            args.cliprange_high,
            args.dual_clip,
            None if args.is_truncation is None else (args.is_truncation[0], args.is_truncation[1]),
        )


class Microbatch:
    """Some rows of a rollout and their estimates, trimmed to the width that these rows need."""

    def __init__(self, rollout: Rollout, estimates: Estimates, learned: torch.Tensor, rows: torch.Tensor):
        self.sequences = rollout.sequences(rows)
        width = self.sequences.width
        self.learned = learned[rows, :width]
        self.old_logprobs, self.old_values = rollout.old_logprobs[rows, :width], rollout.values[rows, :width]
        self.advantages, self.returns = estimates.advantages[rows, :width], estimates.returns[rows, :width]

    def loss(
        self,
        logits: torch.Tensor | None,
        values: torch.Tensor | None,
        objective: Objective,
        sampling: SamplingSettings,
        totals: Totals,
    ) -> torch.Tensor:
        """The loss, of policy and value function or of the one that is there, summed over the tokens learned from."""
        per_token = torch.zeros_like(self.old_logprobs)
        if logits is not None:
            per_token = per_token + self._policy_loss(logits, objective, sampling, totals)
        if values is not None:
            per_token = per_token + objective.vf_coef * self._value_loss(values, objective, totals)
        return torch.where(self.learned, per_token, 0.0).sum()

    def _policy_loss(
        self, logits: torch.Tensor, objective: Objective, sampling: SamplingSettings, totals: Totals
    ) -> torch.Tensor:
        real = self.learned
        logprobs, entropies = action_logprobs(logits, self.sequences, sampling)
        logprobs = torch.where(real, logprobs, 0.0)
        loss, clipped = clipped_policy_loss(
            logprobs,
            self.old_logprobs,
            self.advantages,
            objective.cliprange,
            objective.cliprange_high,
            objective.dual_clip,
            objective.is_truncation,
        )
        totals.add_policy(real, logprobs - self.old_logprobs, loss, clipped, entropies)
        return loss - objective.entropy_coef * entropies if objective.entropy_coef else loss

    def _value_loss(self, values: torch.Tensor, objective: Objective, totals: Totals) -> torch.Tensor:
        loss, clipped = clipped_value_loss(values, self.old_values, self.returns, objective.cliprange_value)
        totals.add(self.learned, value_loss=loss, value_clipfrac=clipped)
        return loss
