"""Sampling in whatever batches an engine makes, on plain tensors."""

from __future__ import annotations

import pytest
import torch

from trl_nlpo.algorithm.distribution import MaskSettings, SamplingSettings
from trl_nlpo.algorithm.draws import row_draws
from trl_nlpo.algorithm.engines.row_sampler import Place, RowSampler
from trl_nlpo.functional.masking import top_p_mask


V, T = 11, 3
PROMPTS = [[5, 6], [7]]
SAMPLING = SamplingSettings(T, 0.8)
TOP_P = MaskSettings("top_p", 0.6)


def logits(row: int, is_mask: bool, position: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * row + 10 * is_mask + position)
    return torch.randn(V, generator=generator) * 2


def sampler(in_pairs: bool) -> RowSampler:
    return RowSampler(PROMPTS, row_draws(0, range(len(PROMPTS)), T), SAMPLING, TOP_P, in_pairs)


def step(subject: RowSampler, *rows: tuple[int, bool, int]) -> torch.Tensor:
    places = [Place(index, *row) for index, row in enumerate(rows)]
    return subject.step(torch.stack([logits(*row) for row in rows]), places)


def test_both_rows_of_a_pair_are_left_the_same_one_token():
    left = step(sampler(True), (0, False, 0), (1, True, 0), (0, True, 0), (1, False, 0))
    assert (left > float("-inf")).sum(-1).tolist() == [1, 1, 1, 1]
    chosen = left.argmax(-1).tolist()
    assert (chosen[0], chosen[1]) == (chosen[2], chosen[3])


def test_the_recorded_set_is_the_masking_policys_and_holds_the_token():
    subject = sampler(True)
    for position in range(T):
        step(subject, (0, True, position), (0, False, position))
    sequences = subject.sample([0], torch.device("cpu")).sequences
    masking = torch.stack([logits(0, True, position) for position in range(T)]) / SAMPLING.temperature
    recorded = sequences.token_sets.mask()[0]
    assert torch.equal(recorded, top_p_mask(masking, 0.6))
    assert recorded.gather(-1, sequences.completion_ids[0][:, None]).all()


def test_tokens_do_not_depend_on_the_batches():
    together, apart = sampler(False), sampler(False)
    for position in range(T):
        step(together, (0, False, position), (1, False, position))
    for row in (1, 0):
        for position in range(T):
            step(apart, (row, False, position))
    assert [together.completion(row) for row in (0, 1)] == [apart.completion(row) for row in (0, 1)]


@pytest.mark.parametrize(
    "rows", [[(0, False, 0)], [(0, True, 0)], [(0, False, 1), (0, True, 0)]], ids=["policy", "mask", "positions"]
)
def test_a_pair_that_is_split_is_told_and_can_be_sampled_again(rows):
    subject = sampler(True)
    step(subject, *rows, (1, False, 0), (1, True, 0))
    assert subject.broken == {0}
    subject.forget([0])
    for position in range(T):
        step(subject, (0, False, position), (0, True, position))
    whole = sampler(True)
    for position in range(T):
        step(whole, (0, False, position), (0, True, position))
    assert not subject.broken
    assert subject.completion(0) == whole.completion(0)


def test_frequencies_follow_the_distribution_under_the_mask():
    # 20,000 rows with the same logits: chi-squared with at most 10 degrees of freedom, 99.99 % below 35.6.
    count = 20_000
    subject = RowSampler([[5]] * count, row_draws(1, range(count), 1), SamplingSettings(1, 0.8), TOP_P, False)
    subject.step(logits(0, False, 0).repeat(count, 1), [Place(row, row, False, 0) for row in range(count)])
    found = torch.tensor([subject.completion(row)[0] for row in range(count)]).bincount(minlength=V)
    scaled = logits(0, False, 0) / 0.8
    expected = scaled.masked_fill(~top_p_mask(scaled, 0.6), float("-inf")).softmax(-1) * count
    inside = expected > 0
    assert found[~inside].sum() == 0
    assert ((found - expected)[inside].square() / expected[inside]).sum() < 35.6
