"""The clipped objective: which losses, with which weights, over the tokens of some rows of a rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..functional.losses import anchor_loss, clipped_policy_loss, clipped_value_loss
from ..functional.output_layer import PolicyOutput
from ..records import Estimates, Rollout
from .distribution import SamplingSettings, action_logprobs
from .totals import Totals


@dataclass(frozen=True)
class Objective:
    """Fields as in [`NLPOConfig`]. The loss is policy + `vf_coef` * value - `entropy_coef` * entropy +
    `mask_anchor_coef` * anchor + `positive_nll_coef` * likelihood of positive completions.
    """

    cliprange: float
    cliprange_value: float
    vf_coef: float
    entropy_coef: float
    max_grad_norm: float
    cliprange_high: float | None = None
    dual_clip: float | None = None
    is_truncation: tuple[float, float] | None = None
    critic_max_grad_norm: float | None = None
    mask_anchor_coef: float = 0.0
    positive_nll_coef: float = 0.0

    @classmethod
    def from_config(cls, args: Any) -> Objective:
        """Read the coefficients off an [`NLPOConfig`]."""
        return cls(
            cliprange=args.cliprange,
            cliprange_value=args.cliprange_value,
            vf_coef=args.vf_coef,
            entropy_coef=args.entropy_coef,
            max_grad_norm=args.max_grad_norm,
            cliprange_high=args.cliprange_high,
            dual_clip=args.dual_clip,
            is_truncation=None if args.is_truncation is None else (args.is_truncation[0], args.is_truncation[1]),
            critic_max_grad_norm=args.critic_max_grad_norm,
            mask_anchor_coef=args.mask_anchor_coef,
            positive_nll_coef=args.positive_nll_coef,
        )


class Microbatch:
    """Some rows of a rollout and their estimates, trimmed to the width that these rows need.

    Args:
        rollout ([`Rollout`]), estimates ([`Estimates`]): of the same B completions.
        learned (`torch.Tensor` of shape `(B, T)`, bool): the tokens to learn from.
        rows (`torch.Tensor`, long): which rows.
        returns_scale (`float`): the value function's loss is in units of this.
        positive_weight (`float` or `torch.Tensor` of shape `()`): tokens of the minibatch for each of its tokens of
            positive completions, over which their likelihood is averaged.
    """

    def __init__(
        self,
        rollout: Rollout,
        estimates: Estimates,
        learned: torch.Tensor,
        rows: torch.Tensor,
        returns_scale: float = 1.0,
        positive_weight: torch.Tensor | float = 1.0,
    ):
        self.sequences = rollout.sequences(rows)
        width = self.sequences.width
        self.learned = learned[rows, :width]
        self.old_logprobs, self.old_values = rollout.old_logprobs[rows, :width], rollout.values[rows, :width]
        self.advantages, self.returns = estimates.advantages[rows, :width], estimates.returns[rows, :width]
        anchor = rollout.anchor_log_mass
        self.anchor_log_mass = None if anchor is None else anchor[rows, :width]
        self.positive = None if estimates.positive is None else self.learned & estimates.positive[rows, None]
        self.returns_scale, self.positive_weight = returns_scale, positive_weight

    def loss(
        self,
        output: PolicyOutput | None,
        values: torch.Tensor | None,
        objective: Objective,
        sampling: SamplingSettings,
        totals: Totals,
    ) -> torch.Tensor:
        """The loss, of policy and value function or of the one that is there, summed over the tokens learned from."""
        per_token = torch.zeros_like(self.old_logprobs)
        if output is not None:
            per_token = per_token + self._policy_loss(output, objective, sampling, totals)
        if values is not None:
            per_token = per_token + objective.vf_coef * self._value_loss(values, objective, totals)
        return torch.where(self.learned, per_token, 0.0).sum()

    def _policy_loss(
        self, output: PolicyOutput, objective: Objective, sampling: SamplingSettings, totals: Totals
    ) -> torch.Tensor:
        real = self.learned
        logprobs, entropies, log_mass = action_logprobs(
            output,
            self.sequences,
            sampling,
            with_mass=self._needs_mass(objective),
            entropy_gradient=objective.entropy_coef != 0.0,
        )
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
        if objective.entropy_coef:
            loss = loss - objective.entropy_coef * entropies
        if objective.mask_anchor_coef and self.anchor_log_mass is not None:
            anchor = anchor_loss(log_mass, self.anchor_log_mass)
            totals.add(real, "anchored_tokens", anchor_loss=anchor.detach())
            loss = loss + objective.mask_anchor_coef * anchor
        if self.positive is not None:
            # Without the mask: as in supervised training.
            nll = -(logprobs + log_mass)
            totals.add(self.positive, "positive_tokens", positive_nll=nll.detach())
            weight = objective.positive_nll_coef * self.positive_weight
            loss = loss + torch.where(self.positive, weight * nll, 0.0)
        return loss

    def _needs_mass(self, objective: Objective) -> bool:
        """Whether the loss depends on what the policy gives the allowed tokens together."""
        is_anchored = bool(objective.mask_anchor_coef) and self.anchor_log_mass is not None
        return is_anchored or (self.positive is not None and self.sequences.token_sets is not None)

    def _value_loss(self, values: torch.Tensor, objective: Objective, totals: Totals) -> torch.Tensor:
        scale = self.returns_scale
        loss, clipped = clipped_value_loss(
            values / scale, self.old_values / scale, self.returns / scale, objective.cliprange_value
        )
        totals.add(self.learned, "value_tokens", value_loss=loss, value_clipfrac=clipped)
        return loss
