"""Means and whitening over real tokens, by hand, and over several processes."""

from __future__ import annotations

import math

import pytest
import torch

from trl_nlpo.functional.statistics import explained_variance, masked_mean, masked_whiten


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
