"""Room 4: epochs of the clipped objective over one rollout, under the same masks. Knows neither text nor rewards."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch

from .batch_plan import BatchPlan
from .functional.losses import clipped_policy_loss, clipped_value_loss
from .functional.statistics import AllSum
from .records import Estimates, Rollout, UpdateStats
from .sampling import SamplingSettings, action_logprobs


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
    microbatches and spread over processes.

    Args:
        model: the (wrapped) policy and value function; called on [`Sequences`].
        rollout ([`Rollout`]), estimates ([`Estimates`]): of the same B completions.
        optimizer, accelerator: as `accelerate` prepared them.
        plan ([`BatchPlan`]), objective ([`Objective`]), sampling ([`SamplingSettings`]): the run's settings.
        all_sum: adds up over processes.
        generator: decides the order of the rows.

    Returns:
        [`UpdateStats`].
    """
    totals = _Totals(rollout.completion_ids.device)
    model.train()
    for microbatches in plan.minibatches(len(rollout), generator):
        num_tokens = all_sum(rollout.completion_mask[torch.cat(microbatches)].sum())
        for number, rows in enumerate(microbatches, start=1):
            # Gradients are added up over processes in the last backward of a step only.
            is_last = number == len(microbatches)
            with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
                loss = _microbatch_loss(model, rollout, estimates, rows, objective, sampling, totals)
                # Processes average their gradients, and the mean is over the tokens of all of them.
                accelerator.backward(loss * plan.num_processes / num_tokens)
        totals.add_step(_clip_gradients(model, accelerator, objective.max_grad_norm))
        optimizer.step()
        optimizer.zero_grad()
    return totals.stats(all_sum)


def _microbatch_loss(
    model: torch.nn.Module,
    rollout: Rollout,
    estimates: Estimates,
    rows: torch.Tensor,
    objective: Objective,
    sampling: SamplingSettings,
    totals: _Totals,
) -> torch.Tensor:
    """The loss summed over the real tokens of some rows."""
    sequences = rollout.sequences(rows)
    T, real = sequences.width, sequences.completion_mask
    old_logprobs, old_values = rollout.old_logprobs[rows, :T], rollout.values[rows, :T]
    advantages, returns = estimates.advantages[rows, :T], estimates.returns[rows, :T]

    logits, values = model(sequences)
    logprobs, entropies = action_logprobs(logits, sequences, sampling)
    logprobs = torch.where(real, logprobs, 0.0)
    policy_loss, policy_clipped = clipped_policy_loss(logprobs, old_logprobs, advantages, objective.cliprange)
    value_loss, value_clipped = clipped_value_loss(values, old_values, returns, objective.cliprange_value)
    per_token = policy_loss + objective.vf_coef * value_loss
    if objective.entropy_coef:
        per_token = per_token - objective.entropy_coef * entropies
    totals.add_tokens(
        real,
        log_ratio=logprobs - old_logprobs,
        policy_loss=policy_loss,
        value_loss=value_loss,
        policy_clipfrac=policy_clipped,
        value_clipfrac=value_clipped,
        entropy=entropies,
    )
    return torch.where(real, per_token, 0.0).sum()


def _clip_gradients(model: torch.nn.Module, accelerator: Any, max_grad_norm: float) -> torch.Tensor:
    """Clip the joint gradient of policy and value function; returns its norm before. 0 or less: measure only."""
    limit = max_grad_norm if max_grad_norm and max_grad_norm > 0 else float("inf")
    norm = accelerator.clip_grad_norm_(model.parameters(), limit)
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

    @torch.no_grad()
    def add_tokens(self, real: torch.Tensor, log_ratio: torch.Tensor, **per_token: torch.Tensor) -> None:
        ratio = log_ratio.exp()
        if not self.grad_norms:
            deviation = torch.where(real, (ratio - 1.0).abs(), 0.0).max()
            self.first_ratio_deviation = torch.maximum(self.first_ratio_deviation, deviation)
        # The variance is summed up around 1, where the ratio starts, as sums of squares around 0 would cancel.
        per_token["ratio"] = ratio - 1.0
        per_token["ratio_squares"] = (ratio - 1.0).square()
        per_token["approx_kl"] = 0.5 * log_ratio.square()
        per_token["tokens"] = torch.ones_like(log_ratio)
        for index, name in enumerate(self.NAMES):
            self.sums[index] += torch.where(real, per_token[name].to(torch.float64), 0.0).sum()

    def add_step(self, grad_norm: torch.Tensor) -> None:
        self.grad_norms.append(grad_norm)

    def stats(self, all_sum: AllSum) -> UpdateStats:
        sums = dict(zip(self.NAMES, all_sum(self.sums).tolist(), strict=True))
        tokens = max(sums.pop("tokens"), 1.0)
        means = {name: value / tokens for name, value in sums.items()}
        deviation = means.pop("ratio")
        return UpdateStats(
            num_optimizer_steps=len(self.grad_norms),
            ratio=1.0 + deviation,
            ratio_variance=max(means.pop("ratio_squares") - deviation**2, 0.0),
            grad_norm=float(torch.stack(self.grad_norms).mean()),
            first_ratio_deviation=float(self.first_ratio_deviation),
            **means,
        )
