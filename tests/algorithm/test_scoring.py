"""Room 2: whatever reward functions return or raise, on plain strings."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import warnings

import numpy as np
import pytest
import torch

from trl_nlpo import UserError
from trl_nlpo.algorithm.scoring import ask, check_weights, combine, reward_names, score_rollout
from trl_nlpo.errors import RewardError
from trl_nlpo.records import Completions, PromptBatch


IDS = [[5, 6, 1], [7], [8, 1]]
TEXTS = ["five six", "seven", "eight"]


def completions(**columns) -> Completions:
    """Three completions of 3, 1 and 2 tokens; the second has no end token."""
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    return Completions(
        batch=PromptBatch([[2], [3], [4]], ["a", "b", "c"], columns),
        completions=TEXTS,
        prompt_ids=torch.tensor([[2], [3], [4]]),
        prompt_mask=torch.ones(3, 1, dtype=torch.bool),
        completion_ids=torch.tensor([[5, 6, 1], [7, 0, 0], [8, 1, 0]]),
        completion_mask=mask,
        ended=torch.tensor([True, False, True]),
    )


def score(*functions, weights=None, columns=None, **settings):
    return score_rollout(completions(**(columns or {})), functions, weights or [1.0] * len(functions), **settings)


def returning(value):
    return lambda completions, **kwargs: value


def words(completions, **kwargs):
    return [len(completion.split()) for completion in completions]


async def async_words(completions, **kwargs):
    await asyncio.sleep(0)
    return words(completions)


def refused(value) -> str:
    """The one line that an unusable value of a function called `broken` leads to."""

    def broken(completions, **kwargs):
        return value

    with pytest.raises(RewardError) as caught:
        score(words, broken)
    assert "\n" not in str(caught.value)
    assert "'broken'" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("function", [words, async_words])
def test_a_function_returns_a_number_per_completion(function):
    scores = score(function)
    assert scores.scores.tolist() == [2.0, 1.0, 1.0]
    assert scores.per_function.tolist() == [[2.0], [1.0], [1.0]]
    assert scores.names == [function.__name__]
    assert scores.dense_rewards is None
    assert scores.totals.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "value",
    [
        [1, 0, 2], [1.0, False, 2.0], (1.0, 0.0, 2.0), np.array([1.0, 0.0, 2.0]), torch.tensor([1, 0, 2]),
        [np.float32(1), np.int64(0), torch.tensor(2.0)],
    ],
    ids=["integers", "booleans", "tuple", "numpy", "tensor", "scalars"],
)  # fmt: skip
def test_numbers_may_come_in_any_form(value):
    assert score(returning(value)).scores.tolist() == [1.0, 0.0, 2.0]


def test_scores_are_the_weighted_sum():
    scores = score(words, returning([1.0, 2.0, 3.0]), weights=[0.5, -2.0])
    # 0.5 * (2, 1, 1) - 2 * (1, 2, 3)
    assert scores.scores.tolist() == [-1.0, -3.5, -5.5]
    assert scores.per_function.tolist() == [[2.0, 1.0], [1.0, 2.0], [1.0, 3.0]]


def test_none_does_not_apply_and_counts_as_nothing():
    scores = score(returning([None, 4.0, None]), returning([1.0, 1.0, 1.0]), weights=[2.0, 1.0])
    assert scores.scores.tolist() == [1.0, 9.0, 1.0]
    assert scores.per_function[:, 0].isnan().tolist() == [True, False, True]


def test_a_completion_that_no_function_applies_to_is_told_of():
    with pytest.warns(UserWarning, match=r"None for 2 completion\(s\), the first of them sample 1"):
        scores = score(returning([1.0, None, None]), returning([None, None, None]))
    assert scores.scores.tolist() == [1.0, 0.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(returning([1.0, None, None]), returning([None, 0.0, 0.0]))


def test_rewards_of_single_tokens_are_dense_and_not_part_of_the_score():
    dense = [[0.1, 0.2, 0.3], (4.0,), [5.0, 6.0]]
    scores = score(returning(dense), words, weights=[10.0, 1.0])
    assert scores.scores.tolist() == [2.0, 1.0, 1.0]
    expected = torch.tensor([[1.0, 2.0, 3.0], [40.0, 0.0, 0.0], [50.0, 60.0, 0.0]])
    torch.testing.assert_close(scores.dense_rewards, expected)
    torch.testing.assert_close(scores.per_function[:, 0], torch.tensor([0.6, 4.0, 11.0]))
    torch.testing.assert_close(scores.totals, torch.tensor([8.0, 41.0, 111.0]))


def test_dense_rewards_of_two_functions_add_up_and_some_rows_may_have_a_number():
    scores = score(returning([[1.0, 1.0, 1.0], 3.0, None]), returning([[0.0, 2.0, 0.0], None, [1.0, 1.0]]))
    assert scores.dense_rewards.tolist() == [[1.0, 3.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    assert scores.scores.tolist() == [0.0, 3.0, 0.0]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1.0, 2.0], "returned 2 values for 3 completions"),
        ([1.0] * 4, "returned 4 values for 3 completions"),
        ([], "returned 0 values"),
        ([1.0, float("nan"), 1.0], "returned nan for sample 1"),
        ([1.0, 1.0, float("-inf")], "returned -inf for sample 2"),
        (["1.0", 1.0, 1.0], "returned '1.0' for sample 0, which is str"),
        ([1.0, {"score": 1.0}, 1.0], "for sample 1, which is dict"),
        (None, "returned NoneType"),
        (1.0, "returned float"),
        ("abc", "returned str"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "returned dict"),
        (torch.tensor(1.0), "returned float"),
        pytest.param((number for number in (1.0, 1.0, 1.0)), "returned generator", id="generator"),
        ([[1.0, 1.0], 1.0, 1.0], "returned 2 token rewards for sample 0, which has 3 tokens"),
        ([1.0, [float("nan")], 1.0], "returned nan for sample 1"),
        ([1.0, [None], 1.0], "returned None for sample 1"),
    ],
    ids=repr,
)
def test_what_is_no_number_per_completion_is_refused_with_function_and_sample(value, says):
    assert says in refused(value)


def test_a_function_that_raises_is_named_and_the_error_is_kept():
    def broken(completions, **kwargs):
        raise KeyError("gold")

    async def broken_later(completions, **kwargs):
        raise KeyError("gold")

    for function in (broken, broken_later):
        with pytest.raises(RewardError) as caught:
            score(words, function)
        assert str(caught.value) == f"The reward function '{function.__name__}' raised KeyError: 'gold'"
        assert isinstance(caught.value.__cause__, KeyError)
        assert isinstance(caught.value, UserError)


def test_asynchronous_functions_wait_for_one_another_and_keep_their_places():
    order = []

    async def slow(completions, **kwargs):
        await barrier.wait()
        order.append("slow")
        return [1.0, 1.0, 1.0]

    async def quick(completions, **kwargs):
        order.append("quick")
        barrier.set()
        return [2.0, 2.0, 2.0]

    barrier = asyncio.Event()
    scores = score(slow, words, quick)
    # one after the other, the first would wait for ever
    assert order == ["quick", "slow"]
    assert scores.per_function[0].tolist() == [1.0, 2.0, 2.0]


def test_asynchronous_functions_work_where_an_event_loop_is_running_already():
    async def notebook():
        return score(async_words)

    assert asyncio.run(notebook()).scores.tolist() == [2.0, 1.0, 1.0]


class Callable:
    def __call__(self, completions, **kwargs):
        return words(completions)


class AsyncCallable:
    async def __call__(self, completions, **kwargs):
        return words(completions)


@pytest.mark.parametrize(
    "function",
    [Callable(), AsyncCallable(), functools.partial(words), functools.partial(async_words), Callable().__call__],
    ids=["object", "async object", "partial", "async partial", "method"],
)
def test_whatever_can_be_called_is_a_function(function):
    assert score(function).scores.tolist() == [2.0, 1.0, 1.0]


def test_all_columns_and_trls_keywords_are_passed():
    seen = {}

    def function(**kwargs):
        seen.update(kwargs)
        return [0.0] * 3

    score(function, columns={"gold": ["x", "y", None], "completions": ["not", "these", "ones"]}, trainer_state="state")
    assert seen.pop("log_metric")
    assert seen.pop("log_extra")
    assert seen == {
        "prompts": ["a", "b", "c"], "completions": TEXTS, "completion_ids": IDS, "gold": ["x", "y", None],
        "trainer_state": "state",
    }  # fmt: skip


def test_a_function_without_keywords_gets_what_it_names():
    def function(gold, completions, factor=2.0):
        return [factor * len(text) for text in gold]

    assert score(function, columns={"gold": ["x", "yy", ""], "other": [1, 2, 3]}).scores.tolist() == [2.0, 4.0, 0.0]


def test_a_column_that_is_missing_is_an_error_of_the_function():
    def needs_gold(completions, gold):
        return [0.0] * 3

    with pytest.raises(RewardError, match=r"'needs_gold' raised TypeError: .*'gold'"):
        score(needs_gold)


def test_a_missing_end_costs_its_penalty_whatever_its_sign():
    assert score(words, missing_eos_penalty=0.5).scores.tolist() == [2.0, 0.5, 1.0]
    assert score(words, missing_eos_penalty=0.0).scores.tolist() == [2.0, 1.0, 1.0]


def test_what_functions_log_is_kept():
    def function(completions, log_metric, log_extra, **kwargs):
        log_metric("accuracy", 1)
        log_metric("accuracy", torch.tensor(0.5))
        log_extra("parsed", ("x", "y", "z"))
        log_extra("length", np.float32([1, 2, 3]))
        return [0.0] * 3

    scores = score(function)
    assert scores.metrics == {"accuracy": [1.0, 0.5]}
    assert scores.extra_columns == {"parsed": ["x", "y", "z"], "length": [1.0, 2.0, 3.0]}
    json.dumps(scores.extra_columns)


def test_an_object_that_scores_completions_is_given_the_record():
    class Judge:
        __name__ = "judge"

        def score_completions(self, rollout):
            return [float(len(ids)) for ids in rollout.completion_token_ids]

    scores = score(Judge())
    assert scores.scores.tolist() == [3.0, 1.0, 2.0]
    assert scores.names == ["judge"]


def test_names_are_those_of_functions_or_classes_and_numbered_when_shared():
    names = reward_names([words, async_words, functools.partial(words), Callable(), words])
    assert names == ["words", "async_words", "words_2", "Callable", "words_4"]


def test_weights_are_one_each_unless_given():
    assert check_weights(None, 2) == [1.0, 1.0]
    assert check_weights([1, 0.5], 2) == [1.0, 0.5]
    with pytest.raises(UserError, match="reward_weights has 1 values for 2 reward functions"):
        check_weights([1.0], 2)


def test_a_function_written_for_trls_grpo_is_called_as_trl_calls_it():
    # TRL 1.16: reward_func(prompts=..., completions=..., completion_ids=..., **columns, trainer_state=..., …)
    def grpo_reward(prompts, completions, completion_ids, target, **kwargs):
        assert set(kwargs) >= {"trainer_state", "log_metric", "log_extra"}
        return [
            len(ids) + len(prompt) + value for prompt, ids, value in zip(prompts, completion_ids, target, strict=True)
        ]

    by_trl = grpo_reward(
        prompts=["a", "b", "c"], completions=TEXTS, completion_ids=IDS, target=[10, 20, 30], trainer_state=None,
        log_metric=print, log_extra=print,
    )  # fmt: skip
    assert score(grpo_reward, columns={"target": [10, 20, 30]}).scores.tolist() == by_trl


def test_an_object_that_scores_completions_and_raises_is_named_too():
    class Judge:
        __name__ = "judge"

        def score_completions(self, rollout):
            raise RuntimeError("out of memory")

    with pytest.raises(RewardError, match="'judge' raised RuntimeError: out of memory"):
        score(Judge())


def test_an_error_that_names_itself_is_not_wrapped_again():
    class Judge:
        def score_completions(self, rollout):
            raise RewardError("The reward model 'judge' knows 20 tokens.")

    with pytest.raises(RewardError) as caught:
        score(Judge())
    assert str(caught.value) == "The reward model 'judge' knows 20 tokens."


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["tensors", "arrays"])
def test_token_rewards_as_a_list_of_tensors_are_dense_rewards_like_lists(make):
    value = [make([0.5, 1.0, 1.5]), make([4.0]), make([5.0, 6.0])]
    scores = score(returning(value))
    assert scores.dense_rewards.tolist() == [[0.5, 1.0, 1.5], [4.0, 0.0, 0.0], [5.0, 6.0, 0.0]]


def test_a_number_that_shared_names_get_is_not_the_name_of_another_function():
    def words_2(completions, **kwargs):
        return [0.0] * 3

    names = reward_names([words, words_2, words])
    assert len(set(names)) == 3


def test_a_logged_column_of_another_length_names_its_function_or_itself():
    # otherwise `list index out of range` when the table of completions is printed
    def function(completions, log_extra, **kwargs):
        log_extra("parsed", ["x"])
        return [0.0] * 3

    with pytest.raises(RewardError, match="parsed"):
        score(function)


class TestSkipping:
    """With `failure="skip"`, what could not be scored is marked; nothing is made up for it."""

    def skipped(self, *functions, **settings):
        return score(*functions, failure="skip", **settings)

    @pytest.mark.parametrize(
        "value", [float("nan"), float("inf"), "good", None, [1.0, 2.0], [float("nan")], object(), np.nan]
    )
    def test_a_completion_with_an_unusable_value_is_skipped_and_the_others_are_not(self, value):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scores = self.skipped(returning([1.0, value, 3.0]))
        assert scores.skipped.tolist() == [False, True, False]
        torch.testing.assert_close(scores.totals, torch.tensor([1.0, float("nan"), 3.0]), equal_nan=True)

    def test_one_function_is_enough_to_skip_a_completion_and_none_says_that_it_does_not_apply(self):
        scores = self.skipped(returning([1.0, 2.0, 3.0]), returning([float("nan"), None, 1.0]), weights=[1.0, 2.0])
        assert scores.skipped.tolist() == [True, False, False]
        assert scores.scores[1:].tolist() == [2.0, 5.0]
        # what the healthy function said is kept for the logs
        assert scores.per_function[:, 0].tolist() == [1.0, 2.0, 3.0]

    def test_a_function_that_raises_skips_the_batch_with_a_warning(self):
        def broken(completions, **kwargs):
            raise KeyError("gold")

        with pytest.warns(UserWarning, match=r"'broken' raised KeyError: 'gold' The completions of this batch are"):
            scores = self.skipped(broken, returning([1.0, 2.0, 3.0]))
        assert scores.skipped.all()
        assert scores.per_function[:, 1].tolist() == [1.0, 2.0, 3.0]

    def test_a_penalty_does_not_turn_a_skipped_completion_into_a_scored_one(self):
        scores = self.skipped(returning([1.0, None, 3.0]), missing_eos_penalty=1.0)
        assert scores.scores.isnan().tolist() == [False, True, False]

    def test_rewards_per_token_are_dropped_with_the_completion(self):
        scores = self.skipped(returning([[1.0, 1.0, 1.0], [2.0], [3.0, 3.0]]), returning([1.0, float("nan"), 1.0]))
        assert scores.dense_rewards.sum(-1).tolist() == [3.0, 0.0, 6.0]

    @pytest.mark.parametrize("value", [None, [1.0, 2.0], "abc", 3.0])
    def test_the_wrong_number_or_kind_of_values_is_a_mistake_all_the_same(self, value):
        with pytest.raises(RewardError):
            self.skipped(returning(value))

    def test_without_skipping_nothing_is_marked(self):
        assert score(returning([1.0, 2.0, 3.0])).skipped is None


def test_a_function_that_hangs_is_an_error_that_names_it():
    import threading

    release = threading.Event()

    def stuck(completions, **kwargs):
        release.wait()

    with pytest.raises(RewardError, match=r"'stuck' did not return within 0\.05 seconds"):
        score(stuck, timeout=0.05)
    release.set()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1e39, "1e+39 for sample 1, which is beyond float32"),
        (-1e39, "beyond float32"),
        (10**400, "finite number"),
        (10**5000, "an integer beyond all floats for sample 1"),
        (np.float64(1e300), "beyond float32"),
        (torch.tensor(1e39, dtype=torch.float64), "beyond float32"),
        (torch.empty((), device="meta"), "which is Tensor, not a number"),
        (1j, "not a number"),
        ([1e39] * 1, "beyond float32"),
    ],
    ids=range(9),
)
def test_a_value_that_float32_does_not_hold_is_named_or_its_completion_skipped(value, says):
    assert says in refused([1.0, value, 2.0])
    scores = score(returning([1.0, value, 2.0]), failure="skip")
    assert scores.skipped.tolist() == [False, True, False]
    assert scores.totals[[0, 2]].tolist() == [1.0, 2.0]


def test_a_tensor_without_values_is_named_or_all_completions_skipped():
    values = torch.empty(3, device="meta")
    assert "sample 0, which is Tensor, not a number" in refused(values)
    assert score(returning(values), failure="skip").skipped.all()


@pytest.mark.parametrize(
    ("values", "weights"),
    [([[3e38, 0, 0], [3e38, 0, 0]], [1, 1]), ([[1e30, 0, 0]], [1e30]), ([[[3e38, 3e38, 0], [0], [0, 0]]], [1])],
    ids=["two functions", "weight", "tokens"],
)
def test_rewards_whose_sum_float32_does_not_hold_are_refused_or_skipped(values, weights):
    functions = [returning(value) for value in values]
    with pytest.raises(RewardError, match="weighted sum of all rewards of sample 0 is beyond float32"):
        score(*functions, weights=weights)
    scores = score(*functions, weights=weights, failure="skip")
    assert scores.skipped.tolist() == [True, False, False]
    assert scores.scores[1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("say", [
    lambda log_metric, log_extra: log_metric("length", "abc"),
    lambda log_metric, log_extra: log_metric("length", None),
    lambda log_metric, log_extra: log_metric("length", torch.ones(2)),
    lambda log_metric, log_extra: log_metric(3, 1.0),
    lambda log_metric, log_extra: log_extra("note", 7),
    lambda log_metric, log_extra: log_extra("note", "abc"),
    lambda log_metric, log_extra: log_extra("note", [1]),
    lambda log_metric, log_extra: log_extra(None, [1, 2, 3]),
])  # fmt: skip
def test_what_cannot_be_logged_is_one_line_and_leaves_nothing_behind(say):
    def logs(completions, log_metric, log_extra):
        say(log_metric, log_extra)
        return [1.0] * 3

    def logs_and_goes_on(completions, log_metric, log_extra):
        with contextlib.suppress(RewardError):
            say(log_metric, log_extra)
        return [1.0] * 3

    with pytest.raises(RewardError, match=r"log_(metric|extra) got") as caught:
        score(logs)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"log_.* The completions of this batch are skipped"):
        assert score(logs, failure="skip").skipped.all()
    scores = score(logs_and_goes_on)
    assert (scores.metrics, scores.extra_columns) == ({}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400], ids=["nan", "inf", "integer"])
def test_a_logged_number_that_is_not_finite_is_left_out_and_that_is_said(value):
    def logs(completions, log_metric):
        log_metric("length", value)
        log_metric("length", 2)
        return [1.0] * 3

    with pytest.warns(UserWarning, match="for 'length', which is left out of the average"):
        assert score(logs).metrics == {"length": [2.0]}


def test_rewards_are_divided_by_their_scales_before_they_are_weighed_and_logged_as_they_are():
    rollout = completions()
    answers = ask(rollout, [returning([10.0, 20.0, 30.0]), returning([[1.0, 0.0, 2.0], [4.0], [0.0, 2.0]])])
    scores = combine(rollout, answers, [1.0, 0.5], scales=[10.0, 2.0], missing_eos_penalty=0.25)
    # 10 / 10, 20 / 10 less the penalty, 30 / 10
    torch.testing.assert_close(scores.scores, torch.tensor([1.0, 1.75, 3.0]))
    torch.testing.assert_close(
        scores.dense_rewards, torch.tensor([[0.25, 0.0, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    )
    torch.testing.assert_close(scores.per_function[:, 0], torch.tensor([10.0, 20.0, 30.0]))
    torch.testing.assert_close(scores.totals, torch.tensor([11.5, 21.75, 31.0]))


def test_a_completion_that_is_skipped_has_no_total_with_scales_either():
    rollout = completions()
    answers = ask(rollout, [returning([1.0, float("nan"), 3.0])], skips=True)
    scores = combine(rollout, answers, [1.0], skips=True, scales=[2.0])
    assert scores.skipped.tolist() == [False, True, False]
    assert scores.totals.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(scores.scores[[0, 2]], torch.tensor([0.5, 1.5]))
