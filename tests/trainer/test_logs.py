"""What is logged about an update, by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from trl_nlpo.functional.token_sets import TokenSets
from trl_nlpo.records import Estimates, PromptBatch, Rollout, Scores, UpdateStats
from trl_nlpo.trainer.logs import completion_rows, update_metrics


REAL = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
STATS = UpdateStats(
    num_optimizer_steps=4, policy_loss=0.1, value_loss=0.2, policy_clipfrac=0.3, value_clipfrac=0.4, approx_kl=0.5,
    entropy=0.6, ratio=0.7, ratio_variance=0.8, grad_norm=0.9, first_ratio_deviation=1.0,
)  # fmt: skip
# 20 tokens of a vocabulary; allowed at the six real places are 1, 2, 3, 20, 5 and 4 of them
SIZES = [[1, 2, 3], [20], [5, 4]]


def zeros_where_padding(rows):
    return torch.tensor([[*row, *[0.0] * (3 - len(row))] for row in rows])


def make_rollout() -> Rollout:
    mask = torch.ones(3, 3, 20, dtype=torch.bool)
    for row, sizes in enumerate(SIZES):
        for place, size in enumerate(sizes):
            mask[row, place] = torch.arange(20) < size
    return Rollout(
        batch=PromptBatch([[2], [3], [4]], ["a", "b", "c"]),
        completions=["x", "y", "z"],
        prompt_ids=torch.tensor([[2], [3], [4]]),
        prompt_mask=torch.ones(3, 1, dtype=torch.bool),
        # padding looks like an end token
        completion_ids=torch.tensor([[5, 1, 1], [6, 1, 1], [7, 1, 1]]),
        completion_mask=REAL,
        ended=torch.tensor([True, False, True]),
        old_logprobs=zeros_where_padding([[-0.5, -1.0, -1.5], [-2.0], [-0.1, -0.2]]),
        raw_logprobs=zeros_where_padding([[-1.0, -1.0, -2.0], [-2.0], [-0.6, -0.2]]),
        ref_logprobs=zeros_where_padding([[-1.0, -2.0, -3.0], [-4.0], [-5.0, -6.0]]),
        values=zeros_where_padding([[0.0, 1.0, 2.0], [1.0], [1.0, 1.0]]),
        token_sets=TokenSets.of_mask(mask),
        vocab_size=20,
    )


def make_scores() -> Scores:
    per_function = torch.tensor([[1.0, float("nan")], [2.0, 5.0], [6.0, float("nan")]])
    dense = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    logged = {"accuracy": [0.5, 1.0]}, {"note": ["p", "q", "r"]}
    return Scores(torch.tensor([1.0, 2.0, 6.0]), per_function, ["f", "g"], dense, *logged)


def make_estimates() -> Estimates:
    kl = zeros_where_padding([[0.5, 0.25, 0.25], [-1.0], [2.0, 1.0]])
    zeros = torch.zeros(3, 3)
    returns = zeros_where_padding([[1.0, 1.0, 4.0], [2.0], [2.0, 2.0]])
    return Estimates(zeros, returns, zeros, kl, kl_coef=0.1)


def metrics(rollout=None, scores=None, estimates=None, gather=lambda rows: rows):
    return update_metrics(
        rollout or make_rollout(), scores or make_scores(), estimates or make_estimates(), STATS, mask_age=3,
        mask_syncs=2, end_token_ids=(1, 6), gather=gather,
    )  # fmt: skip


# Returns have the variance 30 / 6 - 2^2 = 1; what is left of them has 8 / 6 - 1^2.
EXPLAINED = 1 - (8 / 6 - 1) / 1
MASS = (math.exp(-0.5) + 1 + math.exp(-0.5) + 1 + math.exp(-0.5) + 1) / 6
EXPECTED = {
    "reward": (2.0 + 2.0 + 6.0) / 3,
    "reward_std": math.sqrt(((2 - 10 / 3) ** 2 * 2 + (6 - 10 / 3) ** 2) / 2),
    "objective/scores": 10 / 3,
    "objective/kl": (1.0 - 1.0 + 3.0) / 3,
    "objective/non_score_reward": -0.1,
    "objective/rlhf_reward": 10 / 3 - 0.1,
    "objective/entropy": (4.0 + 2.0 + 0.8) / 3,
    "completions/mean_length": 2.0,
    "completions/min_length": 1.0,
    "completions/max_length": 3.0,
    "completions/clipped_ratio": 1 / 3,
    "val/num_eos_tokens": 4.0,  # places 2 and 3 of the first row, 1 of the second, 2 of the third
    "perplexity": math.exp(21.0 / 6),
    "nlpo/mask_size": 35 / 6,
    "nlpo/mask_mass": MASS,
    "nlpo/mask_age": 3.0,
    "nlpo/mask_syncs": 2.0,
    "nlpo/skipped_completions": 0.0,
    "nlpo/skipped_steps": 0.0,
    "nlpo/kl_coef": 0.1,
    "nlpo/first_ratio_deviation": 1.0,
    "rewards/f/mean": 3.0,
    "rewards/f/std": math.sqrt((4 + 1 + 9) / 2),
    "rewards/g/mean": 5.0,
    "rewards/g/std": 0.0,
    "accuracy": 0.75,
    "policy/approxkl_avg": 0.5,
    "policy/clipfrac_avg": 0.3,
    "policy/entropy_avg": 0.6,
    "loss/policy_avg": 0.1,
    "loss/value_avg": 0.2,
    "val/clipfrac_avg": 0.4,
    "val/explained_variance": EXPLAINED,
    "value/mean": 1.0,
    "returns/mean": 2.0,
    "val/ratio": 0.7,
    "val/ratio_var": 0.8,
    "grad_norm": 0.9,
}


def test_every_metric_by_hand():
    actual = metrics()
    assert set(actual) == set(EXPECTED)
    for name, value in EXPECTED.items():
        assert actual[name] == pytest.approx(value, rel=1e-6), name


def test_without_a_mask_the_whole_vocabulary_is_its_size_and_its_mass_one():
    rollout = make_rollout()
    rollout = dataclasses.replace(rollout, token_sets=None, old_logprobs=rollout.raw_logprobs)
    actual = metrics(rollout)
    assert actual["nlpo/mask_size"] == 20
    assert actual["nlpo/mask_mass"] == pytest.approx(1.0)


def test_the_rows_of_all_processes_count():
    # two processes with the same rows: averages and deviations of twice as many, sums twice as large
    actual = metrics(gather=lambda rows: torch.cat([rows, rows]))
    assert actual["val/num_eos_tokens"] == 8
    for name in ("reward", "objective/kl", "perplexity", "nlpo/mask_size", "completions/clipped_ratio"):
        assert actual[name] == pytest.approx(EXPECTED[name]), name
    assert actual["reward_std"] == pytest.approx(math.sqrt(2 * EXPECTED["reward_std"] ** 2 * 2 / 5))


def test_padding_changes_no_metric():
    def wider(tensor, value=0):
        return torch.nn.functional.pad(tensor, (0, 2), value=value)

    rollout = make_rollout()
    names = ("old_logprobs", "raw_logprobs", "ref_logprobs", "values", "completion_mask")
    padded = dataclasses.replace(
        rollout,
        completion_ids=wider(rollout.completion_ids, 1),
        token_sets=dataclasses.replace(rollout.token_sets, sizes=wider(rollout.token_sets.sizes, 20)),
        **{name: wider(getattr(rollout, name)) for name in names},
    )
    estimates = make_estimates()
    estimates = dataclasses.replace(estimates, kl=wider(estimates.kl), returns=wider(estimates.returns))
    scores = dataclasses.replace(make_scores(), dense_rewards=wider(make_scores().dense_rewards))
    actual = metrics(padded, scores, estimates)
    for name, value in EXPECTED.items():
        assert actual[name] == pytest.approx(value, rel=1e-6), name


def test_what_a_function_logs_never_takes_the_place_of_a_metric_of_ours():
    scores = dataclasses.replace(make_scores(), metrics={"reward": [99.0], "accuracy": [0.5, 1.0]})
    actual = metrics(scores=scores)
    assert actual["reward"] == pytest.approx(EXPECTED["reward"])
    assert (actual["log_metric/reward"], actual["accuracy"]) == (99.0, 0.75)


def test_a_function_that_never_applied_has_no_mean():
    scores = dataclasses.replace(make_scores(), per_function=torch.full((3, 2), float("nan")))
    assert math.isnan(metrics(scores=scores)["rewards/f/mean"])
    assert metrics(scores=scores)["rewards/f/std"] == 0.0


def test_a_table_has_a_row_per_completion():
    rows = completion_rows(make_rollout(), make_scores(), make_estimates())
    assert rows[1] == {"prompt": "b", "completion": "y", "f": 2.0, "g": 5.0, "score": 2.0, "kl": -1.0, "note": "q"}
    assert [row["score"] for row in rows] == [2.0, 2.0, 6.0]
    assert math.isnan(rows[0]["g"])


def test_the_mass_of_a_mask_is_not_confused_by_a_repetition_penalty():
    # Nothing is masked, so the allowed tokens hold all of the policy's probability; the penalty alone makes old and
    # raw log-probabilities differ.
    rollout = dataclasses.replace(make_rollout(), token_sets=None)
    assert metrics(rollout)["nlpo/mask_mass"] == pytest.approx(1.0)
