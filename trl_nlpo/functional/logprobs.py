"""Logits into log-probabilities and entropies, under a temperature, a mask and a repetition penalty."""

from __future__ import annotations

from typing import Any

import torch

from .masking import unpack_mask


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


def masked_logprobs_and_entropy(
    logits: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(token) and the entropy of p, the softmax over the allowed tokens; both with gradients.

    A pass over the vocabulary forward and one backward, a few rows at a time: beside the logits it needs their
    gradient and the mask, where the formulas written out in autograd keep several tensors of that size.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): after the temperature.
        token_ids (`torch.Tensor` of shape `(B, T)`): the tokens taken. One outside the mask has minus infinity.
        token_mask (`torch.Tensor` of shape `(B, T, V)` bool, or packed `(B, T, ceil(V / 8))` uint8, *optional*): True
            = allowed, at least one a position; None allows everything.

    Returns:
        log-probabilities and entropies in nats, both `(B, T)`. The entropy is finite: a forbidden token adds 0.
    """
    logprobs, entropy = _MaskedCategorical.apply(logits, token_ids, token_mask)
    return logprobs, entropy


class _MaskedCategorical(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor | None) -> Any:
        ctx.set_materialize_grads(False)
        log_normalizer = torch.empty_like(token_ids, dtype=logits.dtype)
        logprobs, entropies = torch.empty_like(log_normalizer), torch.empty_like(log_normalizer)
        for rows in _chunks(logits):
            allowed = _allowed_logits(logits, token_mask, rows)
            largest = allowed.amax(-1, keepdim=True)
            shifted = allowed - largest
            weights = shifted.exp()
            log_sum = weights.sum(-1).log()
            # sum of p(a) * (logit(a) - largest); minus infinity times a weight of 0 must not be counted.
            expected = weights.mul_(shifted.clamp_(min=_LOWEST)).sum(-1) * (-log_sum).exp()
            entropies[rows] = log_sum - expected
            log_normalizer[rows] = largest.squeeze(-1) + log_sum
            chosen = allowed.gather(-1, token_ids[rows].unsqueeze(-1)).squeeze(-1)
            logprobs[rows] = chosen - log_normalizer[rows]
        ctx.save_for_backward(logits, token_ids, token_mask, log_normalizer, entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        logits, token_ids, token_mask, log_normalizer, entropies = ctx.saved_tensors
        for_logprobs, for_entropies = gradients
        gradient = torch.zeros_like(logits)
        for rows in _chunks(logits):
            log_probabilities = _allowed_logits(logits, token_mask, rows) - log_normalizer[rows].unsqueeze(-1)
            probabilities = log_probabilities.exp()
            if for_entropies is not None:
                # d H / d logit(a) = -p(a) (log p(a) + H)
                surprise = log_probabilities.clamp_(min=_LOWEST).add_(entropies[rows].unsqueeze(-1))
                gradient[rows] -= surprise.mul_(probabilities).mul_(for_entropies[rows].unsqueeze(-1))
            if for_logprobs is not None:
                # d log p(token) / d logit(a) = [a is the token] - p(a)
                gradient[rows] -= probabilities.mul_(for_logprobs[rows].unsqueeze(-1))
        if for_logprobs is not None:
            gradient.scatter_add_(-1, token_ids.unsqueeze(-1), for_logprobs.unsqueeze(-1))
        return gradient, None, None


_LOWEST = -1e30
"""In place of minus infinity where that is multiplied by a probability of 0."""


def _chunks(logits: torch.Tensor) -> list[slice]:
    """Rows at a time, so that what is computed on the way stays small (and, on a CPU, in its caches)."""
    at_once = 2**26 if logits.is_cuda else 2**22
    step = max(1, at_once // max(logits[:1].numel(), 1))
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def _allowed_logits(logits: torch.Tensor, token_mask: torch.Tensor | None, rows: slice) -> torch.Tensor:
    if token_mask is None:
        return logits[rows]
    mask = token_mask[rows]
    return apply_token_mask(logits[rows], mask if mask.dtype is torch.bool else unpack_mask(mask, logits.shape[-1]))


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
