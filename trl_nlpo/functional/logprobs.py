"""Logits into log-probabilities and entropies, under a temperature, a mask and a repetition penalty."""

from __future__ import annotations

from typing import Any

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


def masked_logprobs_and_entropy(
    logits: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(token) and the entropy of p, the softmax over the allowed tokens; both with gradients.

    Forward and backward pass over the vocabulary together and keep one tensor of its size, where the formulas written
    out in autograd keep several: this is most of the memory of an update, and a third of its time on a small model.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): after the temperature.
        token_ids (`torch.Tensor` of shape `(B, T)`): the tokens taken. One outside the mask has minus infinity.
        token_mask (`torch.Tensor` of shape `(B, T, V)`, bool, *optional*): True = allowed, at least one a position;
            None allows everything.

    Returns:
        log-probabilities and entropies in nats, both `(B, T)`. The entropy is finite: a forbidden token adds 0.
    """
    return _MaskedCategorical.apply(logits, token_ids, token_mask)


class _MaskedCategorical(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor | None) -> Any:
        ctx.set_materialize_grads(False)
        if token_mask is not None:
            logits = logits.masked_fill(~token_mask, float("-inf"))
        largest = logits.amax(-1, keepdim=True)
        shifted = logits - largest
        weights = shifted.exp()
        log_sum = weights.sum(-1).log()
        # sum of p(a) * (logit(a) - largest); minus infinity times a weight of 0 must not be counted.
        expected = weights.mul_(shifted.clamp_(min=-1e30)).sum(-1) * (-log_sum).exp()
        log_normalizer = largest.squeeze(-1) + log_sum
        logprobs = logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - log_normalizer
        entropies = log_sum - expected
        ctx.save_for_backward(logits, token_ids, log_normalizer, entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        logits, token_ids, log_normalizer, entropies = ctx.saved_tensors
        for_logprobs, for_entropies = gradients
        log_probabilities = logits - log_normalizer.unsqueeze(-1)
        gradient = torch.zeros_like(logits) if for_logprobs is None else log_probabilities.exp()
        if for_logprobs is not None:
            # d log p(token) / d logit(a) = [a is the token] - p(a)
            gradient.mul_(-for_logprobs.unsqueeze(-1))
            gradient.scatter_add_(-1, token_ids.unsqueeze(-1), for_logprobs.unsqueeze(-1))
        if for_entropies is not None:
            # d H / d logit(a) = -p(a) (log p(a) + H)
            surprise = log_probabilities.clamp(min=-1e30) + entropies.unsqueeze(-1)
            gradient -= log_probabilities.exp() * surprise * for_entropies.unsqueeze(-1)
        return gradient, None, None


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
