"""Generalized advantage estimation."""

from __future__ import annotations

import torch


def gae(
    rewards: torch.Tensor, values: torch.Tensor, completion_mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t (Schulman et al. 2016, equation 16).

    The last real token is terminal: the value after it is 0, whether a stop token or the length limit ended the row.

    Args:
        rewards (`torch.Tensor` of shape `(B, T)`): per token.
        values (`torch.Tensor` of shape `(B, T)`): V_t, of the state before token t.
        completion_mask (`torch.Tensor` of shape `(B, T)`, bool): True = real token; real tokens come first.
        gamma, lam (`float`): discount and lambda, in [0, 1].

    Returns:
        advantages and returns (advantages + values), both `(B, T)` and 0 on padding.

    Example: rewards (0, 1), values (0.5, 0.5), gamma = lam = 1: delta = (0, 0.5), advantages (0.5, 0.5) and
        returns (1, 1).
    """
    values = torch.where(completion_mask, values, 0.0)
    rewards = torch.where(completion_mask, rewards, 0.0)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(completion_mask[:, t], delta + gamma * lam * next_advantage, 0.0)
        advantages[:, t] = next_advantage
        next_value = values[:, t]
    return advantages, torch.where(completion_mask, advantages + values, 0.0)
