"""One metric over all rows of a table, whatever it raises: rows are shared out over the processes of a run."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Terminated, UserError, one_line
from ..launch.processes import in_order, num_processes, of_all, process_index, share_of
from ..secrets import redacted
from .base import Direction, Metric, RowMetric, mean_score, require_column
from .registry import get_metric
from .score_cache import ScoreCache, measured


@dataclass(frozen=True)
class Measured:
    """What one metric says: its own name and direction, a score per row, and the numbers for the table."""

    name: str
    better: Direction | None
    scores: list[float | None]
    numbers: dict[str, float]


def measure_all(
    spec: Any, predictions: Sequence[str], columns: dict[str, list[Any]], cache: ScoreCache, turn: int
) -> Measured | str:
    """One metric over all rows, shared out over the processes; or, in a line, why there is none.

    Args:
        spec, predictions, columns: as for [`suite.compute_metrics`].
        cache ([`ScoreCache`])
        turn (`int`): says which process makes what cannot be shared out.
    """
    with _explaining() as problem:
        metric = get_metric(spec.name, **spec.options)
        metric.check(predictions, columns)
        if metric.fit_column is not None:
            # Word frequencies are counted in the table's own references, for rows and total.
            metric.fit(require_column(columns, metric.fit_column, f"metric {metric.name!r}"))
    if said := _said_by_any(problem):
        return said
    is_my_turn = turn % num_processes() == process_index()
    mine = share_of(len(predictions)) if _is_shared(metric) else range(len(predictions)) if is_my_turn else range(0)
    values: list[Any] = []
    with _explaining() as problem:
        part = {name: [rows[index] for index in mine] for name, rows in columns.items()}
        values = _values(metric, spec, [predictions[index] for index in mine], part, cache) if len(mine) else []
    if said := _said_by_any(problem):
        return said
    values = in_order(list(zip(mine, values, strict=True)))
    made: list[Measured] = []
    with _explaining() as problem:
        if is_my_turn:
            made = [_with_table(metric, spec, values, predictions, columns)]
    if said := _said_by_any(problem):
        return said
    return of_all(made)[0]


def _is_shared(metric: Metric) -> bool:
    return metric.rows_alone if isinstance(metric, RowMetric) else True


def _values(
    metric: Metric, spec: Any, predictions: Sequence[str], columns: dict[str, list[Any]], cache: ScoreCache
) -> list[Any]:
    """The measurement of every row, or its score where the metric has no measurements."""
    values: Sequence[Any]
    if isinstance(metric, RowMetric):
        values = measured(metric, spec.name, spec.options, predictions, columns, cache)
    else:
        values = metric.score(predictions, **columns)
    if not isinstance(values, (list, tuple)) or len(values) != len(predictions):
        number = len(values) if isinstance(values, (list, tuple)) else type(values).__name__
        raise UserError(f"metric {metric.name!r} returned {number} scores for {len(predictions)} predictions.")
    return list(values)


def _with_table(
    metric: Metric, spec: Any, values: list[Any], predictions: Sequence[str], columns: dict[str, list[Any]]
) -> Measured:
    if isinstance(metric, RowMetric):
        scores = [None if value is None else metric.score_of(value) for value in values]
    else:
        scores = values
    scores = [_number(score, metric.name) for score in scores]
    numbers = _table(metric, range(len(values)), scores, values, predictions, columns)
    for group, indices in _groups(getattr(spec, "by", None), columns).items():
        # A group without references, say, has no number; the others have theirs.
        with contextlib.suppress(UserError):
            of_group = _table(metric, indices, scores, values, predictions, columns)
            numbers |= {f"{name}_{group}": number for name, number in of_group.items()}
    return Measured(metric.name, metric.better, scores, numbers)


def _table(
    metric: Metric,
    indices: Sequence[int],
    scores: list[float | None],
    values: list[Any],
    predictions: Sequence[str],
    columns: dict[str, list[Any]],
) -> dict[str, float]:
    """The numbers of some of the rows; none where the metric applies to none of them."""
    known = [index for index in indices if scores[index] is not None]
    if isinstance(metric, RowMetric):
        numbers = metric.table_of([values[index] for index in known]) if known else {}
    elif metric.table_is_mean:
        mean = mean_score([scores[index] for index in known])
        numbers = {} if mean is None else {metric.name: mean}
    else:
        part = {name: [rows[index] for index in indices] for name, rows in columns.items()}
        numbers = metric.compute([predictions[index] for index in indices], **part)
    if not isinstance(numbers, dict):
        raise UserError(f"metric {metric.name!r}: compute returned {type(numbers).__name__}, not numbers by name.")
    return {
        str(name): number for name, value in numbers.items() if (number := _number(value, metric.name)) is not None
    }


def _number(value: Any, name: str) -> float | None:
    """A score as a float; None for one that is not there.

    Raises:
        UserError: it is no number, or NaN.
    """
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"metric {name!r} returned {value!r:.60}, which is no number.") from None
    if math.isnan(number):
        raise UserError(f"metric {name!r} returned NaN.")
    return number


def _groups(column: str | None, columns: dict[str, list[Any]]) -> dict[str, list[int]]:
    """The rows of each value of a column that has one; none where the data has no such column."""
    groups: dict[str, list[int]] = {}
    for index, value in enumerate(columns.get(column, []) if column is not None else []):
        if value is not None and value != "":
            groups.setdefault(str(value).replace("/", "_"), []).append(index)
    if len(groups) > _MOST_GROUPS:
        raise UserError(f"by: column {column!r} has {len(groups)} values, more than {_MOST_GROUPS}: name another.")
    return dict(sorted(groups.items()))


_MOST_GROUPS = 20


@contextlib.contextmanager
def _explaining() -> Iterator[list[str]]:
    """Gives a list to which is added, as one line, whatever is raised in the block; requests to stop pass."""
    problems: list[str] = []
    try:
        yield problems
    except UserError as error:
        problems.append(str(error))
    except (Terminated, KeyboardInterrupt):
        raise
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        problems.append(redacted(f"it raised {type(error).__name__}: {one_line(error, 300)} ({place})."))


def _said_by_any(problems: list[str]) -> str | None:
    """The first problem that one of the processes has."""
    return next(iter(of_all(problems)), None)
