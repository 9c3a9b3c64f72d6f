"""A mix of metrics, of which some cannot be computed."""

from __future__ import annotations

import re

import pytest
from datasets import Dataset

from trl_nlpo.errors import Terminated
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

class Stubborn(Metric):
    name = "stubborn"

    def __init__(self, how):
        self.how = how

    def score(self, predictions, **columns):
        if self.how == "raises":
            return [1 / 0]
        if self.how == "exits":
            raise SystemExit(3)
        if self.how == "panics":
            # As those of libraries in Rust: no Exception.
            raise type("PanicException", (BaseException,), {})("index out of bounds")
        return {"short": [], "words": ["high"] * len(predictions), "nan": [float("nan")] * len(predictions)}[self.how]

    def compute(self, predictions, **columns):
        return self.how

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
    return compute_metrics(parse_rewards(metrics, "metrics"), list(predictions), columns)


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


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", r"it raised ZeroDivisionError: division by zero \(own_suite\.py, line \d+\)\."),
        ("exits", "it raised SystemExit: 3"),
        ("panics", "it raised PanicException: index out of bounds"),
        ("short", "metric 'stubborn' returned 0 scores for 2 predictions"),
        ("words", "metric 'stubborn' returned 'high', which is no number"),
        ("nan", "metric 'stubborn' returned NaN"),
    ],
)
def test_whatever_a_metric_does_the_others_are_computed_and_the_gap_has_a_name(own_metrics, how, reason):
    found = suite([{"name": "own_suite.Stubborn", "how": how}, "rouge1"], references=[["a dog"], ["a cat"]])
    assert found.metrics == {"rouge1": 1.0}
    assert re.match(reason, found.unavailable["own_suite.Stubborn"])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated("stopped")])
def test_a_request_to_stop_is_no_failure_of_a_metric(monkeypatch, stop):
    def ask(*args, **columns):
        raise stop

    monkeypatch.setattr("trl_nlpo.metrics.rouge.Rouge.score", ask)
    with pytest.raises((KeyboardInterrupt, Terminated)):
        suite(["rouge1"], references=[["a dog"], ["a cat"]])


def test_two_metrics_of_one_name_have_two_columns_also_where_they_agree():
    mix = [{"name": "sacrebleu", "tokenize": "13a"}, {"name": "sacrebleu", "tokenize": "char"}, "rouge", "rougeL"]
    found = suite(mix, ["a dog runs in a park"] * 2, references=[["a dog runs in a park"]] * 2)
    assert {"sacrebleu", "sacrebleu_2", "rougeL", "rougeL_2"} <= set(found.metrics)
    assert list(found.rows) == ["sacrebleu", "sacrebleu_2", "rouge", "rougeL"]
    assert found.better["sacrebleu_2"] == "higher"


def test_two_missing_metrics_of_one_name_are_two_gaps():
    found = suite(
        [{"name": "rouge1", "use_stemer": True}, {"name": "rouge1", "colum": "x"}], references=[["a"], ["b"]]
    )
    assert list(found.unavailable) == ["rouge1", "rouge1_2"]


def test_the_same_twice_is_once():
    assert list(suite(["rouge1", "rouge1"], references=[["a"], ["b"]]).metrics) == ["rouge1"]


def test_a_recipe_may_name_a_metrics_columns():
    mix = [{"name": "parent", "as": "table"}, {"name": "rouge", "as": "overlap"}]
    found = suite(mix, references=[["a dog"], ["a cat"]], table=[[["x"], ["a dog"]], [["x"], ["a cat"]]])
    assert {"table", "table_precision", "table_recall", "overlap_rouge1"} <= set(found.metrics)
    assert list(found.rows) == ["table", "overlap"]


def test_a_metric_has_numbers_by_the_values_of_a_column():
    found = suite(
        [{"name": "rouge1", "by": "subset"}, {"name": "bleu", "by": "subset"}],
        ["a dog runs off now", "a cat sits on it", "x"],
        references=[["a dog runs off now"], ["a cat sat on mats"], ["x"]],
        subset=["overlap", "non_overlap", None],
    )
    assert found.metrics["rouge1_overlap"] == 1.0
    # "a", "cat", "sit" of five words; "on" is the fourth.
    assert found.metrics["rouge1_non_overlap"] == pytest.approx(0.6)
    assert found.metrics["bleu_overlap"] == pytest.approx(1.0)
    assert set(found.better) == set(found.metrics)


def test_without_the_column_there_are_no_groups_and_with_too_many_values_a_line():
    assert list(suite([{"name": "rouge1", "by": "subset"}], references=[["a"], ["b"]]).metrics) == ["rouge1"]
    found = suite(
        [{"name": "rouge1", "by": "id"}], ["a"] * 30, references=[["a"]] * 30, id=[str(number) for number in range(30)]
    )
    assert "by: column 'id' has 30 values" in found.unavailable["rouge1"]
