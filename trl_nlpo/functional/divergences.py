"""Divergences between two distributions over the same allowed tokens."""

from __future__ import annotations

import torch

from .logprobs import apply_token_mask


def masked_kl(
    logits: torch.Tensor, other_logits: torch.Tensor, token_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """KL(p || q) of the softmaxes over the allowed tokens, p of `logits` and q of `other_logits`.

    Made of differentiable operations alone, so that it has derivatives of any order. Where both are equal its
    gradient with respect to q's logits is 0 and its Hessian is the Fisher information of q.

    Args:
        logits, other_logits (`torch.Tensor` of shape `(..., V)`): after the temperature.
        token_mask (`torch.Tensor` of shape `(..., V)`, bool, *optional*): True = allowed; None allows everything.

    Returns:
        `torch.Tensor` of shape `(...)`, in nats.
    """
    log_p = apply_token_mask(logits, token_mask).log_softmax(-1)
    log_q = apply_token_mask(other_logits, token_mask).log_softmax(-1)
    difference = log_p - log_q
    if token_mask is not None:
        # Minus infinity less minus infinity; neither distribution has anything there.
        difference = difference.masked_fill(~token_mask, 0.0)
    return (log_p.exp() * difference).sum(-1)
