"""The KL penalty, and scores laid on tokens (paper, equation 1)."""

from __future__ import annotations

import torch


def kl_per_token(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: str = "k1") -> torch.Tensor:
    """An estimate of KL(policy || reference) at every token from the one token sampled there.

    k1 = log pi - log ref: unbiased, negative where the reference likes the token more. k3 = exp(-k1) - 1 + k1: never
    negative, less variance (http://joschu.net/blog/kl-approx.html). Both take raw, unmasked log-probabilities.

    Args:
        logprobs, ref_logprobs (`torch.Tensor` of shape `(B, T)`): unmasked log-probabilities of the tokens taken.
        estimator (`str`): `"k1"` or `"k3"`.
    """
    log_ratio = logprobs - ref_logprobs
    return log_ratio if estimator == "k1" else torch.expm1(-log_ratio) + log_ratio


def token_rewards(
    scores: torch.Tensor,
    kl: torch.Tensor,
    kl_coef: float,
    completion_mask: torch.Tensor,
    dense_rewards: torch.Tensor | None = None,
) -> torch.Tensor:
    """R_t = r_t - kl_coef * KL_t, with the score of the whole completion on its last real token (paper, equation 1).

    TRL puts the score on the first padding position, where there is one; the field has both conventions.

    Args:
        scores (`torch.Tensor` of shape `(B,)`): one number per completion.
        kl (`torch.Tensor` of shape `(B, T)`): from `kl_per_token`.
        kl_coef (`float`): beta.
        completion_mask (`torch.Tensor` of shape `(B, T)`, bool): True = real token; a row without one keeps zeros.
        dense_rewards (`torch.Tensor` of shape `(B, T)`, *optional*): rewards of single tokens.

    Returns:
        `torch.Tensor` of shape `(B, T)`, 0 on padding. Its sum is score + dense - kl_coef * sum of KL.

    Example: score 1, KL (0.1, 0.2, -), kl_coef 0.5, two real tokens: (-0.05, 0.9, 0).
    """
    rewards = -kl_coef * kl
    if dense_rewards is not None:
        rewards = rewards + dense_rewards
    last = completion_mask.sum(-1) - 1
    at_last = torch.arange(kl.shape[1], device=kl.device)[None, :] == last[:, None]
    return torch.where(completion_mask, rewards + at_last * scores[:, None].to(rewards.dtype), 0.0)


def adapt_kl_coef(kl_coef: float, kl: float, target: float, gain: float = 0.1) -> float:
    """beta * (1 + gain * e), e = clip((KL - target) / target, -0.2, 0.2) (Ziegler et al. 2019, section 2.2).

    Args:
        kl_coef (`float`): beta before.
        kl, target (`float`): measured and wanted KL, in the same unit.
        gain (`float`): 0.1 in the paper; batch size / horizon in TRL's old controller.
    """
    error = min(max((kl - target) / target, -0.2), 0.2)
    return kl_coef * (1.0 + gain * error)
