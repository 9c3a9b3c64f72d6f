"""Logits into log-probabilities and entropies, under a temperature, a mask and a repetition penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .token_sets import TokenSets


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
    logits: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor | TokenSets | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(token) and the entropy of p, the softmax over the allowed tokens; both with gradients of any order.

    A pass over the vocabulary forward and one backward, a few rows at a time: beside the logits it needs their
    gradient and the mask, where the formulas written out in autograd keep several tensors of that size. Only second
    derivatives (`create_graph=True`, then a backward pass through the gradient) cost those.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): after the temperature.
        token_ids (`torch.Tensor` of shape `(B, T)`): the tokens taken. One outside the mask has minus infinity.
        token_mask (`torch.Tensor` of shape `(B, T, V)` bool, or [`TokenSets`] `(B, T)`, *optional*): True = allowed,
            at least one a position; None allows everything.

    Returns:
        log-probabilities and entropies in nats, both `(B, T)`. The entropy is finite: a forbidden token adds 0.
    """
    apply: Callable[..., tuple[torch.Tensor, ...]] = _MaskedCategorical.apply
    logprobs, entropies = apply(logits, token_ids, token_mask, False)
    return logprobs, entropies


def masked_logprobs_entropy_and_mass(
    logits: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor | TokenSets | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As [`masked_logprobs_and_entropy`], and log Z, Z the unmasked softmax's probability of the allowed tokens.

    log Z + log p(token) is the unmasked log-probability of the token. One more pass over the vocabulary each way.

    Returns:
        log-probabilities, entropies and log Z, each `(B, T)`; log Z is 0 where everything is allowed.
    """
    apply: Callable[..., tuple[torch.Tensor, ...]] = _MaskedCategorical.apply
    logprobs, entropies, log_mass = apply(logits, token_ids, token_mask, True)
    return logprobs, entropies, log_mass


class _MaskedCategorical(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        token_ids: torch.Tensor,
        token_mask: torch.Tensor | TokenSets | None,
        with_mass: bool,
    ) -> Any:
        ctx.set_materialize_grads(False)
        log_normalizer = torch.empty_like(token_ids, dtype=logits.dtype)
        logprobs, entropies = torch.empty_like(log_normalizer), torch.empty_like(log_normalizer)
        log_mass = torch.zeros_like(log_normalizer)
        for rows in _chunks(logits):
            allowed = _allowed_logits(logits, token_mask, rows)
            largest = allowed.amax(-1, keepdim=True)
            shifted = allowed - largest
            weights = shifted.exp()
            log_sum = weights.sum(-1).log()
            # sum of p(a) * (logit(a) - largest); minus infinity times a weight of 0 must not be counted.
            expected = weights.mul_(shifted.clamp_(min=LOWEST)).sum(-1) * (-log_sum).exp()
            entropies[rows] = log_sum - expected
            log_normalizer[rows] = largest.squeeze(-1) + log_sum
            chosen = allowed.gather(-1, token_ids[rows].unsqueeze(-1)).squeeze(-1)
            logprobs[rows] = chosen - log_normalizer[rows]
            if with_mass and token_mask is not None:
                log_mass[rows] = log_normalizer[rows] - logits[rows].logsumexp(-1)
        ctx.token_mask = token_mask
        ctx.save_for_backward(logits, token_ids, log_normalizer, entropies, log_mass)
        return (logprobs, entropies, log_mass) if with_mass else (logprobs, entropies)

    @staticmethod
    def backward(ctx: Any, *for_outputs: torch.Tensor | None) -> Any:
        logits, token_ids, log_normalizer, entropies, log_mass = ctx.saved_tensors
        token_mask = ctx.token_mask
        apply: Callable[..., torch.Tensor] = _GradientOfLogits.apply
        for_mass = for_outputs[2] if len(for_outputs) == 3 and token_mask is not None else None
        inputs = logits, token_ids, token_mask, log_normalizer, entropies.detach(), log_mass.detach()
        return apply(*inputs, *for_outputs[:2], for_mass), None, None, None


class _GradientOfLogits(torch.autograd.Function):
    """The backward pass as a function of its own, so that it can be differentiated as well (`create_graph=True`)."""

    FIRST_WEIGHT = 6
    """The argument that weighs the log-probabilities; those of entropies and of log Z follow."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        token_ids: torch.Tensor,
        token_mask: torch.Tensor | TokenSets | None,
        log_normalizer: torch.Tensor,
        entropies: torch.Tensor,
        log_mass: torch.Tensor,
        for_logprobs: torch.Tensor | None,
        for_entropies: torch.Tensor | None,
        for_mass: torch.Tensor | None,
    ) -> torch.Tensor:
        gradient = torch.zeros_like(logits)
        for rows in _chunks(logits):
            log_probabilities = _allowed_logits(logits, token_mask, rows) - log_normalizer[rows].unsqueeze(-1)
            probabilities = log_probabilities.exp()
            if for_entropies is not None:
                # d H / d logit(a) = -p(a) (log p(a) + H)
                surprise = log_probabilities.clamp_(min=LOWEST).add_(entropies[rows].unsqueeze(-1))
                gradient[rows] -= surprise.mul_(probabilities).mul_(for_entropies[rows].unsqueeze(-1))
            # d log p(token) / d logit(a) = [a is the token] - p(a), and d log Z / d logit(a) = p(a) - unmasked p(a)
            factor = _difference(for_mass, for_logprobs, rows)
            if factor is not None:
                gradient[rows] += probabilities.mul_(factor.unsqueeze(-1))
            if for_mass is not None:
                unmasked = (logits[rows] - (log_normalizer - log_mass)[rows].unsqueeze(-1)).exp_()
                gradient[rows] -= unmasked.mul_(for_mass[rows].unsqueeze(-1))
        if for_logprobs is not None:
            gradient.scatter_add_(-1, token_ids.unsqueeze(-1), for_logprobs.unsqueeze(-1))
        ctx.token_mask = token_mask
        ctx.save_for_backward(logits, token_ids, for_logprobs, for_entropies, for_mass)
        return gradient

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> Any:
        """Second derivatives: autograd's, of the plain formulas, which keep several tensors the size of the logits."""
        logits, token_ids, *weights = ctx.saved_tensors
        token_mask = ctx.token_mask
        places = range(_GradientOfLogits.FIRST_WEIGHT, _GradientOfLogits.FIRST_WEIGHT + len(weights))
        inputs = {0: logits, **dict(zip(places, weights, strict=True))}
        with torch.enable_grad():
            # Views, so that nothing from before this function is differentiated here.
            variables = {index: tensor.view_as(tensor) for index, tensor in inputs.items() if tensor is not None}
            outputs = dict(zip(places, _plain_statistics(variables[0], token_ids, token_mask), strict=True))
            weighed = [index for index in places if index in variables]
            (gradient,) = torch.autograd.grad(
                [outputs[index] for index in weighed],
                variables[0],
                [variables[index] for index in weighed],
                create_graph=True,
            )
        needed = [index for index in variables if ctx.needs_input_grad[index]]
        second = torch.autograd.grad(
            gradient, [variables[index] for index in needed], outer, create_graph=torch.is_grad_enabled()
        )
        by_input = dict(zip(needed, second, strict=True))
        return tuple(by_input.get(index) for index in range(places.stop))


