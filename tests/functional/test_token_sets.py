"""Sets of tokens as ids and as bits, against masks of the whole vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo.functional.token_sets import IDS_UP_TO, TokenSets, pack_mask, unpack_mask


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows=st.integers(1, 4), vocabulary=st.integers(1, 70), seed=st.integers(0, 99))
def test_packing_keeps_every_bit_in_an_eighth_of_the_bytes(rows, vocabulary, seed):
    mask = torch.rand(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack_mask(mask)
    assert packed.shape == (rows, math.ceil(vocabulary / 8))
    assert packed.dtype is torch.uint8
    assert torch.equal(unpack_mask(packed, vocabulary), mask)


def test_token_v_is_bit_v_mod_8_of_byte_v_over_8():
    mask = torch.zeros(12, dtype=torch.bool)
    mask[[0, 3, 9]] = True
    assert pack_mask(mask).tolist() == [1 + 8, 2]


def masks(shape, vocab_size, seed):
    """Sets of all kinds: a few tokens, many, and all of them."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(*shape, 1, generator=generator) ** 4
    mask = torch.rand(*shape, vocab_size, generator=generator) < share
    mask |= torch.rand(*shape, 1, generator=generator) < 0.2
    certain = torch.randint(vocab_size, (*shape, 1), generator=generator)
    return mask.scatter_(-1, certain, True)


SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5))
VOCABULARIES = st.sampled_from([1, 8, 63, 200])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=SHAPES, vocab_size=VOCABULARIES, seed=st.integers(0, 99))
def test_a_mask_comes_back_as_it_was(shape, vocab_size, seed):
    mask = masks(shape, vocab_size, seed)
    sets = TokenSets.of_mask(mask)
    assert sets.shape == shape
    assert torch.equal(sets.mask(), mask)
    assert torch.equal(sets.sizes.long(), mask.sum(-1))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=SHAPES, vocab_size=VOCABULARIES, seed=st.integers(0, 99))
def test_sets_of_ids_are_those_of_the_mask(shape, vocab_size, seed):
    mask = masks(shape, vocab_size, seed).flatten(0, 1)
    sizes = mask.sum(-1)
    ids = torch.zeros(len(mask), int(sizes.max()), dtype=torch.long)
    for row, of_row in enumerate(mask):
        ids[row, : sizes[row]] = of_row.nonzero().flatten()
    of_ids, of_mask = TokenSets.of_ids(ids, sizes, vocab_size), TokenSets.of_mask(mask)
    for name in ("sizes", "ids", "bits"):
        assert torch.equal(getattr(of_ids, name), getattr(of_mask, name)), name


PLACES = {
    "rows": torch.tensor([2, 0, 2]),
    "columns": (slice(None), slice(0, 2)),
    "one": (1, 2),
    "where": torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) < 0.5,
    "none": torch.zeros(3, 4, dtype=torch.bool),
    "backwards": (torch.tensor([2, 1, 0])[:, None], torch.tensor([3, 0])),
}


@pytest.mark.parametrize("places", list(PLACES))
@pytest.mark.parametrize("seed", range(3))
def test_positions_are_taken_as_from_a_tensor(places, seed):
    mask = masks((3, 4), 200, seed)
    found = TokenSets.of_mask(mask)[PLACES[places]]
    expected = TokenSets.of_mask(mask[PLACES[places]])
    for name in ("sizes", "ids", "bits"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_steps_become_columns():
    mask = masks((3, 4), 200, 0)
    steps = TokenSets.of_steps([TokenSets.of_mask(mask[:, step]) for step in range(4)])
    assert torch.equal(steps.mask(), mask)


def test_parts_of_different_width_are_filled_with_every_token():
    first, second = masks((2, 4), 200, 1), masks((3, 2), 200, 2)
    joined = TokenSets.concatenated([TokenSets.of_mask(first), TokenSets.of_mask(second)])
    assert torch.equal(joined.mask()[:2], first)
    assert torch.equal(joined.mask()[2:, :2], second)
    assert joined.mask()[2:, 2:].all()


def test_what_is_lifted_keeps_nothing_and_moves_nothing():
    mask, places = masks((3, 4), 200, 3), PLACES["where"]
    lifted = TokenSets.of_mask(mask).unrestricted_at(places)
    assert torch.equal(lifted.mask(), mask | places[..., None])
    expected = TokenSets.of_mask(mask | places[..., None])
    assert lifted.num_bytes == expected.num_bytes


def test_every_token_takes_no_memory_but_its_size():
    sets = TokenSets.everything((2, 3), 200)
    assert sets.mask().all()
    assert sets.num_bytes == 2 * 3 * 4


def test_each_kind_of_set_takes_the_smaller_of_its_two_forms():
    vocab_size = 64 * IDS_UP_TO
    mask = torch.zeros(2, vocab_size, dtype=torch.bool)
    mask[0, :64], mask[1, :65] = True, True
    small, large = TokenSets.of_mask(mask).by_kind()
    assert (small.tolist(), large.tolist()) == ([True, False], [False, True])
    assert TokenSets.of_mask(mask[:1]).num_bytes == 4 + 4 * 64
    assert TokenSets.of_mask(mask[1:]).num_bytes == 4 + vocab_size // 8


def test_small_sets_come_as_rows_of_ids():
    mask = torch.zeros(3, 100, dtype=torch.bool)
    mask[0, [7, 3]], mask[1, :50], mask[2, 9] = True, True, True
    ids, sizes = TokenSets.of_mask(mask).padded_ids()
    assert (ids.tolist(), sizes.tolist()) == ([[3, 7], [9, 0]], [2, 1])
