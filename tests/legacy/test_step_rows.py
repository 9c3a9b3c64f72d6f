"""What a script hands to `step`: every shape that old scripts have, and what is refused."""

from __future__ import annotations

import pytest
import torch

from trl_nlpo.algorithm.distribution import SamplingSettings
from trl_nlpo.errors import UserError
from trl_nlpo.legacy.sampled_tokens import SampledRow, SampledTokens
from trl_nlpo.legacy.step_rows import step_rows


def rows(queries=((3, 4),), responses=((5, 6),), scores=(1.0,), masks=None, start_token=None, known=None):
    return step_rows(
        list(queries),
        list(responses),
        list(scores),
        masks,
        1,
        start_token,
        SampledTokens() if known is None else known,
    )


@pytest.mark.parametrize("score", [2.0, torch.tensor(2.0), torch.tensor([2.0]), torch.tensor([[2.0]])])
def test_scores_of_any_shape_are_numbers(score):
    assert rows(scores=[score]).scores.tolist() == [2.0]


def test_a_response_that_was_squeezed_to_a_number_is_one_token():
    assert rows(responses=[torch.tensor(5)]).responses == [[5]]


def test_the_decoders_start_token_is_taken_off_once():
    known = SampledTokens()
    known.rows.append(SampledRow((3, 4), (0, 0, 7), SamplingSettings(max_new_tokens=3), None, None))
    assert rows(responses=[(0, 5)], start_token=0).responses == [[5]]
    # Sampled tokens may be the same as the start token.
    assert rows(responses=[(0, 0, 0, 7)], start_token=0, known=known).responses == [[0, 0, 7]]
    assert rows(responses=[(0, 0, 7)], start_token=0, known=known).responses == [[0, 0, 7]]
    assert rows(responses=[(0, 5)]).responses == [[0, 5]]


def test_tokens_from_elsewhere_are_counted_without_those_that_are_masked():
    found = rows(responses=[(5, 6, 7)], masks=[torch.tensor([1, 0, 1])])
    assert (found.num_learned, found.num_foreign, found.num_greedy) == (2, 2, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"queries": [(1,), (2,)]}, "queries has 2 rows, but batch_size is 1"),
        ({"responses": [()]}, "response 0 has no token"),
        ({"queries": [()]}, "query 0 has no token"),
        ({"scores": [float("nan")]}, "score 0 must be one finite number"),
        ({"scores": [torch.tensor([1.0, 2.0])]}, "score 0 must be one finite number"),
        ({"masks": [(1,)]}, "response 0 has 2 tokens, but its response_mask 1"),
        ({"masks": [(0, 0)]}, "leave no token to learn from"),
    ],
)
def test_what_does_not_fit_together_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        rows(**given)
