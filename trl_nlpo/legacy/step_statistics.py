"""The statistics of a step under their old names, each an exact average over the tokens learned from."""

from __future__ import annotations

from typing import Any

import torch

from ..algorithm.distribution import SamplingSettings
from ..algorithm.objective import Microbatch, Objective
from ..algorithm.totals import Totals
from ..algorithm.update import OptimizerSteps
from ..functional.output_layer import PolicyOutput
from ..functional.statistics import masked_mean
from ..records import Estimates, Rollout, UpdateStats
from .step_rows import StepRows


class StepTotals(Totals):
    """Sums of an update, and three more of what the policy and the value function say while they are updated."""

    OVER = {  # noqa: RUF012
        **Totals.OVER,
        "tokens": (*Totals.OVER["tokens"], "policy_kl"),
        "value_tokens": (*Totals.OVER["value_tokens"], "value", "value_error"),
    }
    NAMES = tuple(name for count, names in OVER.items() for name in (count, *names))

    @torch.no_grad()
    def add_policy(
        self,
        real: torch.Tensor,
        log_ratio: torch.Tensor,
        loss: torch.Tensor,
        clipped: torch.Tensor,
        entropies: torch.Tensor,
    ) -> None:
        super().add_policy(real, log_ratio, loss, clipped, entropies)
        self.add_sums(real, policy_kl=-log_ratio)

    @torch.no_grad()
    def add_sums(self, real: torch.Tensor, **per_token: torch.Tensor) -> None:
        """Add `(B, T)` numbers of tokens that are counted already."""
        for name, values in per_token.items():
            self.sums[self.NAMES.index(name)] += torch.where(real, values.to(torch.float64), 0.0).sum()

    def policy_kl_since(self, before: torch.Tensor) -> float:
        """Mean of log pi_old - log pi over the tokens seen since the sums were `before`."""
        new = self.sums - before
        return float(new[self.NAMES.index("policy_kl")] / new[self.NAMES.index("tokens")].clamp(min=1))


class StepMicrobatch(Microbatch):
    """A microbatch that also adds up what the value function says."""

    def loss(
        self,
        output: PolicyOutput | None,
        values: torch.Tensor | None,
        objective: Objective,
        sampling: SamplingSettings,
        totals: Totals,
    ) -> torch.Tensor:
        if values is not None and isinstance(totals, StepTotals):
            totals.add_sums(self.learned, value=values, value_error=(values - self.returns).square())
        return super().loss(output, values, objective, sampling, totals)


class StatisticSteps(OptimizerSteps):
    """Optimizer steps over the tokens that `learned` `(B, T)` says, with [`StepTotals`]."""

    def __init__(self, *args: Any, learned: torch.Tensor, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.learned = learned
        self.totals: StepTotals = StepTotals(learned.device)

    def microbatch(self, rows: torch.Tensor, minibatch: torch.Tensor, num_tokens: torch.Tensor) -> Microbatch:
        return StepMicrobatch(self.rollout, self.estimates, self.learned, rows, self.module.value_units)


def step_statistics(
    rows: StepRows,
    rollout: Rollout,
    learned: torch.Tensor,
    estimates: Estimates,
    scores: torch.Tensor,
    stats: UpdateStats,
    means: dict[str, float],
    vf_coef: float,
) -> dict[str, Any]:
    """Numbers, and NumPy arrays for the entries that are distributions.

    Args:
        rows ([`StepRows`]), rollout ([`Rollout`]), estimates ([`Estimates`]), scores (`(B,)`): of the step; scores as
            they were learned from.
        learned (`torch.Tensor` of shape `(B, T)`, bool): the tokens that all averages are over.
        stats ([`UpdateStats`]), means (`dict`): of its [`StepTotals`].
        vf_coef (`float`): weighs the value loss in `ppo/loss/total`.
    """

    def over_tokens(values: torch.Tensor) -> float:
        return float(masked_mean(values.double(), learned))

    def variance(values: torch.Tensor) -> float:
        """The unbiased one."""
        return float(values[learned].double().var()) if rows.num_learned > 1 else 0.0

    kl = estimates.kl.sum(-1)
    surprise = torch.where(learned, -rollout.old_logprobs, 0.0).sum(-1)
    lengths = {
        "queries": torch.tensor([len(row) for row in rows.queries], dtype=torch.float),
        "responses": torch.tensor([len(row) for row in rows.responses], dtype=torch.float),
    }
    returns_variance = variance(estimates.returns)
    found: dict[str, Any] = {
        "objective/kl": float(kl.mean()),
        "objective/kl_dist": kl.cpu().numpy(),
        "objective/kl_coef": estimates.kl_coef,
        "objective/entropy": float(surprise.mean()),
        "objective/logprobs": rollout.raw_logprobs.cpu().numpy(),
        "objective/ref_logprobs": rollout.ref_logprobs.cpu().numpy(),
        "ppo/mean_non_score_reward": over_tokens(-estimates.kl_coef * estimates.kl),
        "ppo/mean_scores": float(scores.mean()),
        "ppo/std_scores": float(scores.std()) if len(scores) > 1 else 0.0,
        "ppo/loss/policy": stats.policy_loss,
        "ppo/loss/value": stats.value_loss,
        "ppo/loss/total": stats.policy_loss + vf_coef * stats.value_loss,
        "ppo/policy/entropy": stats.entropy,
        "ppo/policy/approxkl": stats.approx_kl,
        "ppo/policy/policykl": means["policy_kl"],
        "ppo/policy/clipfrac": stats.policy_clipfrac,
        "ppo/policy/advantages": estimates.advantages[learned].cpu().numpy(),
        "ppo/policy/advantages_mean": over_tokens(estimates.advantages),
        "ppo/policy/ratio": stats.ratio,
        "ppo/returns/mean": over_tokens(estimates.returns),
        "ppo/returns/var": returns_variance,
        "ppo/val/vpred": means["value"],
        "ppo/val/error": means["value_error"],
        "ppo/val/clipfrac": stats.value_clipfrac,
        "ppo/val/mean": over_tokens(rollout.values),
        "ppo/val/var": variance(rollout.values),
        "ppo/val/var_explained": 1.0 - means["value_error"] / returns_variance if returns_variance else float("nan"),
        "nlpo/first_ratio_deviation": stats.first_ratio_deviation,
        "nlpo/optimizer_steps": stats.num_optimizer_steps,
        "nlpo/skipped_steps": stats.num_skipped_steps,
        "nlpo/gradient_norm": stats.grad_norm,
    }
    for name, numbers in lengths.items():
        found[f"tokens/{name}_len_mean"] = float(numbers.mean())
        found[f"tokens/{name}_len_std"] = float(numbers.std()) if len(numbers) > 1 else 0.0
        found[f"tokens/{name}_dist"] = numbers.numpy()
    return found
