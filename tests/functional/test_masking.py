"""Masks over the vocabulary, against a loop that says what they mean."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo.functional.masking import allow_tokens, top_k_mask, top_p_mask


def smallest_set(logits: list[float], top_p: float, min_tokens: int = 1) -> set[int]:
    """Likeliest first, lower id first among equals, until the mass exceeds `top_p`."""
    largest = max(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    chosen: set[int] = set()
    mass = 0.0
    for token in sorted(range(len(logits)), key=lambda index: (-logits[index], index)):
        if mass > top_p and len(chosen) >= min_tokens:
            break
        chosen.add(token)
        mass += weights[token] / sum(weights)
    return chosen


def allowed(mask: torch.Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in mask]


@pytest.mark.parametrize(
    ("top_p", "expected"), [(0.4, {0}), (0.5, {0, 1}), (0.7, {0, 1}), (0.85, {0, 1, 2}), (1.0, {0, 1, 2})]
)
def test_the_token_that_crosses_the_bound_is_inside_and_a_bound_that_is_met_is_not_exceeded(top_p, expected):
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    # 0.5 is met by the first token alone, but not exceeded; 0.7 is exceeded by the first two
    assert allowed(top_p_mask(logits, top_p)) == [expected]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    logits=st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=40),
    top_p=st.sampled_from([0.05, 0.31, 0.62, 0.87, 0.99]),
    min_tokens=st.integers(1, 6),
)
def test_top_p_is_the_smallest_set_that_exceeds_p(logits, top_p, min_tokens):
    mask = top_p_mask(torch.tensor([logits]), top_p, min_tokens)
    assert allowed(mask) == [smallest_set(logits, top_p, min_tokens)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(levels=st.lists(st.integers(0, 2), min_size=2, max_size=30), top_p=st.sampled_from([0.11, 0.47, 0.83]))
def test_among_equal_tokens_the_lower_id_goes_first(levels, top_p):
    logits = [float(level) for level in levels]
    assert allowed(top_p_mask(torch.tensor([logits]), top_p)) == [smallest_set(logits, top_p)]


def test_rows_that_need_more_than_the_candidates_are_sorted_in_full():
    torch.manual_seed(0)
    flat, peaked = torch.randn(3000) * 0.01, torch.randn(3000) * 6
    logits = torch.stack([flat, peaked, flat])
    mask = top_p_mask(logits, 0.9)
    assert mask[0].sum() > 2500
    assert mask[1].sum() < 1000
    assert allowed(mask) == [smallest_set(row.tolist(), 0.9) for row in logits.double()]


def test_more_tokens_can_be_asked_for_than_there_are_candidates():
    torch.manual_seed(0)
    logits = torch.randn(2, 3000) * 6
    mask = top_p_mask(logits, 0.5, min_tokens=1500)
    for row, allowed_tokens in zip(logits, allowed(mask), strict=True):
        assert allowed_tokens == set(row.argsort(descending=True)[:1500].tolist())
    assert top_p_mask(logits, 0.5, min_tokens=9999).all()


def test_a_token_that_is_impossible_is_never_needed():
    logits = torch.tensor([[1.0, float("-inf"), 0.0, float("-inf")]])
    assert allowed(top_p_mask(logits, 0.95)) == [{0, 2}]


def test_p_of_one_allows_everything():
    assert top_p_mask(torch.tensor([[100.0, -100.0, float("-inf")]]), 1.0).all()


def test_leading_dimensions_are_kept():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 17)
    mask = top_p_mask(logits, 0.5)
    assert mask.shape == (2, 3, 17)
    assert torch.equal(mask[1, 2], top_p_mask(logits[1, 2][None], 0.5)[0])


def test_top_k_takes_the_likeliest_and_the_lower_id_among_equals():
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    assert allowed(top_k_mask(logits, 3)) == [{1, 3, 2}, {0, 1, 2}]
    assert top_k_mask(logits, 9).all()


def test_stop_tokens_are_added():
    mask = torch.zeros(2, 4, dtype=torch.bool)
    assert allowed(allow_tokens(mask, (1, 3))) == [{1, 3}, {1, 3}]
    assert allowed(allow_tokens(mask.clone(), ())) == [{1, 3}, {1, 3}]
