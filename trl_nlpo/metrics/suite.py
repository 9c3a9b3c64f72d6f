"""A task's mix of metrics over given completions, and what metrics are given of a data set."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from .base import Direction, Metric
from .measuring import Measured, measure_all
from .score_cache import ScoreCache, cache_path
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
    """Compute each metric; one that cannot be, whatever it raises, does not stop the others.

    With several processes, all of them call this with the same arguments: each scores its share of the rows, tables
    that are more than a mean of scores are dealt out, and all get the whole result.

    Args:
        specs: what the recipe's `metrics` name ([`recipes.specs.RewardSpec`]: name and options; `label`, the name of
            its column, and `by`, a column for each of whose values there are numbers too, where they are).
        predictions (`Sequence[str]`): completions.
        columns (`dict[str, list]`): `prompts` and the columns of the data, one entry per prediction.

    A second metric of one name has its numbers as `<name>_2`, unless its spec has a `label`.
    """
    result = SuiteResult()
    cache = ScoreCache(cache_path())
    for place, spec in enumerate(_without_repetition(specs)):
        label = _free(getattr(spec, "label", None) or spec.name, {*result.rows, *result.unavailable})
        found = measure_all(spec, predictions, columns, cache, turn=place)
        if isinstance(found, str):
            result.unavailable[label] = found
        else:
            _add(spec, found, result)
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


def _add(spec: Any, found: Measured, result: SuiteResult) -> None:
    label = getattr(spec, "label", None)
    for name, number in found.numbers.items():
        free = _free(_relabelled(name, found.name, label), result.metrics)
        result.metrics[free] = number
        result.better[free] = found.better
    result.rows[_free(label or found.name, result.rows)] = found.scores


def _relabelled(name: str, metric: str, label: str | None) -> str:
    """A number's name where the recipe calls its metric otherwise: `bertscore_recall` as `mine` is `mine_recall`."""
    if label is None:
        return name
    return label + name.removeprefix(metric) if name == metric or name.startswith(f"{metric}_") else f"{label}_{name}"


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or the first of `<name>_2`, `<name>_3`, ... that is not taken."""
    if name not in taken:
        return name
    return next(other for number in itertools.count(2) if (other := f"{name}_{number}") not in taken)


def _without_repetition(specs: Sequence[Any]) -> list[Any]:
    """Specs without those that say the same as one before them."""
    kept: list[Any] = []
    for spec in specs:
        if spec not in kept:
            kept.append(spec)
    return kept
