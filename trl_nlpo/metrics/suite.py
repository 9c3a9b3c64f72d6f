"""A task's whole mix of metrics over completions that are there, and what metrics are given of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .base import Metric, as_list
from .registry import get_metric
from .texts import completion_text


@dataclass(frozen=True)
class SuiteResult:
    """What a mix of metrics says.

    Attributes:
        metrics (`dict[str, float]`): every number of every metric, by name.
        rows (`dict[str, list]`): each metric's score of every single prediction; None where it does not apply.
        unavailable (`dict[str, str]`): metrics that could not be computed, and why.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    rows: dict[str, list[float | None]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def compute_metrics(specs: Sequence[Any], predictions: Sequence[str], columns: dict[str, list[Any]]) -> SuiteResult:
    """Compute each metric; one that cannot be (a package, model or column is missing) does not stop the others.

    Args:
        specs: what the recipe's `metrics` name ([`recipe_arguments.RewardSpec`]: name and options).
        predictions (`Sequence[str]`): completions.
        columns (`dict[str, list]`): `prompts` and the columns of the data, one entry per prediction.
    """
    result = SuiteResult()
    for spec in specs:
        _compute(spec, predictions, columns, result)
    return result


def judge_samples(
    specs: Sequence[Any], samples: list[dict[str, Any]], rows: Any
) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, str]]:
    """The mix of metrics over the samples of an evaluation.

    Args:
        specs: as for [`compute_metrics`].
        samples (`list[dict]`): a row per prompt with its `completion`.
        rows: the data set that they are about, in the same order.

    Returns:
        The numbers as `metrics/<name>`; the samples, each with its `metrics`; and what could not be computed, and why.
    """
    texts = [completion_text(sample["completion"]) for sample in samples]
    suite = compute_metrics(specs, texts, metric_columns(rows))
    scored = [
        {**sample, "metrics": {name: scores[index] for name, scores in suite.rows.items()}} if suite.rows else sample
        for index, sample in enumerate(samples)
    ]
    return {f"metrics/{name}": value for name, value in suite.metrics.items()}, scored, suite.unavailable


def metric_columns(rows: Any) -> dict[str, list[Any]]:
    """The columns of a data set as metrics and rewards see them; prompts are `prompts`."""
    return {("prompts" if name == "prompt" else name): list(rows[name]) for name in rows.column_names}


def fit_rewards(rewards: Sequence[Any], train: Any) -> None:
    """Give metrics that count words over many texts (CIDEr) the references of the train split to count in."""
    for reward in rewards:
        metric: Any = getattr(reward, "metric", None)
        if hasattr(metric, "fit") and metric.columns[0] in train.column_names:
            metric.fit([as_list(row) for row in train[metric.columns[0]]])


def _compute(spec: Any, predictions: Sequence[str], columns: dict[str, list[Any]], result: SuiteResult) -> None:
    try:
        metric = get_metric(spec.name, **spec.options)
        metric.check(predictions, columns)
        if hasattr(metric, "fit"):
            # A table's document frequencies are those of the references it is about, for its rows as for their mean.
            metric.fit(columns[metric.columns[0]])
        scores = metric.score(predictions, **columns)
        result.metrics.update(_numbers(metric, scores, predictions, columns))
        result.rows[metric.name] = scores
    except UserError as error:
        result.unavailable[spec.name] = str(error)


def _numbers(
    metric: Metric, scores: list[float | None], predictions: Sequence[str], columns: dict[str, list[Any]]
) -> dict[str, float]:
    if type(metric).compute is not Metric.compute:
        return metric.compute(predictions, **columns)
    there = [score for score in scores if score is not None]
    # The mean is what `compute` would say after scoring everything a second time.
    return {metric.name: sum(there) / len(there)} if there else {}
