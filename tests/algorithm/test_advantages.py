"""Room 3: scores into advantages and returns, all the way, by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from trl_nlpo.algorithm.advantages import estimate_advantages
from trl_nlpo.records import PromptBatch, Rollout, Scores


REAL = torch.tensor([[True, True, True], [True, False, False]])


def make_rollout(real=REAL, raw=None, ref=None, values=None, old=None) -> Rollout:
    zeros = torch.zeros(real.shape)
    tensors = (zeros if tensor is None else torch.tensor(tensor) for tensor in (old, raw, ref, values))
    names = ("old_logprobs", "raw_logprobs", "ref_logprobs", "values")
    rows = len(real)
    return Rollout(
        batch=PromptBatch([[2]] * rows, ["?"] * rows),
        completions=["?"] * rows,
        prompt_ids=torch.full((rows, 1), 2),
        prompt_mask=torch.ones(rows, 1, dtype=torch.bool),
        completion_ids=torch.full(real.shape, 3),
        completion_mask=real,
        ended=torch.ones(rows, dtype=torch.bool),
        token_sets=None,
        vocab_size=4,
        **dict(zip(names, tensors, strict=True)),
    )


def make_scores(scores, dense=None) -> Scores:
    scores = torch.tensor(scores)
    return Scores(scores, scores[:, None], ["f"], None if dense is None else torch.tensor(dense))


def estimate(rollout, scores, **settings):
    return estimate_advantages(rollout, scores, **{"kl_coef": 0.5, "gamma": 1.0, "lam": 1.0, **settings})


RAW = [[-1.0, -2.0, -1.0], [-3.0, 0.0, 0.0]]
REF = [[-1.5, -1.0, -1.0], [-1.0, 0.0, 0.0]]


def test_rewards_kl_returns_and_advantages_by_hand():
    rollout = make_rollout(raw=RAW, ref=REF, values=[[0.5, 0.0, 1.0], [2.0, 9.0, 9.0]])
    estimates = estimate(rollout, make_scores([4.0, 1.0]))
    torch.testing.assert_close(estimates.kl, torch.tensor([[0.5, -1.0, 0.0], [-2.0, 0.0, 0.0]]))
    torch.testing.assert_close(estimates.rewards, torch.tensor([[-0.25, 0.5, 4.0], [2.0, 0.0, 0.0]]))
    # gamma = lam = 1: returns are sums of the rewards to come
    torch.testing.assert_close(estimates.returns, torch.tensor([[4.25, 4.5, 4.0], [2.0, 0.0, 0.0]]))
    # before whitening 3.75, 4.5, 3 and 0: mean 2.8125, squares around it 11.4219, a third of that 3.8073
    deviation = math.sqrt(sum((a - 2.8125) ** 2 for a in (3.75, 4.5, 3.0, 0.0)) / 3)
    expected = torch.tensor([[0.9375, 1.6875, 0.1875], [-2.8125, 0.0, 0.0]]) / deviation
    torch.testing.assert_close(estimates.advantages, expected)
    assert estimates.kl_coef == 0.5


def test_the_kl_is_that_of_unmasked_log_probabilities():
    plain = estimate(make_rollout(raw=RAW, ref=REF), make_scores([4.0, 1.0]))
    other = estimate(make_rollout(raw=RAW, ref=REF, old=[[-0.1] * 3] * 2), make_scores([4.0, 1.0]))
    assert torch.equal(plain.rewards, other.rewards)


def test_k3_is_summed_up_as_the_penalty():
    estimates = estimate(make_rollout(raw=RAW, ref=REF), make_scores([0.0, 0.0]), kl_estimator="k3")
    # log ratios 0.5, -1, 0 and -2: exp(-x) - 1 + x
    expected = torch.tensor([[math.exp(-0.5) - 0.5, math.e - 2.0, 0.0], [math.exp(2.0) - 3.0, 0.0, 0.0]])
    torch.testing.assert_close(estimates.kl, expected)
    torch.testing.assert_close(estimates.rewards, -0.5 * expected)


def test_rewards_of_single_tokens_are_added():
    scores = make_scores([4.0, 1.0], dense=[[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
    estimates = estimate(make_rollout(), scores)
    torch.testing.assert_close(estimates.rewards, torch.tensor([[1.0, 0.0, 6.0], [4.0, 0.0, 0.0]]))


def test_gamma_and_lambda_have_their_places():
    rollout = make_rollout(torch.ones(1, 3, dtype=torch.bool), values=[[1.0, 2.0, 3.0]])
    discounted = estimate(rollout, make_scores([8.0]), gamma=0.5, lam=1.0)
    # returns 8 / 4, 8 / 2, 8, whatever the values
    torch.testing.assert_close(discounted.returns, torch.tensor([[2.0, 4.0, 8.0]]))
    one_step = estimate(rollout, make_scores([8.0]), gamma=0.5, lam=0.0)
    # returns gamma V(t + 1), and the reward at the end
    torch.testing.assert_close(one_step.returns, torch.tensor([[1.0, 1.5, 8.0]]))


def test_whitened_rewards_have_variance_one_and_keep_their_mean():
    estimates = estimate(make_rollout(raw=RAW, ref=REF), make_scores([4.0, 1.0]), whiten_rewards=True)
    before = torch.tensor([-0.25, 0.5, 4.0, 2.0])
    mean, deviation = before.mean(), before.std()
    torch.testing.assert_close(estimates.rewards[REAL], (before - mean) / deviation + mean)
    assert estimates.rewards[~REAL].eq(0).all()


@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_neither_padding_nor_the_split_over_processes_changes_anything(whiten_rewards):
    values = [[0.5, 0.0, 1.0], [2.0, 0.0, 0.0]]
    whole = estimate(
        make_rollout(raw=RAW, ref=REF, values=values), make_scores([4.0, 1.0]), whiten_rewards=whiten_rewards
    )
    wide = torch.nn.functional.pad(REAL, (0, 4))
    padded_tensors = [[[*row, *[0.0] * 4] for row in tensor] for tensor in (RAW, REF, values)]
    padded = estimate(make_rollout(wide, *padded_tensors), make_scores([4.0, 1.0]), whiten_rewards=whiten_rewards)
    torch.testing.assert_close(padded.advantages[:, :3], whole.advantages)
    assert padded.advantages[:, 3:].eq(0).all()

    # Each process adds its own sums to what the other has noted, in the same order.
    noted: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for _ in range(5):  # a sum of the second kind needs that of the first to be right, and so on
        halves = []
        for process in (0, 1):
            others, mine = iter(list(noted[1 - process])), []

            def all_sum(tensor, others=others, mine=mine):
                mine.append(tensor)
                return tensor + next(others, torch.zeros_like(tensor))

            rows = slice(process, process + 1)
            half = make_rollout(REAL[rows], RAW[rows], REF[rows], values[rows])
            halves.append(
                estimate(
                    half, make_scores([[4.0], [1.0]][process]), whiten_rewards=whiten_rewards, all_sum=all_sum
                ).advantages
            )
            noted[process] = mine
    torch.testing.assert_close(torch.cat(halves), whole.advantages)


@pytest.mark.parametrize("settings", [{}, {"whiten_rewards": True}])
def test_a_skipped_completion_is_as_if_it_had_not_been_sampled(settings):
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(4, 3, generator=generator) for name in ("raw", "ref", "values")}
    real = torch.tensor([[True, True, True], [True, True, False], [True, True, True], [True, False, False]])
    nan = float("nan")
    whole = make_rollout(real, **{name: tensor.tolist() for name, tensor in tensors.items()})
    scores = dataclasses.replace(make_scores([1.0, nan, 2.0, 4.0]), skipped=torch.tensor([False, True, False, False]))
    kept = torch.tensor([0, 2, 3])
    part = make_rollout(real[kept], **{name: tensor[kept].tolist() for name, tensor in tensors.items()})
    with_all = estimate(whole, scores, **settings)
    without = estimate(part, make_scores([1.0, 2.0, 4.0]), **settings)
    for name in ("advantages", "returns", "rewards", "kl"):
        torch.testing.assert_close(getattr(with_all, name)[kept], getattr(without, name), rtol=0, atol=0)
        assert getattr(with_all, name)[1].tolist() == [0.0, 0.0, 0.0]
    assert with_all.skipped is scores.skipped


def test_the_value_function_may_have_a_lambda_of_its_own():
    rollout = make_rollout(values=[[0.5, 0.5, 0.5], [0.5, 0.0, 0.0]])
    scores = make_scores([1.0, 1.0])
    one, both = (estimate(rollout, scores, lam=0.0, **settings) for settings in ({}, {"critic_lam": 1.0}))
    discounted = estimate(rollout, scores, lam=0.0, gamma=0.5, critic_lam=1.0)
    torch.testing.assert_close(discounted.returns, torch.tensor([[0.25, 0.5, 1.0], [1.0, 0.0, 0.0]]))
    # lam 0: r_t + V_{t+1}; 1: the sum of rewards to come. The policy's advantages are the same.
    torch.testing.assert_close(one.returns, torch.tensor([[0.5, 0.5, 1.0], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(both.returns, torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    assert torch.equal(one.advantages, both.advantages)


def test_what_the_length_limit_cut_has_what_would_have_come_in_advantages_and_returns():
    values = [[0.5, 0.0, 1.0], [2.0, 9.0, 9.0]]
    rollout = make_rollout(raw=RAW, ref=RAW, values=values)
    cut = dataclasses.replace(rollout, final_values=torch.tensor([3.0, 0.0]))
    estimates = estimate(cut, make_scores([4.0, 1.0]), gamma=0.5)
    # gamma 0.5, lambda 1: R_2 = 4 + 0.5 * 3, R_1 = R_2 / 2, R_0 = R_1 / 2
    torch.testing.assert_close(estimates.returns, torch.tensor([[1.375, 2.75, 5.5], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(estimates.rewards, torch.tensor([[0.0, 0.0, 4.0], [1.0, 0.0, 0.0]]))


def test_lambda_by_length_is_the_policys_and_not_the_critics():
    rollout = make_rollout(raw=RAW, ref=RAW, values=[[0.5, 0.0, 1.0], [2.0, 9.0, 9.0]])
    scores = make_scores([4.0, 1.0])
    # 1 - 1 / (0.5 * 3) = 1/3 for three tokens, and 0 for one
    adaptive = estimate(rollout, scores, lam_alpha=0.5, lam=1.0)
    fixed = estimate(rollout, scores, lam=1.0)
    torch.testing.assert_close(adaptive.returns, fixed.returns)
    # deltas -0.5, 1, 3 and -1
    raw = torch.tensor([-0.5 + (1.0 + 3.0 / 3) / 3, 1.0 + 3.0 / 3, 3.0, -1.0])
    expected = (raw - raw.mean()) / raw.std()
    torch.testing.assert_close(adaptive.advantages[rollout.completion_mask], expected, atol=1e-5, rtol=1e-5)
    both = estimate(rollout, scores, lam_alpha=0.5, critic_lam=0.0)
    torch.testing.assert_close(both.returns[0], torch.tensor([0.0, 1.0, 4.0]))


def test_positive_are_completions_whose_reward_is_above_the_threshold():
    rollout = make_rollout(raw=RAW, ref=RAW)
    scores = make_scores([4.0, 1.0])
    assert estimate(rollout, scores).positive is None
    assert estimate(rollout, scores, positive_threshold=1.0).positive.tolist() == [True, False]
