"""A task's mix of metrics over given completions, and what metrics are given of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from .base import Direction, Metric, mean_score, require_column
from .registry import get_metric
from .texts import completion_text


@dataclass(frozen=True)
class SuiteResult:
    """What a mix of metrics says.

    Attributes:
        metrics (`dict[str, float]`): every number of every metric, by name.
        rows (`dict[str, list]`): each metric's score of every single prediction; None where it does not apply.
        better (`dict[str, str | None]`): of each of `metrics`, whether `"higher"` or `"lower"` is better; None:
            neither.
        unavailable (`dict[str, str]`): metrics that could not be computed, and why.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    rows: dict[str, list[float | None]] = field(default_factory=dict)
    better: dict[str, Direction | None] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgedSamples:
    """What a mix of metrics says of the samples of an evaluation.

    Attributes:
        metrics (`dict[str, float]`): the numbers as `metrics/<name>`.
        samples (`list[dict]`): the samples, each with its `metrics`.
        better, unavailable: as in [`SuiteResult`]; `better` by the names of `metrics` here.
    """

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    better: dict[str, Direction | None]
    unavailable: dict[str, str]


def compute_metrics(specs: Sequence[Any], predictions: Sequence[str], columns: dict[str, list[Any]]) -> SuiteResult:
    """Compute each metric; one that cannot be (a package, model or column is missing) does not stop the others.

    Args:
        specs: what the recipe's `metrics` name ([`recipes.specs.RewardSpec`]: name and options).
        predictions (`Sequence[str]`): completions.
        columns (`dict[str, list]`): `prompts` and the columns of the data, one entry per prediction.
    """
    result = SuiteResult()
    for spec in specs:
        _add(spec, predictions, columns, result)
    return result


def judge_samples(specs: Sequence[Any], samples: list[dict[str, Any]], rows: Any) -> JudgedSamples:
    """The mix of metrics over the samples of an evaluation.

    Args:
        specs: as for [`compute_metrics`].
        samples (`list[dict]`): a row per prompt with its `completion`.
        rows: the data set that they are about, in the same order.
    """
    texts = [completion_text(sample["completion"]) for sample in samples]
    suite = compute_metrics(specs, texts, metric_columns(rows))
    scored = [
        {**sample, "metrics": {name: scores[index] for name, scores in suite.rows.items()}} if suite.rows else sample
        for index, sample in enumerate(samples)
    ]
    return JudgedSamples(
        {f"metrics/{name}": value for name, value in suite.metrics.items()},
        scored,
        {f"metrics/{name}": better for name, better in suite.better.items()},
        suite.unavailable,
    )


def metric_columns(rows: Any) -> dict[str, list[Any]]:
    """The columns of a data set as metrics and rewards see them; prompts are `prompts`."""
    return {("prompts" if name == "prompt" else name): list(rows[name]) for name in rows.column_names}


def fit_rewards(rewards: Sequence[Any], train: Any) -> None:
    """Fit the metrics among the rewards that ask for it (CIDEr) to the references of the train split."""
    for reward in rewards:
        metric = getattr(reward, "metric", None)
        if isinstance(metric, Metric) and metric.fit_column in train.column_names:
            metric.fit(list(train[metric.fit_column]))


def _add(spec: Any, predictions: Sequence[str], columns: dict[str, list[Any]], result: SuiteResult) -> None:
    try:
        metric = get_metric(spec.name, **spec.options)
        scores, numbers = _compute(metric, predictions, columns)
    except UserError as error:
        result.unavailable[spec.name] = str(error)
        return
    result.metrics.update(numbers)
    result.better.update(dict.fromkeys(numbers, metric.better))
    result.rows[metric.name] = scores


def _compute(
    metric: Metric, predictions: Sequence[str], columns: dict[str, list[Any]]
) -> tuple[list[float | None], dict[str, float]]:
    """The score of every prediction, and the numbers for a table."""
    metric.check(predictions, columns)
    if metric.fit_column is not None:
        # Word frequencies are counted in the table's own references, for rows and total.
        metric.fit(require_column(columns, metric.fit_column, f"metric {metric.name!r}"))
    scores = metric.score(predictions, **columns)
    if not metric.table_is_mean:
        return scores, metric.compute(predictions, **columns)
    mean = mean_score(scores)
    return scores, {} if mean is None else {metric.name: mean}
