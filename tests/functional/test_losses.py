"""The clipped losses in each case of the clip, by hand."""

from __future__ import annotations

import pytest
import torch

from trl_nlpo.functional.losses import ANCHOR_SLACK, anchor_loss, clipped_policy_loss, clipped_value_loss


def close(actual: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 2.0, -2.4, True),  # a gain is credited up to 1.2
        (0.5, 2.0, -1.0, False),
        (1.5, -2.0, 3.0, False),  # a loss counts in full
        (0.5, -2.0, 1.6, True),
        (1.1, 2.0, -2.2, False),
    ],
)
def test_the_clipped_policy_loss_in_each_case(ratio, advantage, loss, clipped):
    logprobs = torch.tensor([[ratio]]).log()
    actual, decided = clipped_policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), 0.2)
    close(actual, [[loss]])
    assert decided.item() is clipped


@pytest.mark.parametrize(
    ("settings", "ratio", "advantage", "loss", "limited"),
    [
        ({"cliprange_high": 0.4}, 1.5, 2.0, -2.8, True),  # a gain is credited up to 1.4 ...
        ({"cliprange_high": 0.4}, 1.3, 2.0, -2.6, False),
        ({"cliprange_high": 0.4}, 0.5, -2.0, 1.6, True),  # ... and the lower bound stays 0.8
        ({"dual_clip": 3.0}, 5.0, -2.0, 6.0, True),  # at most 3 x 2
        ({"dual_clip": 3.0}, 2.0, -2.0, 4.0, False),
        ({"dual_clip": 3.0}, 5.0, 2.0, -2.4, True),  # only of negative advantages
        ({"is_truncation": (0.2, 4.0)}, 5.0, -2.0, 0.0, True),
        ({"is_truncation": (0.2, 4.0)}, 0.1, 2.0, 0.0, True),
        ({"is_truncation": (0.2, 4.0)}, 3.0, -2.0, 6.0, False),
    ],
)
def test_other_limits_of_the_ratio_in_each_case(settings, ratio, advantage, loss, limited):
    logprobs = torch.tensor([[ratio]]).log()
    actual, decided = clipped_policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]), 0.2, **settings)
    close(actual, [[loss]])
    assert decided.item() is limited


@pytest.mark.parametrize("settings", [{"dual_clip": 3.0}, {"is_truncation": (0.2, 4.0)}])
def test_beyond_a_limit_there_is_no_gradient(settings):
    logprobs = torch.tensor([[5.0]]).log().requires_grad_()
    loss, _ = clipped_policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[-2.0]]), 0.2, **settings)
    loss.sum().backward()
    assert logprobs.grad.item() == 0.0


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "clipped"),
    [
        (1.0, 0.0, 2.0, 1.62, True),  # clipped to 0.2: 0.5 * 1.8^2 is more than 0.5 * 1^2
        (0.1, 0.0, 2.0, 1.805, False),  # inside: 0.5 * 1.9^2
        (3.0, 0.0, 0.1, 4.205, False),  # clipped to 0.2 would be less: the larger one counts
    ],
)
def test_the_clipped_value_loss_in_each_case(value, old, target, loss, clipped):
    tensors = (torch.tensor([[number]]) for number in (value, old, target))
    actual, decided = clipped_value_loss(*tensors, 0.2)
    close(actual, [[loss]])
    assert decided.item() is clipped


def test_the_anchor_pulls_back_what_left_the_mask_and_nothing_else():
    mass = torch.tensor([[0.9, 0.6, 0.95]]).log().requires_grad_()
    loss = anchor_loss(mass, torch.tensor([[0.9, 0.9, 0.9]]).log())
    close(loss.detach(), [[0.0, 0.405465 - ANCHOR_SLACK, 0.0]])  # log(0.9 / 0.6)
    loss[0, 1:].sum().backward()
    close(mass.grad, [[0.0, -1.0, 0.0]])


def test_rounding_does_not_decide_what_is_pulled_back():
    mass = torch.tensor([[0.9, 0.9 - 1e-6, 0.9 - 1e-4]]).log().requires_grad_()
    anchor_loss(mass, torch.tensor([[0.9] * 3]).log()).sum().backward()
    assert mass.grad.eq(0).all()
