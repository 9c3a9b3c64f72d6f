"""The clipped objectives of PPO (Schulman et al. 2017, equation 7), token by token."""

from __future__ import annotations

import torch


def clipped_policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    cliprange: float,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
    is_truncation: tuple[float, float] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """max(-A r, -A clip(r, 1 - eps, 1 + eps_high)), r = exp(logprobs - old_logprobs).

    Args:
        logprobs, old_logprobs, advantages (`torch.Tensor` of shape `(B, T)`): log-probabilities of the tokens taken,
            now and at sampling, both under the mask of the rollout.
        cliprange (`float`): eps.
        cliprange_high (`float`, *optional*): eps_high, eps by default; larger lets unlikely tokens grow (DAPO's
            clip-higher).
        dual_clip (`float`, *optional*): c > 1; where A < 0 the loss is at most -c A, so that a token that became much
            likelier cannot take the update over (Ye et al. 2020, equation 5).
        is_truncation (`tuple[float, float]`, *optional*): the loss is 0 where r is below the first or above the second
            (double-sided masking).

    Returns:
        loss `(B, T)`, to be averaged over real tokens, and where a clip or the truncation decided `(B, T)` bool.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(
        1.0 - cliprange, 1.0 + (cliprange if cliprange_high is None else cliprange_high)
    )
    loss, is_limited = torch.maximum(unclipped, clipped), clipped > unclipped
    if dual_clip is not None:
        most = -dual_clip * advantages
        is_limited = is_limited | ((advantages < 0) & (loss > most))
        loss = torch.where(advantages < 0, torch.minimum(loss, most), loss)
    if is_truncation is not None:
        is_outside = (ratio < is_truncation[0]) | (ratio > is_truncation[1])
        is_limited = is_limited | is_outside
        loss = torch.where(is_outside, 0.0, loss)
    return loss, is_limited


ANCHOR_SLACK = 1e-3
"""Nats that the mass of the allowed tokens may fall unanswered. Right after a sync it is where the anchor is, and
without slack rounding would decide which tokens have a gradient."""


def anchor_loss(log_mass: torch.Tensor, anchor_log_mass: torch.Tensor) -> torch.Tensor:
    """max(0, log Z_psi - log Z - slack): what the policy took from the allowed tokens since the mask was made.

    The masked, renormalised ratio does not depend on Z, the policy's probability of all allowed tokens together, so
    that nothing else in the objective keeps it from falling. Z_psi is the masking policy's probability of the same
    tokens.

    Args:
        log_mass, anchor_log_mass (`torch.Tensor` of shape `(B, T)`): log Z and log Z_psi.

    Returns:
        `(B, T)`, in nats. Its gradient, where it is not 0, is that of -log Z.
    """
    return (anchor_log_mass - log_mass - ANCHOR_SLACK).clamp(min=0.0)


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
