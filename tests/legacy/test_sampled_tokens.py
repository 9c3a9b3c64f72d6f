"""Responses are found again among what was sampled: whole, cut, and made of several pieces."""

from __future__ import annotations

import torch

from trl_nlpo.algorithm.distribution import SamplingSettings
from trl_nlpo.functional.token_sets import TokenSets
from trl_nlpo.legacy.sampled_tokens import SampledRow, SampledTokens, joined_drift, joined_sets


SAMPLED = SamplingSettings(max_new_tokens=4)
GREEDY = SamplingSettings(max_new_tokens=4, do_sample=False)


def known(*rows, sampling=SAMPLED):
    found = SampledTokens()
    for prompt, completion in rows:
        mask = torch.zeros(len(completion), 40, dtype=torch.bool)
        mask[torch.arange(len(completion)), list(completion)] = True
        drift = torch.arange(1.0, len(completion) + 1)
        found.rows.append(SampledRow(tuple(prompt), tuple(completion), sampling, TokenSets.of_mask(mask), drift))
    return found


def places(pieces):
    return [(piece.start, piece.end, piece.offset) for piece in pieces]


def test_a_whole_and_a_cut_response_and_a_changed_one():
    tokens = known([(1, 2), (3, 4, 5)])
    assert places(tokens.pieces([1, 2], [3, 4, 5], False)) == [(0, 3, 0)]
    assert places(tokens.pieces([1, 2], [3, 4], False)) == [(0, 2, 0)]
    assert places(tokens.pieces([1, 2], [3, 9, 5], False)) == [(0, 1, 0)]
    assert places(tokens.pieces([1, 3], [3, 4, 5], False)) == []


def test_two_turns_and_a_query_that_took_in_the_first_tokens():
    tokens = known([(1,), (3, 4)], [(1, 3, 4, 7), (5, 6)])
    assert places(tokens.pieces([1], [3, 4, 7, 5, 6], False)) == [(0, 2, 0), (3, 5, 0)]
    assert places(tokens.pieces([1, 3], [4], False)) == [(0, 1, 1)]
    # What an encoder reads is not continued by the decoder.
    assert places(tokens.pieces([1, 3], [4], True)) == []


def test_no_token_is_in_two_pieces_and_samples_go_before_searches():
    tokens = known([(1,), (3, 4, 5)], sampling=GREEDY)
    tokens.rows += known([(1,), (3, 4, 5)], [(1,), (3, 4)]).rows
    (piece,) = tokens.pieces([1], [3, 4, 5], False)
    assert piece.row.sampling is SAMPLED


def test_sets_and_drift_lie_where_the_tokens_do():
    tokens = known([(1,), (3, 4)], [(2, 8), (5, 6, 7)])
    pieces = [tokens.pieces([1], [9], False), tokens.pieces([2], [8, 5, 6], False)]
    sets = joined_sets(pieces, 4, 40, torch.device("cpu")).mask()
    assert sets.sum(-1).tolist() == [[40, 40, 40, 40], [40, 1, 1, 40]]
    assert sets[1, 1, 5] and sets[1, 2, 6]  # noqa: PT018
    assert joined_drift(pieces, 4, torch.device("cpu")).tolist() == [[0, 0, 0, 0], [0, 1, 2, 0]]


def test_where_nothing_was_forbidden_there_are_no_sets():
    tokens = SampledTokens()
    tokens.rows.append(SampledRow((1,), (2,), SAMPLED, None, None))
    pieces = [tokens.pieces([1], [2], False)]
    assert joined_sets(pieces, 1, 40, torch.device("cpu")) is None
    assert joined_drift(pieces, 1, torch.device("cpu")) is None
