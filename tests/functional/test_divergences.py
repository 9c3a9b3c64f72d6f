"""Divergences under a mask, by hand, against `torch.distributions`, and their second derivative."""

from __future__ import annotations

import math

import pytest
import torch

from trl_nlpo.functional.divergences import masked_kl


def test_by_hand():
    # p = (1/4, 3/4), q = (1/2, 1/2); the third token is forbidden
    first, second = torch.tensor([0.0, math.log(3), 9.0]), torch.tensor([1.0, 1.0, -9.0])
    mask = torch.tensor([True, True, False])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert masked_kl(first, second, mask).item() == pytest.approx(expected)


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_that_of_the_distributions_over_the_allowed_tokens(masked):
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    mask = torch.rand(2, 3, 7) > 0.4 if masked else None
    ours = masked_kl(first, second, mask)
    for row in range(2):
        for place in range(3):
            keep = torch.arange(7) if mask is None else mask[row, place].nonzero().flatten()
            p, q = (torch.distributions.Categorical(logits=logits[row, place, keep]) for logits in (first, second))
            assert ours[row, place].item() == pytest.approx(torch.distributions.kl_divergence(p, q).item())


def test_where_both_are_equal_the_gradient_is_zero_and_the_hessian_is_the_fisher_information():
    torch.manual_seed(0)
    logits, mask = torch.randn(5, dtype=torch.float64), torch.tensor([True, True, False, True, True])
    gradient = torch.autograd.functional.jacobian(lambda q: masked_kl(logits, q, mask), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(logits))
    hessian = torch.autograd.functional.hessian(lambda q: masked_kl(logits, q, mask), logits)
    p = logits.masked_fill(~mask, -math.inf).softmax(-1)
    torch.testing.assert_close(hessian, torch.diag(p) - torch.outer(p, p))
