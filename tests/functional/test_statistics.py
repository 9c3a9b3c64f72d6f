"""Means and whitening over real tokens, by hand, and over several processes."""

from __future__ import annotations

import math

import pytest
import torch

from trl_nlpo.functional.statistics import (
    deviation,
    explained_variance,
    masked_mean,
    masked_whiten,
    running_moments,
    running_scale,
)


def close(actual: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=1e-5, rtol=1e-5)


def test_whitening_by_hand():
    values = torch.tensor([[1.0, 3.0, 99.0]])
    mask = torch.tensor([[True, True, False]])
    # mean 2, unbiased variance 2
    close(masked_whiten(values, mask), [[-(0.5**0.5), 0.5**0.5, 0.0]])
    close(masked_whiten(values, mask, shift_mean=False), [[2 - 0.5**0.5, 2 + 0.5**0.5, 0.0]])


def test_whitening_a_single_value_is_finite():
    close(masked_whiten(torch.tensor([[4.0]]), torch.tensor([[True]])), [[0.0]])


def test_two_processes_whiten_as_one():
    torch.manual_seed(0)
    values, mask = torch.randn(6, 5), torch.rand(6, 5) > 0.3
    whole = masked_whiten(values, mask)
    # each half is given what the other half contributes to every sum, in the order in which sums are asked for
    mean = masked_mean(values, mask)
    halves = []
    for mine, other in ((slice(0, 3), slice(3, 6)), (slice(3, 6), slice(0, 3))):
        shares = iter(
            [
                torch.stack([(values * mask)[other].double().sum(), mask[other].double().sum()]),
                torch.stack([((values - mean) * mask)[other].double().square().sum(), mask[other].double().sum()]),
            ]
        )
        halves.append(masked_whiten(values[mine], mask[mine], all_sum=lambda own, shares=shares: own + next(shares)))
    torch.testing.assert_close(torch.cat(halves), whole)


@pytest.mark.parametrize(
    ("returns", "values", "expected"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1.0),
        ([1.0, 2.0, 3.0], [7.0, 7.0, 7.0], 0.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -3.0),  # errors -2, 0, 2: variance 8/3 of 2/3
        ([0.1, 0.1, 0.1], [0.0, 1.0, 2.0], math.nan),
        ([], [], math.nan),
    ],
)
def test_explained_variance_is_that_of_the_returns(returns, values, expected):
    errors = [r - v for r, v in zip(returns, values, strict=True)]
    sums = [len(returns), sum(returns), sum(r * r for r in returns), sum(errors), sum(e * e for e in errors)]
    assert explained_variance(*sums) == pytest.approx(expected, nan_ok=True)


def test_a_running_scale_by_hand():
    assert running_scale(None, 4.0) == 2.0
    # 0.9 * 4 + 0.1 * 9 = 4.5
    assert running_scale(2.0, 9.0) == pytest.approx(math.sqrt(4.5))
    assert running_scale(2.0, 9.0, momentum=0.5) == pytest.approx(math.sqrt(6.5))


@pytest.mark.parametrize("mean_square", [0.0, math.nan, math.inf])
def test_a_running_scale_can_always_divide(mean_square):
    assert running_scale(None, mean_square) == 1.0
    assert running_scale(3.0, mean_square, momentum=0.0) == 3.0


def test_running_moments_by_hand():
    first = running_moments(None, 1.0, 5.0)
    assert first == [1.0, 5.0]
    assert deviation(*first) == 2.0
    assert running_moments(first, 3.0, 9.0, momentum=0.5) == [2.0, 7.0]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_rewards_that_are_all_alike_are_left_as_they_are(value):
    assert deviation(value, value**2) == 1.0
    assert deviation(value, math.fsum([value**2] * 3) / 3) == 1.0
