"""A mix of metrics, of which some cannot be computed."""

from __future__ import annotations

import pytest
from datasets import Dataset

from trl_nlpo.metrics.suite import compute_metrics, fit_rewards, judge_samples
from trl_nlpo.recipes.specs import parse_rewards
from trl_nlpo.rewards import get_reward


OWN = """
from trl_nlpo.metrics.base import Metric

class WordErrors(Metric):
    better = "lower"
    name = "wer"

    def __init__(self, column="references"):
        self.columns = (column,)

    def score(self, predictions, **columns):
        return [float(text != row) for text, row in zip(predictions, columns[self.columns[0]])]

class Longest(Metric):
    name = "longest"
    columns = ("references",)
    fit_column = "references"
    better = None

    def fit(self, references):
        self.most = max(len(text) for row in references for text in row)

    def score(self, predictions, **columns):
        return [len(text) / self.most for text in predictions]

    def compute(self, predictions, **columns):
        return {"longest": float(self.most), "shortest": 0.0}
"""


@pytest.fixture
def own_metrics(tmp_path, monkeypatch):
    (tmp_path / "own_suite.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)


def suite(metrics, predictions=("a dog", "a cat"), **columns):
    return compute_metrics(parse_rewards(metrics), list(predictions), columns)


def test_every_number_of_every_metric_is_there_and_each_rows_score():
    found = suite(["rouge", "distinct1"], references=[["a dog"], ["a dog"]])
    assert found.metrics["rouge1"] == pytest.approx(0.75)
    assert found.metrics["rougeLsum"] == pytest.approx(0.75)
    assert found.metrics["distinct1"] == pytest.approx(0.75)
    assert found.rows["rouge"] == [1.0, 0.5]
    assert found.unavailable == {}


def test_what_is_missing_is_told_and_stops_nothing(tmp_path):
    found = suite(
        [{"name": "classifier", "model": str(tmp_path / "none")}, "concept_coverage", "rouge1", "no_such_metric"],
        references=[["a dog"], ["a cat"]],
        prompts=["", ""],
    )
    assert found.metrics == {"rouge1": 1.0}
    assert set(found.unavailable) == {"classifier", "concept_coverage", "no_such_metric"}
    assert "needs a column 'concepts'" in found.unavailable["concept_coverage"]


def test_a_table_of_cider_counts_in_the_references_that_it_is_about():
    references = [["a dog runs in the park"], ["two cats sleep on a bed"], ["the sun is hot today"]]
    found = suite(["cider"], [row[0] for row in references], references=references)
    # Texts that are their references score 10, whatever a batch of rows would have given.
    assert found.metrics["cider"] == pytest.approx(10.0)
    assert found.rows["cider"] == pytest.approx([10.0] * 3)


def test_rows_that_a_metric_does_not_apply_to_are_left_out_of_its_mean():
    found = suite(["rouge1"], references=[["a dog"], []])
    assert found.metrics == {"rouge1": 1.0}
    assert found.rows["rouge1"] == [1.0, None]
    assert suite(["rouge1"], references=[[], []]).metrics == {}


def test_each_number_comes_with_the_direction_that_its_metric_states(own_metrics):
    mix = ["rouge", "ter", "diversity", {"name": "own_suite.WordErrors", "column": "gold"}]
    found = suite(mix, references=[["a dog"], ["a cat"]], gold=["a dog", "x"])
    assert found.metrics["wer"] == 0.5
    assert found.better == {
        **dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), "higher"),
        **dict.fromkeys(("ter", "wer"), "lower"),
        **dict.fromkeys(("distinct1", "entropy1", "unique1", "distinct2", "entropy2", "unique2", "mean_length")),
    }


def test_a_metric_is_fitted_to_the_column_that_it_asks_for_and_its_own_table_counts(own_metrics):
    found = suite(["own_suite.Longest"], references=[["abcd"], ["a"]])
    assert found.rows == {"longest": [5 / 4, 5 / 4]}
    assert found.metrics == {"longest": 4.0, "shortest": 0.0}
    assert found.better == {"longest": None, "shortest": None}


def test_rewards_are_fitted_to_the_train_split_where_it_has_their_column(own_metrics):
    reward = get_reward("own_suite.Longest")
    fit_rewards([reward, get_reward("rouge1"), len], Dataset.from_list([{"references": ["abcdefgh", "a"]}]))
    assert reward(completions=["abcd"], references=[["a"]]) == [0.5]
    fit_rewards([reward], Dataset.from_list([{"prompt": "x"}]))
    assert reward(completions=["abcd"], references=[["a"]]) == [0.5]


def test_judged_samples_have_their_scores_and_columns_their_prefix():
    rows = Dataset.from_list([{"prompt": "p", "references": ["a dog"]}, {"prompt": "q", "references": []}])
    samples = [{"completion": [{"role": "assistant", "content": "a dog"}]}, {"completion": "a cat"}]
    judged = judge_samples(parse_rewards(["ter", "no_such_metric"]), samples, rows)
    assert judged.metrics == {"metrics/ter": 0.0}
    assert judged.better == {"metrics/ter": "lower"}
    assert [sample["metrics"] for sample in judged.samples] == [{"ter": 0.0}, {"ter": None}]
    assert list(judged.unavailable) == ["no_such_metric"]
