"""Which way numbers are better: what every built-in metric says, and what a column's name tells."""

from __future__ import annotations

import pytest

from support.metric_options import OPTIONS
from trl_nlpo.metrics import get_metric, metric_names
from trl_nlpo.metrics.base import Metric
from trl_nlpo.metrics.directions import direction
from trl_nlpo.metrics.registry import metric_class


LOWER = {"perplexity", "ter"}
NO_CONTEST = {
    "diversity", "distinct1", "distinct2", "entropy1", "entropy2", "mean_length", "msttr", "unique1", "unique2",
}  # fmt: skip
WITH_MODEL = {"bertscore", "bleurt", "classifier", "intent", "perplexity", "preference", "summac"}
REFERENCE = "two brown dogs run over the wet grass"
COLUMNS = {
    "references": [[REFERENCE]],
    "concepts": [["dog", "run", "grass"]],
    "table": [[["animal", "what"], ["two brown dogs", "run over the wet grass"]]],
}
MODEL_OPTIONS = {name: {"model": "no/model"} for name in WITH_MODEL} | {
    "classifier": {"model": "no/model", "label": 1}
}


def made(name):
    """The metric; one with a model without loading it."""
    return get_metric(name, **MODEL_OPTIONS.get(name, OPTIONS.get(name, {})))


@pytest.mark.parametrize("name", metric_names())
def test_every_built_in_metric_says_itself_which_way_it_is_better(name):
    metric = made(name)
    assert metric.better == (None if name in NO_CONTEST else "lower" if name in LOWER else "higher")
    own = [kind for kind in type(metric).__mro__ if "better" in vars(kind)]
    assert own[0] is not Metric


@pytest.mark.parametrize("name", sorted(set(metric_names()) - NO_CONTEST))
def test_a_better_score_is_a_higher_reward(name):
    metric = made(name)
    rises = metric.as_reward(2.0) > metric.as_reward(1.0)
    assert rises is (metric.better == "higher")


@pytest.mark.parametrize("name", sorted(set(metric_names()) - NO_CONTEST - WITH_MODEL))
def test_the_reference_itself_scores_better_than_another_text(name):
    metric = made(name)
    metric.fit([[REFERENCE], ["a bird sings"]])
    own, other = (metric.score([text], **COLUMNS)[0] for text in (REFERENCE, "a cat sleeps"))
    assert (own > other) is (metric.better == "higher")


@pytest.mark.parametrize("name", metric_names())
def test_every_built_in_metric_says_whether_it_needs_a_model(name):
    assert metric_class(name).needs_model is (name in WITH_MODEL)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("reward", "higher"),
        ("reward_std", None),
        ("perplexity", "lower"),
        ("completions/mean_length", None),
        ("distinct_1", None),
        ("seconds", None),
        # a reward is higher for better text, whatever it is made from
        ("rewards/ter/mean", "higher"),
        ("rewards/my_reward/mean", "higher"),
        ("metrics/ter", "lower"),
        ("metrics/perplexity", "lower"),
        ("metrics/rougeLsum", "higher"),
        ("metrics/parent_recall", "higher"),
        ("metrics/bertscore_precision", "higher"),
        ("metrics/concept_coverage", "higher"),
        ("metrics/unique1", None),
        ("metrics/mean_length", None),
        # what nobody recorded of a metric of a user's is not known
        ("metrics/wer", None),
    ],
)
def test_a_columns_name_tells_what_is_known_without_a_record(column, expected):
    assert direction(column) == expected


class Errors(Metric):
    name = "errors"
    better = "lower"

    def score(self, predictions, **columns):
        return [float(len(text)) for text in predictions]


def test_a_metric_that_is_better_lower_is_turned_around_as_a_reward():
    assert Errors().as_reward(3.0) == -3.0