def _difference(first: torch.Tensor | None, second: torch.Tensor | None, rows: slice) -> torch.Tensor | None:
    """`first - second` in some rows, where None is 0; None where both are."""
    if second is None:
        return None if first is None else first[rows]
    return -second[rows] if first is None else first[rows] - second[rows]


def _plain_statistics(
    logits: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor | TokenSets | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`masked_logprobs_entropy_and_mass` as it is defined."""
    allowed = _allowed_logits(logits, token_mask, slice(None))
    log_probabilities = allowed.log_softmax(-1)
    logprobs = log_probabilities.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    entropies = -(log_probabilities.exp() * log_probabilities.clamp(min=LOWEST)).sum(-1)
    return logprobs, entropies, allowed.logsumexp(-1) - logits.logsumexp(-1)


LOWEST = -1e30
"""In place of minus infinity where that is multiplied by a probability of 0."""


def _chunks(logits: torch.Tensor) -> list[slice]:
    """Rows at a time, so that what is computed on the way stays small (and, on a CPU, in its caches)."""
    at_once = 2**26 if logits.is_cuda else 2**22
    step = max(1, at_once // max(logits[:1].numel(), 1))
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def _allowed_logits(logits: torch.Tensor, token_mask: torch.Tensor | TokenSets | None, rows: slice) -> torch.Tensor:
    if token_mask is None:
        return logits[rows]
    mask = token_mask[rows]
    return apply_token_mask(logits[rows], mask.mask() if isinstance(mask, TokenSets) else mask)


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
