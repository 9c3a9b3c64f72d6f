"""Log-probabilities and entropies from hidden states: the output layer and its softmax, without logits in full.

Logits `(N, V)` are the largest tensor of an update. Here they exist for a few rows at a time, and under a mask that
allows few tokens only the logits of these are computed at all: the distribution over a set needs no others.

Rows are cut and the vocabulary is not: a few rows of the largest vocabularies fit everywhere, and a whole row needs no
second pass for its normalizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from .logprobs import LOWEST, apply_token_mask
from .token_sets import TokenSets, unpack_mask


LOGITS_AT_ONCE = 2**22
"""Logits that exist at a time on a CPU, whose caches they should not leave far behind; 16 times as many on a GPU."""

LOGITS_KEPT = 2**27
"""Of an output layer that is trained, at most this many logits (512 MiB) are kept for the backward pass, which
otherwise computes them again."""


@dataclass(frozen=True)
class OutputStates:
    """What a language model's output layer reads, and the layer: logits that are not computed yet.

    Attributes:
        hidden (`(B, T, H)`): the states before each completion token.
        weight (`(V, H)`), bias (`(V,)`, *optional*): logits are `hidden @ weight.T + bias`.
        precision (`torch.dtype`): in which the layer would have computed them in its model, outside of whose autocast
            the loss is computed. (accelerate would take a thing that has a `dtype` for a tensor.)
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    precision: torch.dtype

    @classmethod
    def of_layer(cls, hidden: torch.Tensor, layer: torch.nn.Linear) -> OutputStates:
        """What a layer would compute here: under autocast in its data type, otherwise in the weight's."""
        device = hidden.device.type
        is_lower = torch.is_autocast_enabled(device)
        precision = torch.get_autocast_dtype(device) if is_lower else layer.weight.dtype
        return cls(hidden, layer.weight, layer.bias, precision)

    def logits(self) -> torch.Tensor:
        """`(B, T, V)`, in full."""
        bias = None if self.bias is None else self.bias.to(self.precision)
        return F.linear(self.hidden.to(self.precision), self.weight.to(self.precision), bias)

    def __getitem__(self, places: Any) -> OutputStates:
        """Of some rows and positions, as of a tensor of logits."""
        return replace(self, hidden=self.hidden[places])


PolicyOutput = torch.Tensor | OutputStates
"""Logits `(B, T, V)` of completion tokens, or what they are computed from."""


