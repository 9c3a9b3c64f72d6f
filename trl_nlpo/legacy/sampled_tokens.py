"""What `generate` has sampled since the last step, and under which settings: the update needs the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..algorithm.distribution import SamplingSettings
from ..algorithm.generation import Sample
from ..functional.token_sets import TokenSets


@dataclass(frozen=True)
class SampledRow:
    """One completion.

    Attributes:
        prompt, completion (`tuple[int, ...]`): token ids without padding.
        sampling ([`SamplingSettings`]): how it was sampled.
        sets ([`TokenSets`] of shape `(T,)`, *optional*): what was allowed; None: everything.
        mass_drift (`(T,)`, *optional*): as in [`Sample`].
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    sampling: SamplingSettings
    sets: TokenSets | None
    mass_drift: torch.Tensor | None


@dataclass(frozen=True)
class Piece:
    """Tokens `start` to `end - 1` of a response are those from `offset` on of a sampled row."""

    start: int
    end: int
    offset: int
    row: SampledRow


class SampledTokens:
    """Completions by their tokens.

    What may be sampled at a position depends on the tokens before it, and on nothing else of the row. So a response is
    found again that was cut, or that several calls of `generate` made one after the other with something between them.
    """

    def __init__(self) -> None:
        self.rows: list[SampledRow] = []

    def add(self, sample: Sample, sampling: SamplingSettings) -> None:
        """Note completions."""
        sequences = sample.sequences
        prompts, completions = sequences.prompt_ids.tolist(), sequences.completion_ids.tolist()
        lengths = sequences.completion_mask.sum(-1).tolist()
        for index, (prompt, completion, length) in enumerate(zip(prompts, completions, lengths, strict=True)):
            sets, drift = sequences.token_sets, sample.mass_drift
            is_real = sequences.prompt_mask[index].tolist()
            self.rows.append(
                SampledRow(
                    tuple(token for token, real in zip(prompt, is_real, strict=True) if real),
                    tuple(completion[:length]),
                    sampling,
                    None if sets is None else sets[index, :length],
                    None if drift is None else drift[index, :length],
                )
            )

    def clear(self) -> None:
        """Forget all."""
        self.rows.clear()

    def pieces(self, query: Sequence[int], response: Sequence[int], is_encoder_decoder: bool) -> list[Piece]:
        """Which tokens of a response were sampled here, in rising order; no token is in two pieces."""
        whole = (*query, *response)
        found: list[Piece] = []
        for row in self.rows:
            where = len(row.prompt)
            if is_encoder_decoder and where != len(query):
                continue
            if whole[:where] != row.prompt:
                continue
            length = _common(whole[where:], row.completion)
            start = where - len(query)
            found.append(Piece(max(start, 0), start + length, max(-start, 0), row))
        return _apart(found)


def _common(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginning."""
    length = 0
    for token, other in zip(tokens, others, strict=False):
        if token != other:
            break
        length += 1
    return length


def _apart(pieces: list[Piece]) -> list[Piece]:
    """Without those that an earlier and longer one covers."""
    kept: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.start, -piece.end, piece.row.sampling.is_left_to_generate)):
        begin = max(piece.start, kept[-1].end if kept else 0)
        if begin < piece.end:
            kept.append(Piece(begin, piece.end, piece.offset + begin - piece.start, piece.row))
    return kept


def joined_sets(
    pieces: Sequence[Sequence[Piece]], width: int, vocab_size: int, device: torch.device
) -> TokenSets | None:
    """The sets `(B, T)` of responses; every token where nothing is known. None: nothing was forbidden anywhere."""
    if all(piece.row.sets is None for row in pieces for piece in row):
        return None

    def everything(count: int) -> TokenSets:
        return TokenSets.everything((count,), vocab_size, device)

    parts: list[TokenSets] = []
    for row in pieces:
        position = 0
        for piece in row:
            length = piece.end - piece.start
            sets = piece.row.sets
            known = everything(length) if sets is None else sets[piece.offset : piece.offset + length]
            parts += [everything(piece.start - position), known]
            position = piece.end
        parts.append(everything(width - position))
    places = torch.arange(len(pieces) * width, device=device).view(len(pieces), width)
    return TokenSets.concatenated(parts)[places]


def joined_drift(pieces: Sequence[Sequence[Piece]], width: int, device: torch.device) -> torch.Tensor | None:
    """`mass_drift` `(B, T)` of responses, 0 where nothing is known; None: the mask is not anchored anywhere."""
    if all(piece.row.mass_drift is None for row in pieces for piece in row):
        return None
    drift = torch.zeros(len(pieces), width, device=device)
    for index, row in enumerate(pieces):
        for piece in row:
            if piece.row.mass_drift is not None:
                length = piece.end - piece.start
                drift[index, piece.start : piece.end] = piece.row.mass_drift[piece.offset : piece.offset + length]
    return drift
