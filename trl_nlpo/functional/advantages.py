"""Generalized advantage estimation."""

from __future__ import annotations

import torch


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    completion_mask: torch.Tensor,
    gamma: float,
    lam: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t (Schulman et al. 2016, equation 16).

    The last real token is terminal: the value after it is 0, whether a stop token or the length limit ended the row
    (`bootstrapped` is for the latter).

    Args:
        rewards (`torch.Tensor` of shape `(B, T)`): per token.
        values (`torch.Tensor` of shape `(B, T)`): V_t, of the state before token t.
        completion_mask (`torch.Tensor` of shape `(B, T)`, bool): True = real token; real tokens come first.
        gamma (`float`), lam (`float`, or `torch.Tensor` of shape `(B,)`): discount and lambda, in [0, 1].

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


def bootstrapped(
    rewards: torch.Tensor, final_values: torch.Tensor, completion_mask: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Rewards with gamma V(s_T) on the last real token, which `gae` takes for the value of what would have followed.

    delta of the last token is then r + gamma V(s_T) - V, as for any other (Pardo et al. 2018: a time limit that is not
    part of the task does not end it).

    Args:
        rewards (`torch.Tensor` of shape `(B, T)`): per token.
        final_values (`torch.Tensor` of shape `(B,)`): V of the state after the last token; 0 where it is terminal.
        completion_mask (`torch.Tensor` of shape `(B, T)`, bool): True = real token.
        gamma (`float`): discount.
    """
    last = completion_mask.sum(-1, keepdim=True) - 1
    is_last = torch.arange(rewards.shape[1], device=rewards.device)[None, :] == last
    return torch.where(is_last & completion_mask, rewards + gamma * final_values[:, None], rewards)


def length_adaptive_lam(lengths: torch.Tensor, alpha: float) -> torch.Tensor:
    """lambda = 1 - 1 / (alpha length), not below 0 (VAPO, Yue et al. 2025): longer completions look further ahead.

    Args:
        lengths (`torch.Tensor` of shape `(B,)`): real tokens of each completion.
        alpha (`float`): above 0. With it the coefficients of the temporal-difference errors sum up to about
            alpha * length, when gamma is 1.

    Returns:
        `torch.Tensor` of shape `(B,)`, float32.
    """
    return (1.0 - 1.0 / (alpha * lengths.float().clamp(min=1.0))).clamp(min=0.0)
