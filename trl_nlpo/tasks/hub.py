"""Rows of a task from its data set on the Hub."""

from __future__ import annotations

from ..errors import UserError, one_line
from .base import Portion, Row, Task


def rows_from_hub(task: Task, split: str) -> list[Row]:
    """Rows of a split (`train`, `validation` or `test`) of a task.

    Raises:
        UserError: the task has no data on the Hub, or the Hub cannot be reached, or has other columns or another
            number of rows than expected.
    """
    if task.hub is None:
        raise UserError(f"task {task.name!r} has no data on the Hub: set dataset_name to a file or folder.")
    from datasets import load_dataset

    portion = task.hub.splits[split]
    try:
        loaded = load_dataset(task.hub.path, split=portion.split, **task.hub.options)
    except Exception as error:
        # The Hub's client raises many errors (offline, gated, moved), all of them about the data.
        raise UserError(
            f"the data of task {task.name!r} ({task.hub.path}) could not be loaded from the Hub: "
            f"{one_line(error, 300)} Set dataset_name to a folder with {task.files}_train.jsonl, or to "
            "'miniature' for generated rows."
        ) from error
    _check_number(task, portion.split, len(loaded))
    if task.hub.shuffle_seed is not None:
        loaded = loaded.shuffle(seed=task.hub.shuffle_seed)
    try:
        return _portion(list(task.rows(loaded)), portion)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{task.hub.path} has other columns than task {task.name!r} expects ({error} is not there): it has "
            f"{', '.join(loaded.column_names)}."
        ) from error


def _check_number(task: Task, split: str, number: int) -> None:
    """Refuse a split that is not the one that the task was made for: other rows make other figures."""
    assert task.hub is not None
    expected = task.hub.rows.get(split, number)
    if number != expected:
        revision = task.hub.options.get("revision", "main")
        raise UserError(
            f"{task.hub.path} at revision {revision} has {number} rows in its split {split!r}, where task "
            f"{task.name!r} expects {expected}: the data has changed, and figures would not "
            "compare. Give the rows that you mean as dataset_name, a file or folder."
        )


def _portion(rows: list[Row], portion: Portion) -> list[Row]:
    return rows[round(len(rows) * portion.start) : round(len(rows) * portion.end)]
