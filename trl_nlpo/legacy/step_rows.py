"""What a script hands to `step`, checked and without padding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import UserError
from ..models.checks import num_tokens_read
from ..models.inputs import context_length
from .sampled_tokens import Piece, SampledTokens


@dataclass(frozen=True)
class StepRows:
    """B rows.

    Attributes:
        queries, responses (`list[list[int]]`): token ids; a response has no decoder start token in front.
        learned (`list[list[bool]]`): which tokens of each response are learned from.
        scores (`torch.Tensor` of shape `(B,)`): float32, on the CPU.
        pieces (`list[list[Piece]]`): which tokens of each response `generate` sampled.
    """

    queries: list[list[int]]
    responses: list[list[int]]
    learned: list[list[bool]]
    scores: torch.Tensor
    pieces: list[list[Piece]]

    @property
    def num_learned(self) -> int:
        """Tokens to learn from."""
        return sum(map(sum, self.learned))

    @property
    def num_foreign(self) -> int:
        """Tokens to learn from that `generate` did not sample."""
        return self.num_learned - self._num_learned_in(self.pieces)

    @property
    def num_greedy(self) -> int:
        """Tokens to learn from that `generate` searched for instead of sampling them."""
        searched = [[piece for piece in row if piece.row.sampling.is_left_to_generate] for row in self.pieces]
        return self._num_learned_in(searched)

    def _num_learned_in(self, pieces: Sequence[Sequence[Piece]]) -> int:
        return sum(
            sum(learned[piece.start : piece.end])
            for learned, row in zip(self.learned, pieces, strict=True)
            for piece in row
        )


def step_rows(
    queries: Any,
    responses: Any,
    scores: Any,
    masks: Any,
    batch_size: int,
    start_token: int | None,
    known: SampledTokens,
) -> StepRows:
    """Rows out of lists of tensors (or of lists of numbers).

    Args:
        queries, responses: B rows of token ids each.
        scores: B numbers.
        masks (*optional*): a row of 0 and 1 for each response, as long as it is; None: every token is learned from.
        batch_size (`int`): what B must be.
        start_token (`int`, *optional*): of an encoder-decoder model, the token that its decoder starts from, which
            old scripts leave in front of responses.
        known ([`SampledTokens`]): what was sampled since the last step.

    Raises:
        UserError: another number of rows, an empty row, a mask of another length, a score that is no finite number.
    """
    given = {"queries": queries, "responses": responses, "scores": scores}
    _check_counts(given if masks is None else {**given, "response_masks": masks}, batch_size)
    found: tuple[list[Any], ...] = ([], [], [], [])
    for index in range(batch_size):
        query, response = _ids(queries[index]), _ids(responses[index])
        learned = [True] * len(response) if masks is None else [bool(value) for value in _ids(masks[index])]
        if len(learned) != len(response):
            raise UserError(
                f"step: response {index} has {len(response)} tokens, but its response_mask {len(learned)}."
            )
        pieces = known.pieces(query, response, start_token is not None)
        if start_token is not None and response[:1] == [start_token]:
            without = known.pieces(query, response[1:], True)
            if _covered(without) >= _covered(pieces):
                response, learned, pieces = response[1:], learned[1:], without
        for name, row in (("query", query), ("response", response)):
            if not row:
                raise UserError(f"step: {name} {index} has no token: leave such rows out of the batch.")
        for column, value in zip(found, (query, response, learned, pieces), strict=True):
            column.append(value)
    rows = StepRows(found[0], found[1], found[2], torch.tensor(_numbers(scores)), found[3])
    if not rows.num_learned:
        raise UserError("step: response_masks leave no token to learn from.")
    return rows


def check_tokens(name: str, rows: Sequence[Sequence[int]], policy: Any) -> None:
    """Refuse tokens that a model does not know, and rows that are longer than its context.

    Args:
        name (`str`): what a row is called, for the message.
        rows: token ids.
        policy: a language model.

    Raises:
        UserError: the first such row.
    """
    size, context = num_tokens_read(policy), context_length(policy)
    for index, row in enumerate(rows):
        wrong = [token for token in row if size is not None and not 0 <= token < size]
        if wrong:
            raise UserError(f"{name} {index} has the token {wrong[0]}, but the model knows {size} tokens.")
        if context is not None and len(row) > context:
            raise UserError(
                f"{name} {index} has {len(row)} tokens, but the model's context only {context}: shorten it."
            )


def _check_counts(given: Mapping[str, Any], batch_size: int) -> None:
    for name, rows in given.items():
        if not isinstance(rows, (list, tuple, torch.Tensor)):
            raise UserError(f"step: {name} must be a list with one entry per completion, not {type(rows).__name__}.")
        if len(rows) != batch_size:
            raise UserError(f"step: {name} has {len(rows)} rows, but batch_size is {batch_size}.")


def _ids(row: Any) -> list[int]:
    return [int(value) for value in torch.as_tensor(row).reshape(-1).tolist()]


def _covered(pieces: Sequence[Piece]) -> int:
    return sum(piece.end - piece.start for piece in pieces)


def _numbers(scores: Any) -> list[float]:
    numbers = []
    for index, score in enumerate(scores):
        values = torch.as_tensor(score).reshape(-1)
        if len(values) != 1 or not math.isfinite(float(values[0])):
            raise UserError(f"step: score {index} must be one finite number, not {score!r}.")
        numbers.append(float(values[0]))
    return numbers
