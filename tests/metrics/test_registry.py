"""Metrics by name, and in the shape of `evaluate`."""

from __future__ import annotations

import evaluate
import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric, load


def test_an_evaluate_metric_takes_lists_of_references_and_single_ones():
    metric = load("rouge1")
    assert isinstance(metric, evaluate.Metric)
    assert metric.compute(predictions=["a dog"], references=[["a cat", "a dog"]]) == {"rouge1": 1.0}
    assert metric.compute(predictions=["a dog"], references=["a dog"]) == {"rouge1": 1.0}


def test_batches_add_up():
    metric = load("rouge1")
    metric.add_batch(predictions=["a dog"], references=[["a dog"]])
    metric.add(prediction="a", reference=["b"])
    assert metric.compute() == {"rouge1": 0.5}


def test_metrics_combine_as_users_of_evaluate_combine_them():
    both = evaluate.combine([load("rouge1"), load("rouge2")])
    numbers = both.compute(predictions=["a cat sat"], references=[["the cat sat"]])
    assert numbers == {"rouge1": pytest.approx(2 / 3), "rouge2": pytest.approx(0.5)}


def test_other_columns_are_given_to_compute():
    numbers = load("concept_coverage").compute(predictions=["a dog"], concepts=[["dog", "cat"]])
    assert numbers == {"concept_coverage": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": [], "references": []}, "predictions is empty"),
        ({"predictions": "a dog", "references": ["a dog"]}, "predictions must be a list of texts, not 'a dog'"),
        ({"predictions": ["a", None], "references": ["a", "b"]}, "prediction 1 is NoneType, not text"),
        ({"predictions": ["a"], "references": "a"}, "references must be a list with one entry per prediction"),
        ({"predictions": ["a"], "references": ["a", "b"]}, "references has 2 entries for 1 predictions"),
        ({"predictions": ["a"]}, "needs a column 'references'"),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_wrong(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        load("rougeL").compute(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rougel", {}, "unknown metric 'rougel', did you mean 'rougeL'"),
        ("rougeL", {"stemmer": True}, "has no option 'stemmer', did you mean 'use_stemmer'"),
        ("json.dumps", {}, "is no subclass of trl_nlpo.metrics.base.Metric"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name, options, message):
    with pytest.raises(UserError, match=message):
        get_metric(name, **options)