def output_logprobs(
    states: OutputStates,
    token_ids: torch.Tensor,
    real: torch.Tensor,
    allowed: TokenSets | None = None,
    temperature: float = 1.0,
    with_mass: bool = False,
    entropy_gradient: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As [`masked_logprobs_entropy_and_mass`] of the logits divided by the temperature; differentiable once.

    Args:
        states ([`OutputStates`]): B rows of T states.
        token_ids (`torch.Tensor` of shape `(B, T)`): the tokens taken. One outside the mask has minus infinity.
        real (`torch.Tensor` of shape `(B, T)`, bool): False on padding, for which nothing is computed.
        allowed ([`TokenSets`] of shape `(B, T)`, *optional*): the allowed tokens, at least one a position; None allows
            everything.
        temperature (`float`): divides the logits.
        with_mass (`bool`): whether log Z is asked for; without, it is 0 everywhere.
        entropy_gradient (`bool`): whether entropies are differentiated: costs a matrix product where sets are large.

    Returns:
        log-probabilities, entropies and log Z, each `(B, T)` in float32 (float64 for float64) and 0 on padding.
    """
    hidden, weight = states.hidden[real].to(states.precision), states.weight.to(states.precision)
    layer = _Layer(weight, None if states.bias is None else states.bias.to(states.precision), 1.0 / temperature)
    ids = token_ids[real]
    if allowed is None:
        logprobs, entropies, _ = _over_vocabulary(hidden, layer, ids, None, entropy_gradient)
    else:
        logprobs, entropies, log_normalizer = _over_sets(hidden, layer, ids, allowed[real], entropy_gradient)
    log_mass = torch.zeros_like(logprobs)
    if with_mass and allowed is not None:
        log_mass = log_normalizer - _over_vocabulary(hidden, layer, ids, None, False)[2]
    return _placed(real, logprobs), _placed(real, entropies), _placed(real, log_mass)


def _placed(where: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values in the places of a bool tensor that are True, 0 elsewhere."""
    return torch.zeros(where.shape, dtype=values.dtype, device=values.device).masked_scatter(where, values)


@dataclass(frozen=True)
class _Layer:
    """Logits of the actions are `(hidden @ weight.T + bias) * scale`."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float

    def logits(self, hidden: torch.Tensor, packed: torch.Tensor | None) -> torch.Tensor:
        """`(n, V)` of states `(n, H)`, minus infinity for what the packed mask `(n, ceil(V / 8))` forbids."""
        logits = self._scaled(F.linear(hidden, self.weight, self.bias))
        return logits if packed is None else apply_token_mask(logits, unpack_mask(packed, len(self.weight)))

    def logits_of(self, hidden: torch.Tensor, vectors: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """`(n, K)`: of some tokens of each row, given their rows of the weight `(n, K, H)`."""
        logits = (vectors @ hidden.unsqueeze(-1)).squeeze(-1)
        return self._scaled(logits if self.bias is None else logits + self.bias[ids])

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits if logits.dtype is torch.float64 else logits.float()
        return logits if self.scale == 1.0 else logits * self.scale


def _over_vocabulary(
    hidden: torch.Tensor, layer: _Layer, ids: torch.Tensor, packed: torch.Tensor | None, entropy_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities, entropies and log normalizers `(N,)` of the softmax over the (allowed) vocabulary."""
    apply: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = _OverVocabulary.apply
    flags = entropy_gradient, torch.is_grad_enabled()
    return apply(hidden, layer.weight, layer.bias, layer.scale, ids, packed, *flags)


def _over_sets(
    hidden: torch.Tensor, layer: _Layer, ids: torch.Tensor, allowed: TokenSets, entropy_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same over the allowed tokens: small sets token by token, large ones over the vocabulary.

    A token by itself reads a scattered row of the weight, which costs about as much as 32 columns of a matrix product,
    measured on a CPU: the very size up to which a set is kept as ids.
    """
    small, large = allowed.by_kind()
    whole = ~(small | large)
    apply: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = _OverSmallSets.apply
    flags = entropy_gradient, torch.is_grad_enabled()
    parts = []
    if bool(small.any()):
        inputs = layer.weight, layer.bias, layer.scale, ids[small], *allowed.padded_ids()
        parts.append((small, apply(hidden[small], *inputs, *flags)))
    for where, packed in ((large, allowed.bits), (whole, None)):
        if bool(where.any()):
            parts.append((where, _over_vocabulary(hidden[where], layer, ids[where], packed, entropy_gradient)))
    columns = [
        sum((_placed(where, found[index]) for where, found in parts), start=hidden.new_zeros(())) for index in range(3)
    ]
    return columns[0], columns[1], columns[2]


class _OverVocabulary(torch.autograd.Function):
    """With a frozen weight the gradient of each output is computed at once, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        ids: torch.Tensor,
        packed: torch.Tensor | None,
        entropy_gradient: bool,
        differentiates: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        layer = _Layer(weight, bias, scale)
        trains_layer = differentiates and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2])
        looks_back = differentiates and ctx.needs_input_grad[0] and not trains_layer
        keeps = trains_layer and len(hidden) * len(weight) <= LOGITS_KEPT
        # Made before the loop: what is left behind in it keeps the allocator from using its memory again.
        exact = torch.float64 if hidden.dtype is torch.float64 else torch.float32
        logprobs, entropies, normalizers = (hidden.new_empty(len(hidden), dtype=exact) for _ in range(3))
        kept = hidden.new_empty(len(hidden), len(weight), dtype=exact) if keeps else None
        expected = torch.empty_like(hidden) if looks_back else None
        surprise = torch.empty_like(hidden) if looks_back and entropy_gradient else None
        for rows in _chunks(len(hidden), len(weight), hidden.is_cuda):
            logits = layer.logits(hidden[rows], None if packed is None else packed[rows])
            normalizers[rows] = logits.logsumexp(-1)
            log_probabilities = logits.sub_(normalizers[rows, None])
            logprobs[rows] = log_probabilities.gather(-1, ids[rows, None]).squeeze(-1)
            probabilities = log_probabilities.exp()
            weighed = log_probabilities.clamp_(min=LOWEST).mul_(probabilities)
            entropies[rows] = -weighed.sum(-1)
            if kept is not None:
                kept[rows] = probabilities
            if expected is not None:
                expected[rows] = probabilities.to(weight.dtype) @ weight
            if surprise is not None:
                surprise[rows] = weighed.addcmul_(probabilities, entropies[rows, None]).to(weight.dtype) @ weight
        ctx.scale, ctx.entropy_gradient, ctx.trains_layer = scale, entropy_gradient, trains_layer
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        ctx.save_for_backward(hidden, weight, bias, ids, packed, entropies, normalizers, kept, expected, surprise)
        return logprobs, entropies, normalizers

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, for_logprobs: torch.Tensor, for_entropies: torch.Tensor, for_normalizers: torch.Tensor
    ) -> Any:
        hidden, weight, bias, ids, packed, entropies, normalizers, kept, expected, surprise = ctx.saved_tensors
        for_expected = for_normalizers - for_logprobs
        if not ctx.trains_layer:
            gradient = _of_hidden(weight, ids, for_logprobs, for_expected, expected)
            if surprise is not None:
                gradient -= _product(for_entropies, surprise)
            return gradient * ctx.scale, *[None] * 7
        layer, gradients = _Layer(weight, bias, ctx.scale), _LayerGradients(weight, bias)
        of_hidden = torch.empty_like(hidden)
        for rows in _chunks(len(hidden), len(weight), hidden.is_cuda):
            if kept is not None:
                probabilities = kept[rows]
            else:
                logits = layer.logits(hidden[rows], None if packed is None else packed[rows])
                probabilities = logits.sub_(normalizers[rows, None]).exp_()
            of_logits = probabilities * for_expected[rows, None]
            if ctx.entropy_gradient:
                of_logits += _of_entropies(probabilities, entropies[rows], for_entropies[rows])
            of_logits.scatter_add_(-1, ids[rows, None], for_logprobs[rows, None])
            of_logits = of_logits.mul_(ctx.scale).to(weight.dtype)
            of_hidden[rows] = of_logits @ weight
            gradients.add(of_logits, hidden[rows])
        return of_hidden, *gradients.of(weight, bias), *[None] * 5


