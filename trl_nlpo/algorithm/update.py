"""Room 4: epochs of the clipped objective over one rollout, under the same masks. Knows neither text nor rewards."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

import torch

from ..models.policy_and_value import PolicyAndValue
from ..records import Estimates, Rollout, UpdateStats, without_skipped
from .batch_plan import BatchPlan
from .distribution import SamplingSettings
from .objective import Microbatch, Objective
from .totals import Totals


class Launch(Protocol):
    """What the update asks of `launch.launch.Launch`: to take gradients with one process or several."""

    splits_passes: ClassVar[bool]

    def accumulating(self, model: Any, is_last: bool) -> AbstractContextManager[Any]: ...

    def backward(self, loss: torch.Tensor, scale: torch.Tensor, is_finite: torch.Tensor) -> None: ...

    def clip_gradients(self, model: Any, limit: float) -> torch.Tensor: ...

    def step_was_skipped(self, optimizer: Any, grad_norm: torch.Tensor) -> None: ...

    def all_sum(self, tensor: torch.Tensor) -> torch.Tensor: ...


def update_policy(
    model: torch.nn.Module,
    rollout: Rollout,
    estimates: Estimates,
    *,
    module: PolicyAndValue,
    optimizer: torch.optim.Optimizer,
    launch: Launch,
    plan: BatchPlan,
    objective: Objective,
    sampling: SamplingSettings,
    generator: torch.Generator,
) -> UpdateStats:
    """`num_ppo_epochs` x `num_mini_batches` optimizer steps on one rollout (paper, section 4; PPO, algorithm 1).

    The gradient of a step is that of the mean over all real tokens of its minibatch, however the minibatch is split
    into microbatches and spread over processes. Completions that `estimates` skips are not among them. A step whose
    loss or gradient is not finite is not taken.

    Args:
        model: the policy and value function as accelerate wrapped it; called on [`TokenRows`].
        module ([`PolicyAndValue`]): the same, unwrapped.
        rollout ([`Rollout`]), estimates ([`Estimates`]): of the same B completions.
        optimizer: as accelerate wrapped it.
        launch: takes, adds up over processes and clips gradients.
        plan ([`BatchPlan`]), objective ([`Objective`]), sampling ([`SamplingSettings`]): the run's settings.
        generator: decides the order of the rows.

    Returns:
        [`UpdateStats`].
    """
    totals = Totals(rollout.completion_ids.device)
    learned = without_skipped(rollout.completion_mask, estimates.skipped)
    model.train()
    for microbatches in plan.minibatches(len(rollout), generator):
        num_tokens = launch.all_sum(learned[torch.cat(microbatches)].sum())
        totals.begin_step()
        if estimates.skipped is not None and not num_tokens:
            totals.skip_step()
            continue
        for number, rows in enumerate(microbatches, start=1):
            is_last = number == len(microbatches)
            with launch.accumulating(model, is_last):
                microbatch = Microbatch(rollout, estimates, learned, rows)
                for part in module.parts if plan.num_processes == 1 and launch.splits_passes else ("both",):
                    with module.computing(part):
                        logits, values = model(microbatch.sequences, part)
                        loss = microbatch.loss(logits, values, objective, sampling, totals)
                        totals.add_loss(loss)
                        # Processes average their gradients, and the mean is over the tokens of all of them.
                        launch.backward(loss, plan.num_processes / num_tokens, totals.loss_is_finite)
                        del logits, values, loss
        limit = objective.max_grad_norm
        grad_norm = launch.clip_gradients(model, limit if limit and limit > 0 else math.inf)
        _step(optimizer, launch, grad_norm, totals)
    return totals.stats(launch.all_sum)


def _step(optimizer: torch.optim.Optimizer, launch: Launch, grad_norm: torch.Tensor, totals: Totals) -> None:
    """An optimizer step, or none, which leaves all as it is, where loss or gradient of any process is not finite.

    DeepSpeed has taken it, or not taken it by the same rule, in the last backward pass: then this only counts.
    """
    is_finite = grad_norm.to(totals.loss_is_finite.device).isfinite() & totals.loss_is_finite
    if not launch.all_sum((~is_finite).long()):
        optimizer.step()
        totals.add_step(grad_norm)
    else:
        totals.skip_step()
        launch.step_was_skipped(optimizer, grad_norm)
    optimizer.zero_grad()
