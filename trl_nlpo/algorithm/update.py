"""Room 4: epochs of the clipped objective over one rollout, under the same masks. Knows neither text nor rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    def needs_rehearsal(self, model: Any) -> bool: ...

    def rehearsed(self, model: Any) -> None: ...

    def accumulating(self, model: Any, is_last: bool) -> AbstractContextManager[Any]: ...

    def backward(self, loss: torch.Tensor, scale: torch.Tensor, is_finite: torch.Tensor) -> None: ...

    def clip_gradients(self, model: Any, limit: float) -> torch.Tensor: ...

    def clip_apart(self, parts: Sequence[tuple[Sequence[torch.nn.Parameter], float]]) -> list[torch.Tensor]: ...

    def average_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None: ...

    def step_was_skipped(self, optimizer: Any, grad_norm: torch.Tensor) -> None: ...

    def all_sum(self, tensor: torch.Tensor) -> torch.Tensor: ...

    def autocast(self) -> AbstractContextManager[Any]: ...


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
    trains_policy: bool = True,
) -> UpdateStats:
    """`num_ppo_epochs` x `num_mini_batches` optimizer steps on one rollout (paper, section 4; PPO, algorithm 1).

    Each pass of policy and value function is followed by `critic_updates_per_step` - 1 passes of the value function
    alone. The gradient of a step is that of the mean over all real tokens of its minibatch, however the minibatch is
    split into microbatches and spread over processes. Completions that `estimates` skips are not among them. A step
    whose loss or gradient is not finite is not taken.

    Args:
        model: the policy and value function as accelerate wrapped it; called on [`TokenRows`].
        module ([`PolicyAndValue`]): the same, unwrapped.
        rollout ([`Rollout`]), estimates ([`Estimates`]): of the same B completions.
        optimizer: as accelerate wrapped it.
        launch: takes, adds up over processes and clips gradients.
        plan ([`BatchPlan`]), objective ([`Objective`]), sampling ([`SamplingSettings`]): the run's settings.
        generator: decides the order of the rows.
        trains_policy (`bool`): False trains the value function alone, in all passes.

    Returns:
        [`UpdateStats`].
    """
    steps = OptimizerSteps(model, rollout, estimates, module, optimizer, launch, plan, objective, sampling)
    lengths = (rollout.prompt_mask.sum(-1) + rollout.completion_mask.sum(-1)).cpu()
    for part in plan.passes(trains_policy):
        for microbatches in plan.minibatches(len(rollout), generator, lengths):
            steps.take(microbatches, part)
    return steps.totals.stats(launch.all_sum)


class OptimizerSteps:
    """The optimizer steps of one update, and what is counted of them; arguments as in [`update_policy`]."""

    def __init__(
        self,
        model: torch.nn.Module,
        rollout: Rollout,
        estimates: Estimates,
        module: PolicyAndValue,
        optimizer: torch.optim.Optimizer,
        launch: Launch,
        plan: BatchPlan,
        objective: Objective,
        sampling: SamplingSettings,
    ):
        self.model, self.module, self.optimizer, self.launch = model, module, optimizer, launch
        self.rollout, self.estimates, self.plan = rollout, estimates, plan
        self.objective, self.sampling = objective, sampling
        self.totals = Totals(rollout.completion_ids.device)
        self.learned = without_skipped(rollout.completion_mask, estimates.skipped)
        model.train()

    def take(self, microbatches: Sequence[torch.Tensor], part: str = "both") -> None:
        """One step on a minibatch: of policy and value function, or of the value function alone (`"value"`)."""
        rows = torch.cat(list(microbatches))
        num_tokens = self.launch.all_sum(self.learned[rows].sum())
        self.totals.begin_step()
        if self.estimates.skipped is not None and not num_tokens:
            self.totals.skip_step()
            return
        for number, part_rows in enumerate(microbatches, start=1):
            microbatch = self.microbatch(part_rows, rows, num_tokens)
            if part == "value":
                self._pass(self.module, microbatch, part, num_tokens)
                continue
            if self.launch.needs_rehearsal(self.model):
                self._rehearse(microbatch)
            with self.launch.accumulating(self.model, is_last=number == len(microbatches)):
                splits = self.plan.num_processes == 1 and self.launch.splits_passes
                for piece in self.module.parts if splits else ("both",):
                    self._pass(self.model, microbatch, piece, num_tokens)
        if part == "value":
            self.launch.average_gradients(self._critic())
        self._step(part)

    def microbatch(self, rows: torch.Tensor, minibatch: torch.Tensor, num_tokens: torch.Tensor) -> Microbatch:
        """Some rows of a minibatch that has `num_tokens` tokens to learn from, over all processes."""
        weight: torch.Tensor | float = 1.0
        if self.estimates.positive is not None:
            positive = self.learned[minibatch] & self.estimates.positive[minibatch, None]
            weight = num_tokens / self.launch.all_sum(positive.sum()).clamp(min=1)
        return Microbatch(self.rollout, self.estimates, self.learned, rows, self.module.value_units, weight)

    def _pass(self, model: Any, microbatch: Microbatch, part: str, num_tokens: torch.Tensor) -> None:
        """Forward and backward."""
        with self.module.computing(part):
            output, values = model(microbatch.sequences, part)
            loss = microbatch.loss(output, values, self.objective, self.sampling, self.totals)
            self.totals.add_loss(loss)
            # Processes average their gradients, and the mean is over the tokens of all of them.
            self.launch.backward(loss, self.plan.num_processes / num_tokens, self.totals.loss_is_finite)

    def _rehearse(self, microbatch: Microbatch) -> None:
        """A pass that leaves nothing behind; see `Launch.needs_rehearsal`."""
        output, values = self.model(microbatch.sequences, "both")
        unused = Totals(self.totals.sums.device)
        loss = microbatch.loss(output, values, self.objective, self.sampling, unused)
        self.launch.backward(loss, torch.ones_like(loss), unused.loss_is_finite)
        self.optimizer.zero_grad()
        self.launch.rehearsed(self.model)

    def _critic(self) -> list[torch.nn.Parameter]:
        return list(self.module.critic_parameters())

    def _step(self, part: str) -> None:
        """An optimizer step, or none, which leaves all as it is, where loss or gradient anywhere is not finite.

        DeepSpeed has taken it, or not taken it by the same rule, in the last backward pass: then this only counts.
        """
        policy_norm, critic_norm = self._clipped(part)
        joint = torch.stack([norm for norm in (policy_norm, critic_norm) if norm is not None])
        is_finite = joint.isfinite().all().to(self.totals.loss_is_finite.device) & self.totals.loss_is_finite
        if not self.launch.all_sum((~is_finite).long()):
            self.optimizer.step()
            self.totals.add_step(policy_norm, critic_norm)
        else:
            self.totals.skip_step()
            self.launch.step_was_skipped(self.optimizer, joint.sum())
        self.optimizer.zero_grad()

    def _clipped(self, part: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Clip the gradients; the norms before, of both together or of the policy, and of the critic where apart."""
        limit, critic_limit = _limit(self.objective.max_grad_norm), self.objective.critic_max_grad_norm
        critic = self._critic()
        if part == "value":
            (norm,) = self.launch.clip_apart([(critic, limit if critic_limit is None else _limit(critic_limit))])
            return None, norm
        if critic_limit is None:
            return self.launch.clip_gradients(self.model, limit), None
        own = {id(parameter) for parameter in critic}
        policy = [parameter for parameter in self.module.parameters() if id(parameter) not in own]
        of_policy, of_critic = self.launch.clip_apart([(policy, limit), (critic, _limit(critic_limit))])
        return of_policy, of_critic


def _limit(norm: float) -> float:
    """0 is no limit, as in `transformers`."""
    return norm if norm and norm > 0 else math.inf
