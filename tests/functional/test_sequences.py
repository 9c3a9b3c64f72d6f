"""Padding, lengths and positions of rows of tokens, by hand."""

from __future__ import annotations

import torch

from trl_nlpo.functional.sequences import (
    completion_lengths,
    flush_left,
    left_pad,
    position_ids_from,
    right_pad,
)


def test_left_and_right_padding():
    ids, mask = left_pad([[5, 6], [7]], 0)
    assert ids.tolist() == [[5, 6], [0, 7]]
    assert mask.tolist() == [[True, True], [False, True]]
    assert [part.tolist() for part in flush_left(ids, mask)] == [[[5, 6], [7, 0]], [[True, True], [True, False]]]
    chunks = [torch.ones(1, 2, 3), torch.ones(2, 1, 3)]
    padded = right_pad(chunks, 9.0)
    assert padded.shape == (3, 2, 3)
    assert padded[0].eq(1).all()
    assert padded[1:, 1].eq(9).all()


def test_a_completion_ends_with_its_first_stop_token():
    lengths, ended = completion_lengths(torch.tensor([[4, 9, 9], [4, 5, 6], [9, 4, 9], [4, 5, 8]]), (8, 9))
    assert lengths.tolist() == [2, 3, 1, 3]
    assert ended.tolist() == [True, False, True, True]


def test_without_stop_tokens_every_token_is_real():
    lengths, ended = completion_lengths(torch.tensor([[4, 9]]), ())
    assert lengths.tolist() == [2]
    assert ended.tolist() == [False]


def test_positions_count_real_tokens_only():
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids_from(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
