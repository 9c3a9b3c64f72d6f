"""A metric as a reward function."""

from __future__ import annotations

from typing import Any

from ..metrics.base import Metric, require_column
from ..metrics.texts import completion_text


class MetricReward:
    """A reward function with TRL's signature around a [`Metric`]: one float per completion, higher is better.

    Args:
        metric ([`Metric`])
        name (`str`, *optional*): how logs call it; by default the metric's name.

    None ("does not apply") for a row that the metric does not apply to.
    """

    def __init__(self, metric: Metric, name: str | None = None):
        self.metric = metric
        self.__name__ = name or metric.name

    def load_models(self) -> None:
        """Load the metric's models now: a reward's time (`reward_timeout`) does not include loading."""
        self.metric.load_models()

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        for column in self.metric.columns:
            require_column(columns, column, f"reward {self.__name__!r}")
        texts = [completion_text(completion) for completion in completions]
        if not texts:
            return []
        self.metric.check(texts, columns)
        scores = self.metric.score(texts, **columns)
        return [None if score is None else self.metric.as_reward(score) for score in scores]
