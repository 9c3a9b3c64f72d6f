"""Room 4, another way: one natural-gradient step of the policy within a bound on its KL divergence (TRPO).

Search x descent: `natural_step` says where to go and how far the quadratic model of the divergence allows,
`line_search` how much of that is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector

from ..functional.divergences import masked_kl
from ..functional.quadratics import conjugate_gradient
from ..models.policy_and_value import PolicyAndValue
from ..records import Estimates, Rollout, UpdateStats
from .batch_plan import BatchPlan
from .distribution import SamplingSettings, action_logits
from .objective import Microbatch, Objective
from .totals import Totals
from .update import Launch, OptimizerSteps


SHRINK = 0.8
"""What a step that was refused is multiplied by."""


@dataclass(frozen=True)
class TrustRegion:
    """Fields as in [`NLPOConfig`], where they begin with `trpo_`.

    Attributes:
        kl (`float`): most nats per token that a step may move the policy.
        cg_steps (`int`): products with the Fisher information for a direction.
        damping (`float`): added to its diagonal.
        backtracks (`int`): how often a step is shortened before none is taken.
    """

    kl: float
    cg_steps: int = 10
    damping: float = 0.1
    backtracks: int = 10

    @classmethod
    def from_config(cls, args: Any) -> TrustRegion:
        """Read the settings off an [`NLPOConfig`]."""
        return cls(args.trpo_kl, args.trpo_cg_steps, args.trpo_damping, args.trpo_backtracks)


def update_in_trust_region(
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
    region: TrustRegion,
) -> UpdateStats:
    """One step of the policy on the whole batch, then the passes of the value function (Schulman et al. 2015).

    The policy's step maximizes the surrogate, the mean of ratio x advantage over real tokens, along the natural
    gradient, and is the longest tried that improves the surrogate with a mean KL divergence of at most `region.kl`.
    Its weights are set without the optimizer; the value function has the optimizer to itself.

    Args:
        model, rollout, estimates, module, optimizer, launch, plan, objective, sampling, generator, trains_policy: as
            in [`update_policy`]; the limits of the ratio in `objective` do not apply.
        region ([`TrustRegion`]): how far.

    Returns:
        [`UpdateStats`]: `approx_kl` is the exact mean divergence of the step that was taken, and 0 where none was.
    """
    unlimited = dataclasses.replace(
        objective, cliprange=math.inf, cliprange_high=None, dual_clip=None, is_truncation=None
    )
    steps = OptimizerSteps(model, rollout, estimates, module, optimizer, launch, plan, unlimited, sampling)
    kl, backtracks = math.nan, None
    if trains_policy:
        policy = _Policy(steps)
        kl, backtracks = policy.step(region)
    for part in plan.passes(trains_policy=False):
        for microbatches in plan.minibatches(len(rollout), generator):
            steps.take(microbatches, part)
    return dataclasses.replace(steps.totals.stats(launch.all_sum), approx_kl=kl, backtracks=backtracks)


def natural_step(
    product: Callable[[torch.Tensor], torch.Tensor], gradient: torch.Tensor, region: TrustRegion
) -> torch.Tensor:
    """x = F^-1 g, as long as 1/2 x F x = `region.kl` allows (Schulman et al. 2015, appendix C).

    Args:
        product: F v, F the Fisher information (damped).
        gradient (`torch.Tensor` of shape `(N,)`): of what is maximized.
        region ([`TrustRegion`])

    Returns:
        `torch.Tensor` of shape `(N,)`; 0 where the gradient is 0.
    """
    direction = conjugate_gradient(product, gradient, region.cg_steps)
    curvature = float(direction.dot(product(direction)))
    return direction * math.sqrt(2.0 * region.kl / curvature) if curvature > 0.0 else torch.zeros_like(gradient)


def line_search(
    measure: Callable[[torch.Tensor], tuple[float, float]],
    start: torch.Tensor,
    step: torch.Tensor,
    region: TrustRegion,
) -> tuple[torch.Tensor, float, int]:
    """The longest of start + step, start + 0.8 step, ... that improves the surrogate within the bound.

    Args:
        measure: loss and divergence of a point; the loss of `start` is compared with.
        start, step (`torch.Tensor` of shape `(N,)`)
        region ([`TrustRegion`]): `kl` and `backtracks`.

    Returns:
        the point, its divergence, and how often the step was shortened; `start`, 0 and `region.backtracks` where no
        step was good enough.
    """
    before, _ = measure(start)
    for number in range(region.backtracks):
        point = start + SHRINK**number * step
        loss, kl = measure(point)
        if loss < before and kl <= region.kl:
            return point, kl, number
    return start, 0.0, region.backtracks


class _Policy:
    """The policy's trained weights as a vector, and what depends on them over the batch of all processes."""

    def __init__(self, steps: OptimizerSteps):
        self.steps, self.launch, self.module = steps, steps.launch, steps.module
        own = {id(parameter) for parameter in self.module.critic_parameters()}
        trained = (parameter for parameter in self.module.policy.parameters() if parameter.requires_grad)
        self.parameters = [parameter for parameter in trained if id(parameter) not in own]
        self.num_tokens = self.launch.all_sum(steps.learned.sum())
        self.rows = torch.arange(len(steps.rollout))

    def step(self, region: TrustRegion) -> tuple[float, float | None]:
        """Take the step; its divergence, and how often it was shortened."""
        totals = self.steps.totals
        totals.begin_step()
        if not self.num_tokens:
            totals.skip_step()
            return 0.0, None
        start = parameters_to_vector(self.parameters).detach().clone()
        gradient = self.gradient()
        norm = gradient.double().norm()
        if not norm.isfinite():
            totals.skip_step()
            return 0.0, None

        def damped(vector: torch.Tensor) -> torch.Tensor:
            return self.fisher_product(vector) + region.damping * vector

        step = natural_step(damped, gradient, region)
        point, kl, backtracks = line_search(lambda at: self.measure(at, start), start, step, region)
        self._move_to(point)
        totals.add_step(norm)
        return kl, float(backtracks)

    def gradient(self) -> torch.Tensor:
        """Of the surrogate (and what else the objective has of the policy), to be maximized; `(N,)`."""
        total = torch.zeros_like(parameters_to_vector(self.parameters))
        for rows in self._chunks():
            loss = self._loss(*self._logits(rows), self.steps.totals)
            total -= self._flat(torch.autograd.grad(loss, self.parameters, allow_unused=True))
        return self.launch.all_sum(total) / self.num_tokens

    def fisher_product(self, vector: torch.Tensor) -> torch.Tensor:
        """F v, F the mean over tokens of the Fisher information of the masked policy; `(N,)`."""
        total = torch.zeros_like(vector)
        # The kernels that attention takes otherwise have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            for rows in self._chunks():
                logits, microbatch = self._logits(rows)
                kl = self._kl(logits.detach(), logits, microbatch)
                first = torch.autograd.grad(kl, self.parameters, create_graph=True, allow_unused=True)
                along = kl.new_zeros(())
                for gradient, part in zip(first, self._parts(vector), strict=True):
                    along = along if gradient is None else along + (gradient * part).sum()
                total += self._flat(torch.autograd.grad(along, self.parameters, allow_unused=True))
        return self.launch.all_sum(total) / self.num_tokens

    @torch.no_grad()
    def measure(self, point: torch.Tensor, start: torch.Tensor) -> tuple[float, float]:
        """Loss at a point, and mean divergence of the policy there from the one at `start`, per token."""
        sums = torch.zeros(2, dtype=torch.float64, device=point.device)
        uncounted = Totals(point.device)
        for rows in self._chunks():
            self._move_to(start)
            before, microbatch = self._logits(rows)
            self._move_to(point)
            after, _ = self._logits(rows)
            sums[0] += self._loss(after, microbatch, uncounted)
            sums[1] += self._kl(before, after, microbatch)
        loss, kl = (self.launch.all_sum(sums) / self.num_tokens).tolist()
        return loss, kl

    def _logits(self, rows: torch.Tensor) -> tuple[torch.Tensor, Microbatch]:
        """Raw logits of some rows, and what the loss needs beside them."""
        microbatch = self.steps.microbatch(rows, self.rows, self.num_tokens)
        with self.launch.autocast():
            logits, _ = self.module(microbatch.sequences, "policy")
        return logits, microbatch

    def _loss(self, logits: torch.Tensor, microbatch: Microbatch, totals: Totals) -> torch.Tensor:
        """Summed over the tokens of some rows."""
        loss = microbatch.loss(logits, None, self.steps.objective, self.steps.sampling, totals)
        totals.add_loss(loss)
        return loss

    def _kl(self, logits: torch.Tensor, other: torch.Tensor, microbatch: Microbatch) -> torch.Tensor:
        """Divergence of the masked policies, summed over the tokens of some rows."""
        sequences, sampling = microbatch.sequences, self.steps.sampling
        mask = None if sequences.token_sets is None else sequences.token_sets.mask()
        before, after = (action_logits(each, sequences, sampling) for each in (logits, other))
        return torch.where(microbatch.learned, masked_kl(before, after, mask), 0.0).sum()

    def _chunks(self) -> Iterator[torch.Tensor]:
        yield from self.rows.split(self.steps.plan.microbatch_size)

    @torch.no_grad()
    def _move_to(self, point: torch.Tensor) -> None:
        for parameter, piece in zip(self.parameters, self._parts(point), strict=True):
            parameter.copy_(piece)

    def _flat(self, gradients: tuple[torch.Tensor | None, ...]) -> torch.Tensor:
        pairs = zip(gradients, self.parameters, strict=True)
        return torch.cat(
            [
                torch.zeros_like(parameter).flatten() if gradient is None else gradient.detach().flatten()
                for gradient, parameter in pairs
            ]
        )

    def _parts(self, vector: torch.Tensor) -> list[torch.Tensor]:
        sizes = [parameter.numel() for parameter in self.parameters]
        pieces = vector.split(sizes)
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, self.parameters, strict=True)]
