"""Uniform numbers of each row, and the tokens that they stand for."""

from __future__ import annotations

import pytest
import torch

from trl_nlpo.algorithm.draws import row_draws, tokens_at


def test_draws_are_uniform_and_of_their_row():
    draws = row_draws(3, range(400), 50)
    assert torch.equal(draws[7:9], row_draws(3, [7, 8], 50))
    assert not torch.equal(draws, row_draws(4, range(400), 50))
    assert 0 <= float(draws.min()) < 1e-3 < 1 - 1e-3 < float(draws.max()) < 1
    # 20,000 numbers: standard errors of 0.002 and 0.0007, and of 0.007 for correlations
    assert abs(float(draws.mean()) - 1 / 2) < 0.01
    assert abs(float(draws.var()) - 1 / 12) < 0.004
    for first, second in ((draws[:-1], draws[1:]), (draws[:, :-1], draws[:, 1:])):
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.03


def test_a_draw_takes_the_token_at_which_the_probabilities_add_up_to_it():
    logits = torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0]).log()
    draws = torch.tensor([0.0, 0.49, 0.51, 0.69, 0.71, 1 - 2.0**-32], dtype=torch.float64)
    assert tokens_at(draws, logits.expand(6, 5)).flatten().tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("vocab_size", [1, 255, 256, 257, 5000])
def test_the_token_is_that_of_the_cumulative_distribution_written_out(vocab_size):
    torch.manual_seed(vocab_size)
    logits = torch.randn(200, vocab_size) * 4
    logits = logits.masked_fill(torch.rand_like(logits) < 0.3, float("-inf"))
    logits[:, -1] = 0.0
    draws = torch.rand(200, dtype=torch.float64)
    ends = logits.double().softmax(-1).cumsum(-1)
    expected = (ends <= draws[:, None] * ends[:, -1:]).sum(-1, keepdim=True)
    # What lies nearer to an edge than float32 is exact may fall to either side.
    apart = ((ends - draws[:, None]).abs() > 1e-6).all(-1)
    assert apart.float().mean() > 0.8
    assert torch.equal(tokens_at(draws, logits)[apart], expected[apart])


@pytest.mark.parametrize("vocab_size", [3, 700])
@pytest.mark.parametrize("draw", [0.0, 2.0**-60, 1 - 2.0**-53])
def test_the_ends_of_the_unit_interval_never_give_a_token_that_is_forbidden(vocab_size, draw):
    draws = torch.tensor([draw], dtype=torch.float64)
    for allowed in range(0, vocab_size, max(1, vocab_size // 7)):
        logits = torch.full((1, vocab_size), float("-inf"))
        logits[0, allowed] = 3.0
        assert int(tokens_at(draws, logits)) == allowed
