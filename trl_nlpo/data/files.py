"""Local data files: which file has which split, and rows of JSON Lines, JSON, CSV and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..errors import UserError, one_line
from ..storage.json_lines import read_json_lines


ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
LONGEST_CSV_FIELD = 2**31 - 1
"""Characters of a field; Python's own limit is 131,072, and this is the largest that every platform takes."""


def read_rows(path: Path, split: str, prefix: str | None = None) -> list[dict[str, Any]]:
    """Rows of a split of a folder, as they are; none if it has no such split. A file is the train split.

    Raises:
        UserError: nothing there, or not readable.
    """
    if path.is_file():
        return list(read_file(path)) if split == "train" else []
    if not path.is_dir():
        raise UserError(f"{path} is not there (looked in {Path.cwd()}).")
    found = file_of_split(path, split, prefix)
    return [] if found is None else list(read_file(found))


def file_of_split(folder: Path, split: str, prefix: str | None) -> Path | None:
    """The file of a split: `<prefix>_<split>.<ending>`, `<split>.<ending>`, or without a prefix the only `*_<split>`.

    Raises:
        UserError: without a prefix, several files are of this split.
    """
    stems = [f"{prefix}_{split}", split] if prefix else [split]
    for stem in stems:
        for ending in ENDINGS:
            if (folder / (stem + ending)).is_file():
                return folder / (stem + ending)
    if prefix:
        return None
    matches = sorted(path for ending in ENDINGS for path in folder.glob(f"*_{split}{ending}"))
    if len(matches) > 1:
        prefixes = ", ".join(path.stem.removesuffix(f"_{split}") for path in matches)
        raise UserError(f"{folder} has several data sets: set dataset_config to one of {prefixes}.")
    return matches[0] if matches else None


def read_file(path: Path) -> list[dict[str, Any]] | Dataset:
    """Rows of a file (`.jsonl`, `.json`, `.csv` or `.parquet`), as a list or a `Dataset`.

    Raises:
        UserError: not there, or not readable; the message names the line.
    """
    try:
        if path.suffix == ".parquet":
            return _parquet_rows(path)
        if path.suffix == ".csv":
            return _csv_rows(path)
        return list(_json_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not readable: {one_line(error)}.") from None


def _parquet_rows(path: Path) -> Dataset:
    try:
        return Dataset.from_parquet(str(path))
    except Exception as error:
        # A damaged file raises errors of pyarrow, of the operating system or of `datasets`.
        raise UserError(f"{path} is not readable as Parquet: {one_line(error, 300)}") from error


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    limit = csv.field_size_limit(LONGEST_CSV_FIELD)
    try:
        # Excel writes a byte order mark, which is not part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_checked_csv_rows(csv.DictReader(file), path))
    finally:
        # It is the process's, not the reader's.
        csv.field_size_limit(limit)


def _checked_csv_rows(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, Any]]:
    for row in reader:
        if None in row:
            raise UserError(
                f"{path}, line {reader.line_num}: the row has more fields than the header's {len(row) - 1}: put "
                "quotes around fields with commas."
            )
        yield row


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON Lines file, or of one JSON list."""
    with path.open(encoding="utf-8-sig") as file:
        is_list = path.suffix == ".json" and file.read(1000).lstrip().startswith("[")
    for number, value in _json_list(path) if is_list else read_json_lines(path):
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: a row must be a JSON object, not {type(row).__name__}.")
            yield row


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        yield 1, json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
