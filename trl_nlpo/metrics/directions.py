"""Which way a column of a results table is better, by its name: for columns that no metric computed in this run."""

from __future__ import annotations

from .base import Direction
from .registry import metric_class, metric_names


_OF_EVALUATIONS: dict[str, Direction] = {"reward": "higher", "perplexity": "lower"}


def direction(column: str) -> Direction | None:
    """Which way a column is better, by its name alone; None where neither is, and where that is not known.

    Args:
        column (`str`): as evaluations name it: `reward`, `perplexity`, `rewards/<name>/mean` (a reward is higher for
            better text, whatever it is made from), `metrics/<number>` of a built-in metric, or any other.
    """
    if column.startswith("rewards/"):
        return "higher"
    if column.startswith("metrics/"):
        return _of_built_in(column.removeprefix("metrics/"))
    return _OF_EVALUATIONS.get(column)


def _of_built_in(number: str) -> Direction | None:
    """Of a number that the table of a built-in metric gives: `ter`, or `parent_recall` of `parent`."""
    known = metric_names()
    name = number if number in known else number.rpartition("_")[0]
    return metric_class(name).better if name in known else None
