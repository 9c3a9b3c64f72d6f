"""Metrics as reward functions."""

from __future__ import annotations

import pickle

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.rewards import get_reward


def test_conversational_completions_are_their_last_message():
    completions = [[{"role": "assistant", "content": "A dog."}], "A cat."]
    reward = get_reward("concept_coverage", column="keywords")
    assert reward(completions=completions, keywords=[["dog"], "dog"], prompts=["", ""]) == [1.0, 0.0]


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"'concept_coverage' needs a column 'concepts'.*it has: prompts"):
        get_reward("concept_coverage")(completions=["a"], prompts=["b"])
    with pytest.raises(UserError, match="'rougeL' needs a column 'references'"):
        get_reward("rougeL")(completions=["a"], prompts=["b"])


def test_a_row_that_the_metric_does_not_apply_to_has_no_reward():
    assert get_reward("rougeL")(completions=["a dog", "a dog"], references=[["a dog"], None]) == [1.0, None]


def test_it_can_be_pickled_and_is_called_as_the_metric():
    reward = pickle.loads(pickle.dumps(get_reward("concept_coverage")))
    assert reward.__name__ == "concept_coverage"
    assert reward(completions=["dogs"], concepts=[["dog"]]) == [1.0]
