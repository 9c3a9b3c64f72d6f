"""Masks over the vocabulary (the paper's action mask): which tokens the masking policy allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


CANDIDATES = (128, 1024)
"""How many of the likeliest tokens are looked at before a whole row is sorted: the sets of a language model are found
among few, in a tenth of the time of a sort of 50,257. Rows where they do not hold enough mass are looked at again."""


def top_p_mask(
    logits: torch.Tensor, top_p: float, min_tokens: int = 1, log_normalizer: torch.Tensor | None = None
) -> torch.Tensor:
    """The smallest set of tokens whose probability exceeds `top_p` (paper, section 4; Holtzman et al. 2020).

    Token j of a row sorted by probability is allowed when the tokens before it hold no more than `top_p`; so the token
    that crosses the bound is inside. Among equal probabilities the lower token id goes first.

    Args:
        logits (`torch.Tensor` of shape `(..., V)`): of the masking policy, already divided by the temperature. Minus
            infinity is a probability of 0.
        top_p (`float`): in (0, 1]. 1 allows every token.
        min_tokens (`int`): never allow fewer than this (or V, if that is less).
        log_normalizer (`torch.Tensor` of shape `(...)`, *optional*): `logits.logsumexp(-1)`, where that is known.

    Returns:
        `torch.Tensor` of shape `(..., V)`, bool, True = allowed.

    Example: probabilities (0.5, 0.3, 0.2) allow {0} for 0.4, {0, 1} for 0.5 (0.5 does not exceed 0.5) and all for 0.8.
    """
    if top_p >= 1.0:
        return torch.ones_like(logits, dtype=torch.bool)
    flat = logits.detach().float().reshape(-1, logits.shape[-1])
    vocab_size = flat.shape[-1]
    of_rows = flat.logsumexp(-1) if log_normalizer is None else log_normalizer.detach().float().reshape(-1)
    cut = _Cut.empty(len(flat), flat.device)
    left = torch.arange(len(flat), device=flat.device)
    # One more than may be allowed: the first that is not shows whether the last that is has an equal.
    for candidates in sorted({min(max(count, min_tokens + 1), vocab_size) for count in (*CANDIDATES, vocab_size)}):
        rows = flat if len(left) == len(flat) else flat[left]
        values = rows.topk(candidates, dim=-1).values
        probabilities = (values - of_rows[left, None]).exp().double()
        mass = probabilities.cumsum(-1)
        count = (mass - probabilities <= top_p).sum(-1).clamp(min=min(min_tokens, candidates))
        found = count < candidates if candidates < vocab_size else torch.ones_like(count, dtype=torch.bool)
        cut.set(left[found], values[found], count[found])
        left = left[~found]
        if not len(left):
            break
    return _allow(flat, cut).reshape(logits.shape)


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
    cut, every = _Cut.empty(len(flat), flat.device), torch.arange(len(flat), device=flat.device)
    cut.set(every, flat.topk(top_k + 1, dim=-1).values, torch.full_like(every, top_k))
    return _allow(flat, cut).reshape(logits.shape)


@dataclass(frozen=True)
class _Cut:
    """Where N rows are cut: how many tokens are inside, the logit of the last, and whether one outside equals it."""

    count: torch.Tensor
    threshold: torch.Tensor
    is_tied: torch.Tensor

    @classmethod
    def empty(cls, num_rows: int, device: torch.device) -> _Cut:
        return cls(
            torch.zeros(num_rows, dtype=torch.long, device=device),
            torch.zeros(num_rows, device=device),
            torch.zeros(num_rows, dtype=torch.bool, device=device),
        )

    def set(self, rows: torch.Tensor, values: torch.Tensor, count: torch.Tensor) -> None:
        """Of some rows, given their largest logits `(n, K)` in falling order and how many are inside."""
        threshold = values.gather(-1, count[:, None] - 1).squeeze(-1)
        following = values.gather(-1, count[:, None].clamp(max=values.shape[-1] - 1)).squeeze(-1)
        self.count[rows], self.threshold[rows] = count, threshold
        self.is_tied[rows] = (count < values.shape[-1]) & (following == threshold)


def _allow(logits: torch.Tensor, cut: _Cut) -> torch.Tensor:
    """The largest of each row of `(N, V)`."""
    allowed = logits >= cut.threshold[:, None]
    tied_rows = cut.is_tied.nonzero().squeeze(-1)
    if len(tied_rows):
        rows = logits[tied_rows]
        above = rows > cut.threshold[tied_rows, None]
        tied = rows == cut.threshold[tied_rows, None]
        room = cut.count[tied_rows, None] - above.sum(-1, keepdim=True)
        allowed[tied_rows] = above | (tied & (tied.cumsum(-1) <= room))
    return allowed


def allow_tokens(token_mask: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
    """`token_mask` `(..., V)` with these tokens allowed as well (in place)."""
    if token_ids:
        token_mask[..., list(token_ids)] = True
    return token_mask
