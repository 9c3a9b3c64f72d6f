"""The KL penalty, scores on tokens, adaptive KL, GAE, whitening and losses: numbers from a pencil."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo.functional.advantages import gae
from trl_nlpo.functional.losses import clipped_policy_loss, clipped_value_loss
from trl_nlpo.functional.rewards import adapt_kl_coef, kl_per_token, token_rewards
from trl_nlpo.functional.sequences import (
    completion_lengths,
    flush_left,
    left_pad,
    mask_from_lengths,
    position_ids_from,
    right_pad,
)
from trl_nlpo.functional.statistics import masked_mean, masked_whiten


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


def test_left_and_right_padding():
    ids, mask = left_pad([[5, 6], [7]], 0)
    assert ids.tolist() == [[5, 6], [0, 7]]
    assert mask.tolist() == [[True, True], [False, True]]
    assert [part.tolist() for part in flush_left(ids, mask)] == [[[5, 6], [7, 0]], [[True, True], [True, False]]]
    chunks = [torch.ones(1, 2, 3), torch.ones(2, 1, 3)]
    padded = right_pad(chunks, 9.0)
    assert padded.shape == (3, 2, 3)
    assert padded[0].eq(1).all()
    assert padded[1:, 1].eq(9).all()


def test_a_completion_ends_with_its_first_stop_token():
    lengths, ended = completion_lengths(torch.tensor([[4, 9, 9], [4, 5, 6], [9, 4, 9], [4, 5, 8]]), (8, 9))
    assert lengths.tolist() == [2, 3, 1, 3]
    assert ended.tolist() == [True, False, True, True]


def test_without_stop_tokens_every_token_is_real():
    lengths, ended = completion_lengths(torch.tensor([[4, 9]]), ())
    assert lengths.tolist() == [2]
    assert ended.tolist() == [False]


def test_positions_count_real_tokens_only():
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids_from(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
