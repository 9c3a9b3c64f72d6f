"""Sets of tokens, many at a time: small ones by their ids, others a bit a token, whichever is smaller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .sequences import right_pad


IDS_UP_TO = 32
"""A set of up to V / 32 tokens is kept as ids of four bytes each, which is less than V bits."""


@dataclass(frozen=True)
class TokenSets:
    """What is allowed at each of many positions.

    Attributes:
        sizes (`(...)` int32): tokens in each set; V, for which nothing else is kept, is every token.
        ids (`(N,)` int32): the tokens of the small sets, in rising order, position after position.
        bits (`(M, ceil(V / 8))` uint8): the other sets, position after position, as `pack_mask` packs them.
        vocab_size (`int`): V.
    """

    sizes: torch.Tensor
    ids: torch.Tensor
    bits: torch.Tensor
    vocab_size: int

    @classmethod
    def of_mask(cls, token_mask: torch.Tensor) -> TokenSets:
        """Of bool `(..., V)`, True = in the set; at least one a position."""
        flat = token_mask.flatten(0, -2) if token_mask.ndim > 1 else token_mask[None]
        rows, tokens = flat.nonzero(as_tuple=True)
        sizes = torch.bincount(rows, minlength=len(flat))
        is_ids, is_bits = _kinds(sizes, flat.shape[-1])
        ids = tokens[is_ids.repeat_interleave(sizes)].int()
        return cls(sizes.int().reshape(token_mask.shape[:-1]), ids, pack_mask(flat[is_bits]), flat.shape[-1])

    @classmethod
    def of_ids(cls, ids: torch.Tensor, sizes: torch.Tensor, vocab_size: int) -> TokenSets:
        """Of ids `(N, K)` in rising order, of which the first `sizes` `(N,)` count."""
        counts = torch.arange(ids.shape[1], device=ids.device) < sizes.unsqueeze(-1)
        is_ids, is_bits = _kinds(sizes, vocab_size)
        token_mask = torch.zeros(0, vocab_size, dtype=torch.bool, device=ids.device)
        if bool(is_bits.any()):
            # What does not count is token 0, and may be it.
            token_mask = torch.zeros(int(is_bits.sum()), vocab_size, dtype=torch.uint8, device=ids.device)
            token_mask = token_mask.scatter_add_(1, ids[is_bits], counts[is_bits].to(torch.uint8)) > 0
        small = ids[counts & is_ids.unsqueeze(-1)].int()
        return cls(sizes.int(), small, pack_mask(token_mask), vocab_size)

    @classmethod
    def everything(cls, shape: Sequence[int], vocab_size: int, device: torch.device | None = None) -> TokenSets:
        """Every token at each position."""
        sizes = torch.full(tuple(shape), vocab_size, dtype=torch.int32, device=device)
        no_bits = pack_mask(torch.zeros(0, vocab_size, dtype=torch.bool, device=device))
        return cls(sizes, sizes.new_zeros(0), no_bits, vocab_size)

    @property
    def shape(self) -> torch.Size:
        """Of the positions."""
        return self.sizes.shape

    @property
    def num_bytes(self) -> int:
        """Memory that the sets take."""
        return sum(part.numel() * part.element_size() for part in (self.sizes, self.ids, self.bits))

    def to(self, device: torch.device | str) -> TokenSets:
        """On another device."""
        return replace(self, sizes=self.sizes.to(device), ids=self.ids.to(device), bits=self.bits.to(device))

    def __getitem__(self, places: Any) -> TokenSets:
        """Of some positions, as of a tensor of the same shape."""
        sizes, device = self.sizes.flatten().long(), self.sizes.device
        chosen = torch.arange(len(sizes), device=device).view(self.shape)[places]
        flat = chosen.flatten()
        is_ids, is_bits = _kinds(sizes, self.vocab_size)
        kept = torch.where(is_ids, sizes, 0)
        starts, small = kept.cumsum(0) - kept, flat[is_ids[flat]]
        ids = self.ids[_ranges(starts[small], sizes[small])]
        bits = self.bits[(is_bits.cumsum(0) - 1)[flat[is_bits[flat]]]]
        return replace(self, sizes=self.sizes.flatten()[flat].view(chosen.shape), ids=ids, bits=bits)

    def unrestricted_at(self, places: torch.Tensor) -> TokenSets:
        """With every token in the sets of the positions at which bool `places`, of the same shape, is True."""
        return replace(self[~places], sizes=self.sizes.masked_fill(places, self.vocab_size))

    def mask(self) -> torch.Tensor:
        """`(..., V)` bool: V bytes a position."""
        flat = self.sizes.flatten().long()
        is_ids, is_bits = _kinds(flat, self.vocab_size)
        found = torch.ones(len(flat), self.vocab_size, dtype=torch.bool, device=flat.device)
        found[is_ids] = False
        rows = is_ids.nonzero().squeeze(-1).repeat_interleave(flat[is_ids])
        found[rows, self.ids.long()] = True
        found[is_bits] = unpack_mask(self.bits, self.vocab_size)
        return found.view(*self.shape, self.vocab_size)

    def by_kind(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the sets are small, and where they are not but are no whole vocabulary either: bool of `shape`."""
        return _kinds(self.sizes, self.vocab_size)

    def padded_ids(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The small sets alone: ids `(n, K)`, filled with 0, where K is the largest size; and sizes `(n,)`."""
        sizes = self.sizes[self.by_kind()[0]].long()
        return padded(self.ids.long(), sizes), sizes

    @staticmethod
    def concatenated(parts: Sequence[TokenSets]) -> TokenSets:
        """One after the other; `(b, T)` of different T are filled on the right with every token."""
        sizes = [part.sizes for part in parts]
        vocab_size = parts[0].vocab_size
        joined = right_pad(sizes, vocab_size) if sizes[0].ndim == 2 else torch.cat(sizes)
        return TokenSets(
            joined, torch.cat([part.ids for part in parts]), torch.cat([part.bits for part in parts]), vocab_size
        )

    @staticmethod
    def of_steps(steps: Sequence[TokenSets]) -> TokenSets:
        """`(B, T)` of T steps with `(B,)` each."""
        joined = TokenSets.concatenated(steps)
        order = torch.arange(len(joined.sizes), device=joined.sizes.device)
        return joined[order.view(len(steps), -1).T]


def padded(ids: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Ids `(N,)` of sets one after the other as rows `(n, K)`, filled with 0; `sizes` is `(n,)` long."""
    width = int(sizes.max()) if len(sizes) else 0
    rows = ids.new_zeros(len(sizes), width)
    return rows.masked_scatter_(torch.arange(width, device=ids.device) < sizes.unsqueeze(-1), ids)


def _kinds(sizes: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which sets are kept as ids, and which as bits."""
    is_ids = sizes * IDS_UP_TO <= vocab_size
    return is_ids, ~is_ids & (sizes < vocab_size)


def _ranges(starts: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """`start, …, start + count - 1` of each, one after the other."""
    offsets = starts - (counts.cumsum(0) - counts)
    return offsets.repeat_interleave(counts) + torch.arange(int(counts.sum()), device=starts.device)


def pack_mask(token_mask: torch.Tensor) -> torch.Tensor:
    """Bits into bytes: bool `(..., V)` to uint8 `(..., ceil(V / 8))`; token v is bit v % 8 of byte v // 8."""
    padding = -token_mask.shape[-1] % 8
    bits = torch.nn.functional.pad(token_mask.to(torch.uint8), (0, padding))
    bits = bits.reshape(*bits.shape[:-1], bits.shape[-1] // 8, 8)
    return (bits * _bit_weights(bits.device)).sum(-1, dtype=torch.uint8)


def unpack_mask(packed: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """The inverse of `pack_mask`: uint8 `(..., ceil(V / 8))` to bool `(..., V)`."""
    bits = (packed.unsqueeze(-1) & _bit_weights(packed.device)) != 0
    return bits.flatten(-2)[..., :vocab_size]


def _bit_weights(device: torch.device) -> torch.Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
