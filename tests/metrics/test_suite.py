"""A mix of metrics, of which some cannot be computed."""

from __future__ import annotations

import pytest

from trl_nlpo.metrics.suite import compute_metrics
from trl_nlpo.recipes.specs import parse_rewards


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
