"""Generalized advantages, by hand and against their definition."""

from __future__ import annotations

import pytest
import torch

from trl_nlpo.functional.advantages import bootstrapped, gae, length_adaptive_lam


def close(actual: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=1e-5, rtol=1e-5)


def explicit_gae(rewards, values, gamma, lam):
    """The definition: A_t is the sum over l of (gamma lam)^l delta_(t+l)."""
    T = len(rewards)
    values = [*values, 0.0]
    deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(T)]
    return [sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, T)) for t in range(T)]


@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [
        # rewards (0, 0, 1), values (0.5, 0.5, 0.5)
        (1.0, 1.0, [0.5, 0.5, 0.5]),  # return 1 everywhere, less the value
        (1.0, 0.0, [0.0, 0.0, 0.5]),  # one step
        (0.5, 1.0, [-0.25, 0.0, 0.5]),  # returns 0.25, 0.5, 1
        (0.95, 1.0, [0.4025, 0.45, 0.5]),  # returns 0.9025, 0.95, 1
        # deltas -0.025, -0.025, 0.5; gamma lam = 0.9025
        (0.95, 0.95, [-0.025 + 0.9025 * (-0.025 + 0.9025 * 0.5), -0.025 + 0.9025 * 0.5, 0.5]),
    ],
)
def test_gae_of_a_reward_at_the_end_by_hand(gamma, lam, expected):
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(torch.tensor([[0.0, 0.0, 1.0]]), torch.full((1, 3), 0.5), mask, gamma, lam)
    close(advantages, [expected])
    close(returns, [[value + 0.5 for value in expected]])


@pytest.mark.parametrize("gamma", [1.0, 0.95, 0.5])
@pytest.mark.parametrize("lam", [1.0, 0.95, 0.3])
def test_gae_of_dense_rewards_is_its_definition(gamma, lam):
    rewards, values = [0.3, -1.0, 0.0, 2.0], [0.1, 0.7, -0.2, 1.5]
    mask = torch.ones(1, 4, dtype=torch.bool)
    advantages, _ = gae(torch.tensor([rewards]), torch.tensor([values]), mask, gamma, lam)
    close(advantages, [explicit_gae(rewards, values, gamma, lam)])


def test_gae_does_not_see_padding():
    rewards, values = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[0.5, 0.25, 9.0]])
    mask = torch.tensor([[True, True, False]])
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    close(advantages, [[*explicit_gae([1.0, 2.0], [0.5, 0.25], 0.9, 0.8), 0.0]])
    assert returns[0, 2] == 0


def test_the_value_after_a_row_that_was_cut_counts_as_what_would_have_come():
    # gamma 0.5: the last delta is 1 + 0.5 * 4 - 0.5 = 2.5 where the limit cut the row, and 1 - 0.5 where it ended
    rewards, values = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.full((2, 2), 0.5)
    mask = torch.ones(2, 2, dtype=torch.bool)
    to_come = bootstrapped(rewards, torch.tensor([4.0, 0.0]), mask, 0.5)
    close(to_come, [[0.0, 3.0], [0.0, 1.0]])
    advantages, returns = gae(to_come, values, mask, 0.5, 0.0)
    close(advantages, [[-0.25, 2.5], [-0.25, 0.5]])
    close(returns, [[0.25, 3.0], [0.25, 1.0]])


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_a_row_that_was_cut_has_the_advantages_of_its_beginning_in_a_longer_row_without_further_surprises(lam):
    # What follows has a reward of 0 and values that are what gamma makes of the one after: every delta is 0.
    rewards, values, gamma = [0.3, -1.0, 2.0], [0.1, 0.7, -0.2], 0.9
    mask = torch.ones(1, 3, dtype=torch.bool)
    cut = bootstrapped(torch.tensor([rewards]), torch.tensor([1.5]), mask, gamma)
    advantages, _ = gae(cut, torch.tensor([values]), mask, gamma, lam)
    longer = explicit_gae([*rewards, 1.5], [*values, 1.5], gamma, lam)
    close(advantages, [longer[:3]])


def test_padding_is_not_bootstrapped():
    mask = torch.tensor([[True, False], [False, False]])
    close(bootstrapped(torch.zeros(2, 2), torch.tensor([2.0, 2.0]), mask, 1.0), [[2.0, 0.0], [0.0, 0.0]])


def test_lambda_grows_with_the_length():
    # 1 - 1 / (0.05 * 100) = 0.8; 0.05 * 10 < 1 would be below 0
    close(length_adaptive_lam(torch.tensor([100, 1000, 20, 10, 0]), 0.05), [0.8, 0.98, 0.0, 0.0, 0.0])


def test_each_row_has_its_own_lambda():
    torch.manual_seed(0)
    rewards, values, mask = torch.randn(2, 5), torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool)
    together, _ = gae(rewards, values, mask, 0.9, torch.tensor([0.2, 0.8]))
    for row, lam in enumerate((0.2, 0.8)):
        alone, _ = gae(rewards[row : row + 1], values[row : row + 1], mask[:1], 0.9, lam)
        close(together[row : row + 1], alone.tolist())
