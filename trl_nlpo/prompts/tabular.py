"""Data sets of every kind as rows that can be counted and looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .tokenized import as_list


PROMPT_COLUMNS = ("prompt", "input_ids")


def as_rows(dataset: Any, name: str) -> Any:
    """A data set with a length, whose items are mappings of column names to values.

    A data frame (pandas, Polars), a table (pyarrow) or a mapping of columns becomes a list of rows, in which missing
    values are None; what has rows already stays as it is.

    Args:
        dataset: what a user handed over.
        name (`str`): of the argument, for messages.

    Raises:
        UserError: a name, a stream, or something else without rows.
    """
    if isinstance(dataset, (str, bytes)) or hasattr(dataset, "__fspath__"):
        raise UserError(f"{name} is {str(dataset)!r:.60}: load it first, with datasets.load_dataset for example.")
    if hasattr(dataset, "iloc"):
        return _rows_of_pandas(dataset)
    for convert in ("to_dicts", "to_pylist"):
        if hasattr(dataset, convert):
            return getattr(dataset, convert)()
    if is_columns(dataset):
        return _rows_of_columns(dataset, name)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UserError(
            f"{name} has no length ({type(dataset).__name__}, a stream): load it without streaming, or take the rows "
            f"that a run needs, with {name}=list(itertools.islice(stream, 10_000))."
        )
    return dataset


def is_columns(dataset: Any) -> bool:
    """Whether this is one data set as a mapping of columns, and not a mapping of several data sets by their names."""
    return isinstance(dataset, Mapping) and any(column in dataset for column in PROMPT_COLUMNS)


def check_row(row: Any, where: str) -> None:
    """Raise a `UserError` for an item of a data set that has no columns."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where} is {type(row).__name__}, not a mapping: write {{'prompt': ...}}.")


def _rows_of_pandas(frame: Any) -> list[dict[str, Any]]:
    if not hasattr(frame, "columns"):
        # A series: values without names of columns, which `check_row` refuses.
        return list(frame)
    frame = frame.astype(object)
    records = frame.where(frame.notna(), None).to_dict("records")
    return [{str(column): value for column, value in record.items()} for record in records]


def _rows_of_columns(columns: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    values = {column: as_list(entries) for column, entries in columns.items()}
    sizes = {column: len(entries) if hasattr(entries, "__len__") else None for column, entries in values.items()}
    if any(isinstance(entries, str) for entries in values.values()) or len(set(sizes.values())) > 1:
        found = ", ".join(f"{column}: {size}" for column, size in sizes.items())
        raise UserError(f"{name} is a mapping of columns of unequal length ({found}): give a list for each.")
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
