"""The clipped objectives of PPO (Schulman et al. 2017, equation 7), token by token."""

from __future__ import annotations

import torch


def clipped_policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """max(-A r, -A clip(r, 1 - eps, 1 + eps)), r = exp(logprobs - old_logprobs).

    Args:
        logprobs, old_logprobs, advantages (`torch.Tensor` of shape `(B, T)`): log-probabilities of the tokens taken,
            now and at sampling, both under the mask of the rollout.
        cliprange (`float`): eps.

    Returns:
        loss `(B, T)`, to be averaged over real tokens, and where the clip decided `(B, T)` bool.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return torch.maximum(unclipped, clipped), clipped > unclipped


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange_value: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """0.5 max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2).

    Args:
        values, old_values, returns (`torch.Tensor` of shape `(B, T)`).
        cliprange_value (`float`): eps.

    Returns:
        loss `(B, T)`, to be averaged over real tokens, and where the clip decided `(B, T)` bool.
    """
    clipped_values = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    unclipped = (values - returns).square()
    clipped = (clipped_values - returns).square()
    return 0.5 * torch.maximum(unclipped, clipped), clipped > unclipped