class _OverSmallSets(torch.autograd.Function):
    """Of each row only the logits of its set: `tokens` `(N, K)`, of which the first `sizes` `(N,)` count."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        ids: torch.Tensor,
        tokens: torch.Tensor,
        sizes: torch.Tensor,
        entropy_gradient: bool,
        differentiates: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        layer = _Layer(weight, bias, scale)
        exact = torch.float64 if hidden.dtype is torch.float64 else torch.float32
        logprobs, entropies, normalizers = (hidden.new_empty(len(hidden), dtype=exact) for _ in range(3))
        kept = hidden.new_zeros(tokens.shape, dtype=exact) if differentiates else None
        expected = torch.empty_like(hidden) if differentiates else None
        surprise = torch.empty_like(hidden) if differentiates and entropy_gradient else None
        for rows, width in _by_size(sizes, hidden.shape[1], hidden.is_cuda):
            of_set = tokens[rows, :width]
            vectors = weight[of_set]
            counts = torch.arange(width, device=sizes.device) < sizes[rows, None]
            logits = layer.logits_of(hidden[rows], vectors, of_set).masked_fill_(~counts, float("-inf"))
            normalizer = logits.logsumexp(-1)
            log_probabilities = logits.sub_(normalizer.unsqueeze(-1))
            is_taken = counts & (of_set == ids[rows, None])
            taken = log_probabilities.masked_fill(~is_taken, float("-inf"))
            probabilities = log_probabilities.exp()
            weighed = log_probabilities.clamp_(min=LOWEST).mul_(probabilities)
            entropy = -weighed.sum(-1)
            logprobs[rows], entropies[rows], normalizers[rows] = taken.amax(-1), entropy, normalizer
            if kept is not None and expected is not None:
                kept[rows, :width] = probabilities
                expected[rows] = _weighed_sum(probabilities, vectors)
            if surprise is not None:
                surprise[rows] = _weighed_sum(weighed.addcmul_(probabilities, entropy.unsqueeze(-1)), vectors)
        ctx.scale, ctx.entropy_gradient = scale, entropy_gradient
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        ctx.save_for_backward(hidden, weight, bias, ids, tokens, sizes, entropies, kept, expected, surprise)
        return logprobs, entropies, normalizers

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, for_logprobs: torch.Tensor, for_entropies: torch.Tensor, for_normalizers: torch.Tensor
    ) -> Any:
        hidden, weight, bias, ids, tokens, sizes, entropies, kept, expected, surprise = ctx.saved_tensors
        for_expected = for_normalizers - for_logprobs
        of_hidden = _of_hidden(weight, ids, for_logprobs, for_expected, expected)
        if surprise is not None:
            of_hidden -= _product(for_entropies, surprise)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return of_hidden * ctx.scale, *[None] * 8
        of_logits = kept * for_expected.unsqueeze(-1)
        if ctx.entropy_gradient:
            of_logits += _of_entropies(kept, entropies, for_entropies)
        gradients = _LayerGradients(weight, bias)
        for rows, width in _by_size(sizes, hidden.shape[1], hidden.is_cuda):
            gradients.add_at(tokens[rows, :width], of_logits[rows, :width] * ctx.scale, hidden[rows])
        gradients.add_at(ids.unsqueeze(-1), for_logprobs.unsqueeze(-1) * ctx.scale, hidden)
        return of_hidden * ctx.scale, *gradients.of(weight, bias), *[None] * 6


def _of_hidden(
    weight: torch.Tensor,
    ids: torch.Tensor,
    for_logprobs: torch.Tensor,
    for_expected: torch.Tensor,
    expected: torch.Tensor,
) -> torch.Tensor:
    """Gradient `(N, H)` of log-probabilities and normalizers, before the scale.

    d log p(token) / d hidden is the token's row of the weight less the expected row, which is that of the normalizer.
    """
    return _product(for_logprobs, weight[ids]) + _product(for_expected, expected)


def _of_entropies(probabilities: torch.Tensor, entropies: torch.Tensor, for_entropies: torch.Tensor) -> torch.Tensor:
    """Gradient `(n, K)` of logits: d H / d logit(a) = -p(a) (log p(a) + H)."""
    surprise = torch.xlogy(probabilities, probabilities).addcmul_(probabilities, entropies.unsqueeze(-1))
    return surprise.mul_(-for_entropies.unsqueeze(-1))


def _product(factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return factors.unsqueeze(-1).to(rows.dtype) * rows


def _weighed_sum(factors: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """`(n, H)`: of factors `(n, K)` and vectors `(n, K, H)`."""
    return (factors.to(vectors.dtype).unsqueeze(1) @ vectors).squeeze(1)


class _LayerGradients:
    """Gradients of weight and bias, added up over chunks of rows; in float32 for half precision."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        exact = torch.float64 if weight.dtype is torch.float64 else torch.float32
        self.of_weight = torch.zeros_like(weight, dtype=exact)
        self.of_bias = None if bias is None else torch.zeros_like(bias, dtype=exact)

    def add(self, of_logits: torch.Tensor, hidden: torch.Tensor) -> None:
        """Of logits `(n, V)`."""
        if self.of_weight.dtype is of_logits.dtype:
            self.of_weight.addmm_(of_logits.T, hidden)
        else:
            self.of_weight += of_logits.T @ hidden
        if self.of_bias is not None:
            self.of_bias += of_logits.sum(0)

    def add_at(self, tokens: torch.Tensor, of_logits: torch.Tensor, hidden: torch.Tensor) -> None:
        """Of the logits `(n, K)` of some tokens."""
        rows = of_logits.unsqueeze(-1) * hidden.unsqueeze(1).to(of_logits.dtype)
        self.of_weight.index_add_(0, tokens.flatten(), rows.flatten(0, 1).to(self.of_weight.dtype))
        if self.of_bias is not None:
            self.of_bias.index_add_(0, tokens.flatten(), of_logits.flatten().to(self.of_bias.dtype))

    def of(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """In the data types of weight and bias."""
        of_bias = None if bias is None or self.of_bias is None else self.of_bias.to(bias.dtype)
        return self.of_weight.to(weight.dtype), of_bias


def _chunks(num_rows: int, vocab_size: int, is_cuda: bool) -> list[slice]:
    step = max(1, LOGITS_AT_ONCE * (16 if is_cuda else 1) // vocab_size)
    return [slice(start, start + step) for start in range(0, num_rows, step)]


def _by_size(sizes: torch.Tensor, hidden_size: int, is_cuda: bool) -> list[tuple[torch.Tensor, int]]:
    """Rows of like sizes, a few at a time, and the largest size among them: little padding, little memory."""
    order = sizes.argsort(stable=True)
    ordered = sizes[order].tolist()
    at_once = LOGITS_AT_ONCE * (16 if is_cuda else 1)
    parts, end = [], len(ordered)
    # From the largest: how many rows fit is then known at each cut.
    while end > 0:
        start = max(0, end - max(1, at_once // (ordered[end - 1] * hidden_size)))
        parts.append((order[start:end], ordered[end - 1]))
        end = start
    return parts
