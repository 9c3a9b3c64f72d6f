"""Logits into log-probabilities and entropies, under a temperature, a mask and a repetition penalty."""

from __future__ import annotations

import torch


def scaled_logits(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logits `(..., V)` in float32, divided by the temperature: the policy of the whole package, as in TRL."""
    logits = logits.float()
    return logits if temperature == 1.0 else logits / temperature


def apply_token_mask(logits: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
    """Logits `(..., V)` with minus infinity where `token_mask` is False. None allows everything."""
    return logits if token_mask is None else logits.masked_fill(~token_mask, float("-inf"))


def token_logprobs(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[token], without keeping the whole softmax.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): after temperature and mask.
        token_ids (`torch.Tensor` of shape `(B, T)`): the tokens taken. A token outside the mask has minus infinity.

    Returns:
        `torch.Tensor` of shape `(B, T)`.
    """
    chosen = logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """H = log Z - sum_a p(a) logit(a) in nats, finite under a mask: a forbidden token adds 0, not 0 * -inf.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): after temperature and mask; at least one finite value a row.

    Returns:
        `torch.Tensor` of shape `(B, T)`.
    """
    log_normalizer = logits.logsumexp(-1)
    probabilities = (logits - log_normalizer.unsqueeze(-1)).exp()
    return log_normalizer - (probabilities * logits.masked_fill(logits == float("-inf"), 0.0)).sum(-1)


def first_occurrences(
    prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, completion_ids: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """For every token of the vocabulary, the first completion position at which it stands.

    Args:
        prompt_ids, prompt_mask (`torch.Tensor` of shape `(B, P)`): long, and bool with True = real token.
        completion_ids (`torch.Tensor` of shape `(B, T)`).
        vocab_size (`int`): V.

    Returns:
        `torch.Tensor` of shape `(B, V)`, long: -1 when the token is in the prompt, T when it is nowhere. A token has
        been seen before position t exactly when this is less than t.
    """
    B, T = completion_ids.shape
    first = torch.full((B, vocab_size), T, dtype=torch.long, device=completion_ids.device)
    positions = torch.arange(T, device=completion_ids.device).expand(B, T)
    first.scatter_reduce_(1, completion_ids, positions, reduce="amin")
    seen_in_prompt = torch.where(prompt_mask, -1, T)
    return first.scatter_reduce(1, prompt_ids.masked_fill(~prompt_mask, 0), seen_in_prompt, reduce="amin")


def penalize_repetition(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Positive logits of seen tokens divided by `penalty`, negative ones multiplied by it (Keskar et al. 2019).

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): raw, before the temperature.
        seen (`torch.Tensor` of shape `(B, T, V)`, bool): True where the token stands in the prompt or earlier.
        penalty (`float`): above 1 discourages repetition.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
