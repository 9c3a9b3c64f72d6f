"""What every metric is: a score for each prediction, what a table says of all of them, and which way is better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from ..errors import UserError
from .pretrained import Pretrained


Direction = Literal["higher", "lower"]
"""Which way a number is better; None in its place: neither, as for lengths."""

Measurement = float | list[float]
"""What a [`RowMetric`] keeps of a row: JSON has it."""


class Metric(ABC):
    """A metric, from which a reward function ([`rewards.get_reward`]) and an `evaluate.Metric` ([`load`]) are made.

    Attributes:
        name (`str`): as recipes and tables call it.
        columns (`tuple[str, ...]`): columns of the data set that it cannot do without.
        better (`"higher"`, `"lower"` or `None`, defaults to `"higher"`): which of its numbers are better, for a text
            and in a table; None: neither, there is no contest. It holds for every number that [`compute`] gives.
        needs_model (`bool`, defaults to `False`): whether it reads texts with a pretrained model.
        fit_column (`str`, *optional*): the column whose rows [`fit`] is given before texts are scored; None: [`fit`]
            is not called.
    """

    name: str
    columns: tuple[str, ...] = ("references",)
    better: Direction | None = "higher"
    needs_model: bool = False
    fit_column: str | None = None

    @abstractmethod
    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        """One number per prediction, the best over its references; None where the metric does not apply to a row.

        Args:
            predictions (`Sequence[str]`)
            columns: at least [`columns`], one entry per prediction. A row's references are a list of texts, or one.
        """

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        """The numbers for a table, by name; by default the mean of the scores over the rows that have one.

        Raises:
            UserError: no row has a score.
        """
        mean = mean_score(self.score(predictions, **columns))
        if mean is None:
            raise UserError(f"metric {self.name!r} applies to no row: {' and '.join(self.columns)} are empty.")
        return {self.name: mean}

    @property
    def table_is_mean(self) -> bool:
        """Whether [`compute`] is the mean of the scores, so that known scores need not be computed again for it."""
        return type(self).compute is Metric.compute

    def fit(self, references: Sequence[Any]) -> None:  # noqa: B027 (a hook, not a duty)
        """Learn from many rows' references what scores depend on, such as how rare words are. Nothing by default.

        A metric that overrides this says in `fit_column` which column it wants: for rewards that of the train split,
        for a table that of the rows in the table.

        Args:
            references (`Sequence`): a row's references each: a list of texts, or one.
        """

    def load_models(self) -> None:
        """Load the pretrained models that it reads texts with now, instead of when they are first used.

        Raises:
            UserError: one cannot be loaded.
        """
        for value in vars(self).values():
            if isinstance(value, Pretrained):
                value.load()

    def as_reward(self, score: float) -> float:
        """A score as a reward: higher is better, on the metric's usual scale from 0 to 1 where it has one.

        By default the score, with its sign changed where lower is better.
        """
        return -score if self.better == "lower" else score

    def check(self, predictions: Any, columns: dict[str, Any]) -> None:
        """Raise a `UserError` unless there are predictions and, for each, an entry of every column that is needed."""
        if isinstance(predictions, str) or not isinstance(predictions, Sequence):
            raise UserError(f"metric {self.name!r}: predictions must be a list of texts, not {predictions!r:.60}.")
        if not predictions:
            raise UserError(f"metric {self.name!r}: predictions is empty, there is nothing to score.")
        for index, text in enumerate(predictions):
            if not isinstance(text, str):
                raise UserError(f"metric {self.name!r}: prediction {index} is {type(text).__name__}, not text.")
        for column in self.columns:
            rows = require_column(columns, column, f"metric {self.name!r}")
            if isinstance(rows, str):
                raise UserError(
                    f"metric {self.name!r}: {column} must be a list with one entry per prediction, not text."
                )
            if len(rows) != len(predictions):
                raise UserError(
                    f"metric {self.name!r}: {column} has {len(rows)} entries for {len(predictions)} predictions."
                )


class RowMetric(Metric):
    """A metric that measures every row by itself, and whose scores and table are made of the measurements alone.

    So rows can be shared out over processes, and what a model measured can be kept.

    Attributes:
        rows_alone (`bool`, defaults to `True`): False for an instance whose measurement of a row depends on the other
            rows it is given.
    """

    rows_alone: bool = True

    @abstractmethod
    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        """What is measured of each row: a number, or a list of numbers; None where the metric does not apply.

        Args:
            predictions (`Sequence[str]`)
            columns: as for [`score`].
        """

    def score_of(self, measurement: Any) -> float | None:
        """The score of a row from its measurement; by default the measurement, which is a number then."""
        return float(measurement)

    def table_of(self, measurements: Sequence[Any]) -> dict[str, float]:
        """The numbers for a table from the measurements of the rows that have one; by default the mean of the scores.

        Args:
            measurements (`Sequence`): one at least, and no None.
        """
        return {self.name: mean_score([self.score_of(measurement) for measurement in measurements]) or 0.0}

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        measured = self.measure(predictions, **columns)
        return [None if measurement is None else self.score_of(measurement) for measurement in measured]

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        known = [measurement for measurement in self.measure(predictions, **columns) if measurement is not None]
        if not known:
            raise UserError(f"metric {self.name!r} applies to no row: {self._what_is_empty()} are empty.")
        return self.table_of(known)

    def _what_is_empty(self) -> str:
        return " and ".join(self.columns) or "the texts"


def require_column(columns: dict[str, Any], column: str, who: str) -> Any:
    """A column that a metric or reward cannot do without.

    Raises:
        UserError: the data set has no such column; the message lists those it has.
    """
    if columns.get(column) is None:
        have = ", ".join(name for name, values in sorted(columns.items()) if isinstance(values, list)) or "none"
        raise UserError(f"{who} needs a column {column!r} in the data set; it has: {have}.")
    return columns[column]


def as_list(value: Any) -> list[str]:
    """Several texts, however the row holds them: a list, one string, or nothing."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]


def mean_score(scores: Sequence[float | None]) -> float | None:
    """The mean over the rows that have a score; None where none has."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def best_over_references(score: Any, prediction: str, references: Any) -> float | None:
    """The highest `score(prediction, reference)` over a row's references; None when it has none."""
    return max((score(prediction, reference) for reference in as_list(references)), default=None)
