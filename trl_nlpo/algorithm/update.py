"""Room 4: epochs of the clipped objective over one rollout, under the same masks. Knows neither text nor rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..functional.losses import clipped_policy_loss, clipped_value_loss
from ..functional.statistics import AllSum
from ..launch.zero import accumulating, is_zero, spoiled_unless
from ..models.policy_and_value import PolicyAndValue
from ..records import Estimates, Rollout, UpdateStats, without_skipped
from .batch_plan import BatchPlan
from .distribution import SamplingSettings, action_logprobs


@dataclass(frozen=True)
class Objective:
    """The loss is policy + `vf_coef` * value - `entropy_coef` * entropy; fields as in [`NLPOConfig`]."""

    cliprange: float
    cliprange_value: float
    vf_coef: float
    entropy_coef: float
    max_grad_norm: float


def update_policy(
    model: torch.nn.Module,
    rollout: Rollout,
    estimates: Estimates,
    *,
    module: PolicyAndValue,
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    plan: BatchPlan,
    objective: Objective,
    sampling: SamplingSettings,
    all_sum: AllSum,
    generator: torch.Generator,
) -> UpdateStats:
    """`num_ppo_epochs` x `num_mini_batches` optimizer steps on one rollout (paper, section 4; PPO, algorithm 1).

    The gradient of a step is that of the mean over all real tokens of its minibatch, however the minibatch is cut into
    microbatches and spread over processes. Completions that `estimates` skips are not among them. A step whose loss or
    gradient is not finite is not taken.

    Args:
        model: the policy and value function as accelerate wrapped it; called on [`Sequences`].
        module ([`PolicyAndValue`]): the same, unwrapped.
        rollout ([`Rollout`]), estimates ([`Estimates`]): of the same B completions.
        optimizer, accelerator: as `accelerate` prepared them.
        plan ([`BatchPlan`]), objective ([`Objective`]), sampling ([`SamplingSettings`]): the run's settings.
        all_sum: adds up over processes.
        generator: decides the order of the rows.

    Returns:
        [`UpdateStats`].
    """
    totals = _Totals(rollout.completion_ids.device)
    learned = without_skipped(rollout.completion_mask, estimates.skipped)
    model.train()
    for microbatches in plan.minibatches(len(rollout), generator):
        num_tokens = all_sum(learned[torch.cat(microbatches)].sum())
        if estimates.skipped is not None and not num_tokens:
            totals.skip_step()
            continue
        totals.begin_step()
        for number, rows in enumerate(microbatches, start=1):
            is_last = number == len(microbatches)
            with accumulating(model, accelerator, is_last):
                microbatch = _Microbatch(rollout, estimates, learned, rows)
                for part in ("both",) if plan.num_processes > 1 or is_zero(accelerator) else module.parts:
                    with module.computing(part):
                        logits, values = model(microbatch.sequences, part)
                        loss = microbatch.loss(logits, values, objective, sampling, totals)
                        totals.add_loss(loss)
                        # Processes average their gradients, and the mean is over the tokens of all of them.
                        scale = spoiled_unless(totals.loss_is_finite, accelerator, plan.num_processes / num_tokens)
                        accelerator.backward(loss * scale)
                        del logits, values, loss
        _step(optimizer, accelerator, _clip_gradients(model, accelerator, objective.max_grad_norm), totals, all_sum)
    return totals.stats(all_sum)


def _step(
    optimizer: torch.optim.Optimizer, accelerator: Any, grad_norm: torch.Tensor, totals: _Totals, all_sum: AllSum
) -> None:
    """An optimizer step, or none, which leaves all as it is, where loss or gradient of any process is not finite.

    DeepSpeed has taken it, or not taken it by the same rule, in the last backward pass: then this only counts.
    """
    is_finite = grad_norm.to(totals.loss_is_finite.device).isfinite() & totals.loss_is_finite
    if not all_sum((~is_finite).long()):
        optimizer.step()
        totals.add_step(grad_norm)
    else:
        totals.skip_step()
        # With fp16 that is part of the game: the scaler takes no step either, and lowers its scale.
        if getattr(accelerator, "scaler", None) is not None and not grad_norm.isfinite():
            optimizer.step()
    optimizer.zero_grad()


class _Microbatch:
    """Some rows of a rollout and their estimates, cut to the width that these rows need."""

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
        totals: _Totals,
    ) -> torch.Tensor:
        """The loss, of policy and value function or of the one that is there, summed over the tokens learned from."""
        per_token = torch.zeros_like(self.old_logprobs)
        if logits is not None:
            per_token = per_token + self._policy_loss(logits, objective, sampling, totals)
        if values is not None:
            per_token = per_token + objective.vf_coef * self._value_loss(values, objective, totals)
        return torch.where(self.learned, per_token, 0.0).sum()

    def _policy_loss(
        self, logits: torch.Tensor, objective: Objective, sampling: SamplingSettings, totals: _Totals
    ) -> torch.Tensor:
        real = self.learned
        logprobs, entropies = action_logprobs(logits, self.sequences, sampling)
        logprobs = torch.where(real, logprobs, 0.0)
        loss, clipped = clipped_policy_loss(logprobs, self.old_logprobs, self.advantages, objective.cliprange)
        totals.add_policy(real, logprobs - self.old_logprobs, loss, clipped, entropies)
        return loss - objective.entropy_coef * entropies if objective.entropy_coef else loss

    def _value_loss(self, values: torch.Tensor, objective: Objective, totals: _Totals) -> torch.Tensor:
        loss, clipped = clipped_value_loss(values, self.old_values, self.returns, objective.cliprange_value)
        totals.add(self.learned, value_loss=loss, value_clipfrac=clipped)
        return loss


def _clip_gradients(model: torch.nn.Module, accelerator: Any, max_grad_norm: float) -> torch.Tensor:
    """Clip the joint gradient of policy and value function; returns its norm before. 0 or less: measure only."""
    limit = max_grad_norm if max_grad_norm and max_grad_norm > 0 else float("inf")
    norm = accelerator.clip_grad_norm_(model.parameters(), limit)
    if hasattr(norm, "full_tensor"):
        # Under FSDP2 every process has a share of the norm.
        norm = norm.full_tensor()
    return torch.as_tensor(norm, dtype=torch.float64)


class _Totals:
    """Sums over real tokens, reduced to averages once, so that no average depends on how the batch was cut."""

    NAMES = (
        "tokens", "ratio", "ratio_squares", "approx_kl", "policy_loss", "value_loss", "policy_clipfrac",
        "value_clipfrac", "entropy",
    )  # fmt: skip

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)
        self.grad_norms: list[torch.Tensor] = []
        self.first_ratio_deviation = torch.zeros((), device=device)
        self.num_skipped = self.skipped_in_a_row = 0
        self.begin_step()

    def begin_step(self) -> None:
        self._before = (self.sums.clone(), self.first_ratio_deviation)
        self.loss_is_finite = torch.ones((), dtype=torch.bool, device=self.sums.device)

    def add_loss(self, loss: torch.Tensor) -> None:
        self.loss_is_finite &= loss.detach().isfinite()

    @torch.no_grad()
    def add_policy(
        self,
        real: torch.Tensor,
        log_ratio: torch.Tensor,
        loss: torch.Tensor,
        clipped: torch.Tensor,
        entropies: torch.Tensor,
    ) -> None:
        # The variance is summed up around 1, where the ratio starts, as sums of squares around 0 would cancel.
        deviation = log_ratio.exp() - 1.0
        if not self.grad_norms:
            largest = torch.where(real, deviation.abs(), 0.0).max()
            self.first_ratio_deviation = torch.maximum(self.first_ratio_deviation, largest)
        self.add(
            real,
            tokens=torch.ones_like(log_ratio),
            ratio=deviation,
            ratio_squares=deviation.square(),
            approx_kl=0.5 * log_ratio.square(),
            policy_loss=loss,
            policy_clipfrac=clipped,
            entropy=entropies,
        )

    @torch.no_grad()
    def add(self, real: torch.Tensor, **per_token: torch.Tensor) -> None:
        for name, values in per_token.items():
            self.sums[self.NAMES.index(name)] += torch.where(real, values.to(torch.float64), 0.0).sum()

    def add_step(self, grad_norm: torch.Tensor) -> None:
        self.grad_norms.append(grad_norm)
        self.skipped_in_a_row = 0

    def skip_step(self) -> None:
        """Leave the step that was begun out of all averages."""
        self.sums, self.first_ratio_deviation = self._before
        self.num_skipped += 1
        self.skipped_in_a_row += 1

    def stats(self, all_sum: AllSum) -> UpdateStats:
        sums = dict(zip(self.NAMES, all_sum(self.sums).tolist(), strict=True))
        tokens = sums.pop("tokens") or math.nan
        means = {name: value / tokens for name, value in sums.items()}
        deviation = means.pop("ratio")
        return UpdateStats(
            num_optimizer_steps=len(self.grad_norms),
            ratio=1.0 + deviation,
            ratio_variance=max(means.pop("ratio_squares") - deviation**2, 0.0),
            grad_norm=float(torch.stack(self.grad_norms).mean()) if self.grad_norms else math.nan,
            first_ratio_deviation=float(self.first_ratio_deviation),
            num_skipped_steps=self.num_skipped,
            skipped_steps_in_a_row=self.skipped_in_a_row,
            **means,
        )
