"""Room 4: epochs of the clipped objective over one rollout, under the same masks. Knows neither text nor rewards."""

from __future__ import annotations

from typing import Any

import torch

from ..functional.statistics import AllSum
from ..launch.zero import accumulating, is_zero, spoiled_unless
from ..models.policy_and_value import PolicyAndValue
from ..records import Estimates, Rollout, UpdateStats, without_skipped
from .batch_plan import BatchPlan
from .distribution import SamplingSettings
from .objective import Microbatch, Objective
from .totals import Totals


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
    totals = Totals(rollout.completion_ids.device)
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
                microbatch = Microbatch(rollout, estimates, learned, rows)
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
    optimizer: torch.optim.Optimizer, accelerator: Any, grad_norm: torch.Tensor, totals: Totals, all_sum: AllSum
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


def _clip_gradients(model: torch.nn.Module, accelerator: Any, max_grad_norm: float) -> torch.Tensor:
    """Clip the joint gradient of policy and value function; returns its norm before. 0 or less: measure only."""
    limit = max_grad_norm if max_grad_norm and max_grad_norm > 0 else float("inf")
    norm = accelerator.clip_grad_norm_(model.parameters(), limit)
    if hasattr(norm, "full_tensor"):
        # Under FSDP2 every process has a share of the norm.
        norm = norm.full_tensor()
    return torch.as_tensor(norm, dtype=torch.float64)
