"""Generalized advantages, by hand and against their definition."""

from __future__ import annotations

import pytest
import torch

from trl_nlpo.functional.advantages import gae


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
