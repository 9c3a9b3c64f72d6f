"""The KL penalty, scores on tokens and the adaptive coefficient: numbers from a pencil."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo.functional.rewards import adapt_kl_coef, kl_per_token, token_rewards
from trl_nlpo.functional.sequences import mask_from_lengths


def close(actual: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), atol=1e-5, rtol=1e-5)


def test_k1_is_the_log_ratio_and_k3_is_never_negative():
    logprobs, ref_logprobs = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -1.0]])
    close(kl_per_token(logprobs, ref_logprobs, "k1"), [[1.0, -1.0]])
    # exp(-1) - 1 + 1 = 0.3678794; exp(1) - 1 - 1 = 0.7182818
    close(kl_per_token(logprobs, ref_logprobs, "k3"), [[0.3678794, 0.7182818]])


def test_the_score_lands_on_the_last_real_token_never_on_padding():
    kl = torch.tensor([[0.1, 0.2, 9.0], [0.1, 0.2, 0.3]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    # -0.5 * KL, and the scores 1 and -2 on the last real token
    close(token_rewards(torch.tensor([1.0, -2.0]), kl, 0.5, mask), [[-0.05, 0.9, 0.0], [-0.05, -0.1, -2.15]])


def test_dense_rewards_are_added_where_they_belong():
    mask = torch.tensor([[True, True, False]])
    dense = torch.tensor([[0.3, 0.0, 7.0]])
    close(token_rewards(torch.tensor([1.0]), torch.zeros(1, 3), 0.5, mask, dense), [[0.3, 1.0, 0.0]])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    length=st.integers(1, 6), score=st.floats(-5, 5), kl_coef=st.floats(0, 2), seed=st.integers(0, 999),
    padding=st.integers(0, 4),
)  # fmt: skip
def test_token_rewards_add_up_to_the_score_less_the_penalty(length, score, kl_coef, seed, padding):
    kl = torch.randn(1, length + padding, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = mask_from_lengths(torch.tensor([length]), length + padding)
    rewards = token_rewards(torch.tensor([score], dtype=torch.float64), kl, kl_coef, mask)
    assert rewards.sum().item() == pytest.approx(score - kl_coef * kl[0, :length].sum().item(), abs=1e-9)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (1.1, 0.202),  # error 0.1: 0.2 * 1.01
        (0.95, 0.199),  # error -0.05: 0.2 * 0.995
        (9.0, 0.204),  # error clipped to 0.2: 0.2 * 1.02
        (-3.0, 0.196),  # clipped to -0.2
    ],
)
def test_the_kl_coefficient_follows_ziegler_et_al(kl, expected):
    assert adapt_kl_coef(0.2, kl, target=1.0) == pytest.approx(expected)


def test_a_horizon_scales_the_step():
    # 32 of 320 completions: the gain is 0.1 per unit of error, here 0.2
    assert adapt_kl_coef(1.0, 5.0, target=1.0, gain=32 / 320) == pytest.approx(1.02)
