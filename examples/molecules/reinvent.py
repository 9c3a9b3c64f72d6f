"""REINVENT's objective on this package's rollouts and rewards."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from trl_nlpo import NLPOTrainer
from trl_nlpo.errors import UserError
from trl_nlpo.records import Estimates, Rollout, Scores


def dap_loss(
    logprobs: torch.Tensor, prior_logprobs: torch.Tensor, mask: torch.Tensor, rewards: torch.Tensor, sigma: float
) -> torch.Tensor:
    """Mean over sequences of (log P_prior(x) + sigma R(x) - log P(x))^2 (Olivecrona et al. 2017; "DAP" in REINVENT 4).

    It is 0 where P is the prior times exp(sigma R): where policies with a KL penalty of 1 / sigma have their optimum.

    Args:
        logprobs, prior_logprobs (`torch.Tensor` of shape `(B, T)`): of the tokens taken, by the policy and the prior.
        mask (`torch.Tensor` of shape `(B, T)`, bool): True = real token.
        rewards (`torch.Tensor` of shape `(B,)`): R.
        sigma (`float`): nats that a reward of 1 is worth.
    """
    difference = torch.where(mask, prior_logprobs - logprobs, 0.0).sum(-1)
    return (difference + sigma * rewards).square().mean()


class ReinventTrainer(NLPOTrainer):
    """`NLPOTrainer` with the loss of REINVENT: the reference policy is its prior, the policy its agent.

    A batch is used for one step, at whose start every ratio of PPO is 1, and the gradient of its objective that of the
    sum of advantage times log-probability. With minus the derivative of a loss for advantages it is that loss's own
    gradient: rollouts, checkpoints and logs stay as they are.

    Args:
        sigma (`float`): nats that a reward of 1 is worth.

    Raises:
        UserError: settings under which this would be another loss.
    """

    def __init__(self, *args: Any, sigma: float = 120.0, **kwargs: Any):
        super().__init__(*args, **kwargs)
        wanted = {"num_ppo_epochs": 1, "num_mini_batches": 1, "mask_strategy": "none", "vf_coef": 0.0}
        for name, value in wanted.items():
            if getattr(self.args, name) != value:
                raise UserError(f"{name} is {getattr(self.args, name)!r}, but must be {value!r} for REINVENT's loss.")
        self.sigma = sigma

    def estimate_advantages(self, rollout: Rollout, scores: Scores) -> Estimates:
        """As the trainer's, with other advantages: minus the derivative of [`dap_loss`] by each log-probability."""
        logprobs, mask = rollout.raw_logprobs.detach().requires_grad_(), rollout.completion_mask
        with torch.enable_grad():
            loss = dap_loss(logprobs, rollout.ref_logprobs, mask, scores.scores.to(logprobs), self.sigma)
        (gradient,) = torch.autograd.grad(loss, logprobs)
        # The update takes the mean over tokens.
        advantages = -gradient * mask.sum()
        return dataclasses.replace(super().estimate_advantages(rollout, scores), advantages=advantages)
