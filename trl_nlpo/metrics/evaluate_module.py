"""A metric in the shape of Hugging Face's `evaluate`."""

from __future__ import annotations

from typing import Any

import evaluate
from datasets import Features, Sequence, Value

from .base import Metric


class EvaluateModule(evaluate.Metric):
    """An `evaluate.Metric` around a [`Metric`]. Other columns than predictions and references are passed to `compute`.

    Args:
        metric ([`Metric`])
        kwargs: those of `evaluate.Metric`.
    """

    def __init__(self, metric: Metric, **kwargs: Any):
        self.metric = metric
        super().__init__(config_name=metric.name, **{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        texts = {"predictions": Value("string")}
        features = [Features(texts)]
        if "references" in self.metric.columns:
            # A row's references may be a list of texts or one.
            features = [
                Features({**texts, "references": Sequence(Value("string"))}),
                Features({**texts, "references": Value("string")}),
            ]
        return evaluate.MetricInfo(
            module_name=self.metric.name,
            description=type(self.metric).__doc__ or "",
            citation="",
            inputs_description="predictions, " + ", ".join(self.metric.columns),
            features=features if len(features) > 1 else features[0],
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> dict[str, Any] | None:
        """The metric's numbers by name, of what is given and what was added before.

        Raises:
            UserError: nothing to score, a column is missing or of another length.
        """
        if predictions is not None:
            given = {**columns, "references": references} if references is not None else columns
            self.metric.check(predictions, given)
        if references is not None and "references" in self.metric.columns:
            columns["references"] = references
        return super().compute(predictions=predictions, **columns)

    def _compute(self, *, predictions: Any, **columns: Any) -> dict[str, float]:
        return self.metric.compute(predictions, **columns)
