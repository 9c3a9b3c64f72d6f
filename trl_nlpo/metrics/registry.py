"""Metrics by name: the built-in ones and any subclass of [`Metric`] by its dotted path."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..naming import check_attribute, check_options, did_you_mean, import_attribute, instantiate, require_package
from .base import Metric


# Dotted paths, so that naming one metric imports no other, nor the package it may need.
_METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "concept_coverage": ("concepts.ConceptCoverage", {}),
    "rouge": ("rouge.AllRouge", {}),
    "rouge1": ("rouge.Rouge", {"kind": "rouge1"}),
    "rouge2": ("rouge.Rouge", {"kind": "rouge2"}),
    "rougeL": ("rouge.Rouge", {"kind": "rougeL"}),
    "rougeLsum": ("rouge.Rouge", {"kind": "rougeLsum"}),
    "bleu": ("bleu.Bleu", {"name": "bleu"}),
    "bleu3": ("bleu.Bleu", {"name": "bleu3", "max_order": 3}),
    "bleu4": ("bleu.Bleu", {"name": "bleu4", "max_order": 4}),
    "sacrebleu": ("bleu.SacreBleu", {}),
    "chrf": ("chrf.Chrf", {"name": "chrf"}),
    "chrf++": ("chrf.Chrf", {"name": "chrf++", "word_order": 2}),
    "ter": ("ter.Ter", {}),
    "meteor": ("meteor.Meteor", {}),
    "cider": ("cider.Cider", {}),
    "spice": ("spice.Spice", {}),
    "parent": ("parent.Parent", {}),
    # Naturalness.
    "diversity": ("diversity.Diversity", {}),
    "distinct1": ("diversity.NgramStatistic", {"kind": "distinct", "n": 1}),
    "distinct2": ("diversity.NgramStatistic", {"kind": "distinct", "n": 2}),
    "entropy1": ("diversity.NgramStatistic", {"kind": "entropy", "n": 1}),
    "entropy2": ("diversity.NgramStatistic", {"kind": "entropy", "n": 2}),
    "mean_length": ("diversity.MeanLength", {}),
    "msttr": ("diversity.MSTTR", {}),
    "unique1": ("diversity.NgramStatistic", {"kind": "unique", "n": 1}),
    "unique2": ("diversity.NgramStatistic", {"kind": "unique", "n": 2}),
    # Models.
    "bertscore": ("bertscore.BertScore", {}),
    "bleurt": ("bleurt.Bleurt", {}),
    "classifier": ("classifier.Classifier", {}),
    "intent": ("intent.Intent", {}),
    "perplexity": ("perplexity.Perplexity", {}),
    "preference": ("classifier.Preference", {}),
    "summac": ("summac.SummaC", {}),
}


def metric_names() -> list[str]:
    """Names that [`get_metric`] and [`load`] know, sorted."""
    return sorted(_METRICS)


def metric_class(name: str) -> type[Metric]:
    """The class of a metric, without making one: what it says of all its instances (`better`, `needs_model`).

    Args:
        name (`str`): one of `metric_names()`, or `my_module.MyMetric`.

    Raises:
        UserError: nothing of that name, or no metric.
    """
    if name in _METRICS:
        return import_attribute(f"{__package__}.{_METRICS[name][0]}", f"metric {name!r}")
    if "." not in name:
        hint = did_you_mean(name, _METRICS) or "."
        raise UserError(
            f"unknown metric {name!r}{hint} Take one of {', '.join(metric_names())}, or the "
            "dotted path of a subclass of trl_nlpo.metrics.base.Metric."
        )
    found = import_attribute(name, f"metric {name!r}")
    if not (isinstance(found, type) and issubclass(found, Metric)):
        raise UserError(f"metric {name!r} is no subclass of trl_nlpo.metrics.base.Metric.")
    return found


def fixed_options(name: str) -> dict[str, Any]:
    """The options that a built-in metric's name decides: of `bleu3`, the n-grams' length. Nothing for others."""
    return dict(_METRICS.get(name, ("", {}))[1])


def get_metric(name: str, **options: Any) -> Metric:
    """A metric by its name or by the dotted path of a subclass of [`metrics.base.Metric`].

    Args:
        name (`str`): one of `metric_names()`, or `my_module.MyMetric`.
        options: arguments of its class.

    Raises:
        UserError: nothing of that name, no such option, or a package or model that is not there.
    """
    return instantiate(metric_class(name), name, options, fixed_options(name), "metric")


def check_metric(name: str, options: dict[str, Any]) -> None:
    """Check name and options as far as that can be done without making the metric or importing a user's module.

    Raises:
        UserError: nothing of that name, or no such option.
    """
    if "." in name and name not in _METRICS:
        check_attribute(name, f"metric {name!r}")
        return
    check_options(metric_class(name), name, options, fixed_options(name), "metric")


def load(name: str, **options: Any) -> Any:
    """A metric as an `evaluate.Metric`, for `compute`, `add_batch` and `evaluate.combine`.

    Args:
        name, options: as for [`get_metric`].

    Raises:
        UserError: as [`get_metric`], or the package `evaluate` is missing.

    Example:
        >>> load("rouge1").compute(predictions=["a cat sat"], references=[["the cat sat", "a dog"]])
        {'rouge1': 0.6666666666666666}
    """
    require_package("evaluate", "metrics.load")
    from .evaluate_module import EvaluateModule

    return EvaluateModule(get_metric(name, **options))
