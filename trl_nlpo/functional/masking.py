"""Masks over the vocabulary (the paper's action mask): which tokens the masking policy allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch


CANDIDATES = 1024
"""How many of the likeliest tokens are looked at before a whole row is sorted. A top-1,024 finds the same set as a
sort of 50,257 in an eighth of the time on the peaked distributions of a language model; rows where it does not hold
enough mass are sorted in full."""


def top_p_mask(logits: torch.Tensor, top_p: float, min_tokens: int = 1) -> torch.Tensor:
    """The smallest set of tokens whose probability exceeds `top_p` (paper, section 4; Holtzman et al. 2020).

    Token j of a row sorted by probability is allowed when the tokens before it hold no more than `top_p`; so the token
    that crosses the bound is inside. Among equal probabilities the lower token id goes first.

    Args:
        logits (`torch.Tensor` of shape `(..., V)`): of the masking policy, already divided by the temperature. Minus
            infinity is a probability of 0.
        top_p (`float`): in (0, 1]. 1 allows every token.
        min_tokens (`int`): never allow fewer than this (or V, if that is less).

    Returns:
        `torch.Tensor` of shape `(..., V)`, bool, True = allowed.

    Example: probabilities (0.5, 0.3, 0.2) allow {0} for 0.4, {0, 1} for 0.5 (0.5 does not exceed 0.5) and all for 0.8.
    """
    if top_p >= 1.0:
        return torch.ones_like(logits, dtype=torch.bool)
    flat = logits.detach().float().reshape(-1, logits.shape[-1])
    vocab_size = flat.shape[-1]
    candidates = min(max(CANDIDATES, min_tokens), vocab_size)
    log_normalizer = flat.logsumexp(-1, keepdim=True)
    count, threshold, enough = _smallest_set(flat, log_normalizer, candidates, top_p, min_tokens)
    if candidates < vocab_size and not bool(enough.all()):
        rest = ~enough
        count[rest], threshold[rest], _ = _smallest_set(
            flat[rest], log_normalizer[rest], vocab_size, top_p, min_tokens
        )
    return _allow(flat, count, threshold).reshape(logits.shape)


def top_k_mask(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """The `top_k` likeliest tokens; of equal ones the lower token id first.

    Args:
        logits (`torch.Tensor` of shape `(..., V)`): of the masking policy.
        top_k (`int`): how many to allow; V or more allows all.

    Returns:
        `torch.Tensor` of shape `(..., V)`, bool, True = allowed.
    """
    if top_k >= logits.shape[-1]:
        return torch.ones_like(logits, dtype=torch.bool)
    flat = logits.detach().float().reshape(-1, logits.shape[-1])
    threshold = flat.topk(top_k, dim=-1).values[:, -1]
    count = torch.full((flat.shape[0],), top_k, dtype=torch.long, device=flat.device)
    return _allow(flat, count, threshold).reshape(logits.shape)


def _smallest_set(
    logits: torch.Tensor, log_normalizer: torch.Tensor, candidates: int, top_p: float, min_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per row of `(N, V)`: size of the set, logit of its last token, and whether the candidates held enough mass."""
    values = logits.topk(candidates, dim=-1).values
    probabilities = (values - log_normalizer).exp().double()
    mass = probabilities.cumsum(-1)
    count = (mass - probabilities <= top_p).sum(-1).clamp(min=min(min_tokens, candidates))
    threshold = values.gather(-1, count[:, None] - 1).squeeze(-1)
    return count, threshold, mass[:, -1] > top_p


def _allow(logits: torch.Tensor, count: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """The `count` largest of each row of `(N, V)`, given the value of the last of them."""
    allowed = logits >= threshold[:, None]
    tied_rows = (allowed.sum(-1) > count).nonzero().squeeze(-1)
    if len(tied_rows):
        rows = logits[tied_rows]
        above = rows > threshold[tied_rows, None]
        tied = rows == threshold[tied_rows, None]
        room = count[tied_rows, None] - above.sum(-1, keepdim=True)
        allowed[tied_rows] = above | (tied & (tied.cumsum(-1) <= room))
    return allowed


def allow_tokens(token_mask: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
    """`token_mask` `(..., V)` with these tokens allowed as well (in place)."""
    if token_ids:
        token_mask[..., list(token_ids)] = True
    return token_mask


def pack_mask(token_mask: torch.Tensor) -> torch.Tensor:
    """Bits into bytes: bool `(..., V)` to uint8 `(..., ceil(V / 8))`; token v is bit v % 8 of byte v // 8."""
    padding = -token_mask.shape[-1] % 8
    bits = torch.nn.functional.pad(token_mask.to(torch.uint8), (0, padding))
    bits = bits.reshape(*bits.shape[:-1], -1, 8)
    return (bits * _bit_weights(bits.device)).sum(-1, dtype=torch.uint8)


def unpack_mask(packed: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The inverse of `pack_mask`: uint8 `(..., ceil(V / 8))` to bool `(..., V)`."""
    bits = (packed.unsqueeze(-1) & _bit_weights(packed.device)) != 0
    return bits.flatten(-2)[..., :vocab_size]


def token_sets(packed: torch.Tensor, largest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The allowed tokens of each row by their ids, without unpacking the rest of the vocabulary.

    Args:
        packed (`torch.Tensor` of shape `(N, ceil(V / 8))`, uint8): as `pack_mask` packs it.
        largest (`int`): sets of more tokens are left out.

    Returns:
        ids `(N, K)` in rising order, where K is the size of the largest set that is not left out, filled with 0; and
        sizes `(N,)`, 0 for sets that are left out.
    """
    sizes = _number_of_bits(packed).sum(-1)
    sizes = torch.where(sizes <= largest, sizes, 0)
    rows, columns = ((packed != 0) & (sizes > 0).unsqueeze(-1)).nonzero(as_tuple=True)
    byte, bit = ((packed[rows, columns].unsqueeze(-1) & _bit_weights(packed.device)) != 0).nonzero(as_tuple=True)
    starts = sizes.cumsum(0) - sizes
    place = torch.arange(len(byte), device=packed.device) - starts[rows[byte]]
    width = int(sizes.max()) if len(sizes) else 0
    ids = torch.zeros(len(packed), width, dtype=torch.long, device=packed.device)
    ids[rows[byte], place] = columns[byte] * 8 + bit
    return ids, sizes


def _number_of_bits(packed: torch.Tensor) -> torch.Tensor:
    """How many bits of each byte are set, as bytes: of pairs of bits, of fours, of eights."""
    pairs = packed - ((packed >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return (fours + (fours >> 4)) & 0x0F


def _bit_weights(device: torch.device) -> torch.Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
