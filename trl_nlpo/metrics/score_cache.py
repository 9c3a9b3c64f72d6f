"""Scores that a model gave to a text, kept on disk, so that scoring a table again does not read the texts again.

A score depends on the metric with its options, on the model's weights, and on what of the row the metric reads; the
file holds hashes of these and numbers, and no text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__
from .base import Measurement, RowMetric
from .pretrained import Pretrained


VARIABLE = "TRL_NLPO_SCORE_CACHE"
"""Environment variable: the file, or `0` for none."""

_MOST_ROWS = 2_000_000
"""Rows that the file keeps, some 200 MB; those that were used longest ago go first."""

T = TypeVar("T")

_BUSY_SECONDS = 30.0
_TOGETHER = 500
"""Keys that are looked up in one query; SQLite has a limit."""


def cache_path() -> Path | None:
    """The file: what the variable says, or `trl-nlpo/scores.sqlite` in the user's cache folder; None for none."""
    given = os.environ.get(VARIABLE, "").strip()
    if given in ("0", "false", "no"):
        return None
    if given:
        return Path(given).expanduser()
    root = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    return Path(root).expanduser() / "trl-nlpo" / "scores.sqlite"


class ScoreCache:
    """Measurements by key. A file that cannot be read or written is as good as none: it is only a cache.

    Args:
        path (`Path`, *optional*): None keeps nothing.
        most_rows (`int`): rows that the file keeps.
    """

    def __init__(self, path: Path | None, most_rows: int = _MOST_ROWS):
        self.path, self.most_rows = path, most_rows

    def find(self, keys: Sequence[str]) -> dict[str, Measurement | None]:
        """What is known of these keys."""

        def look_up(connection: sqlite3.Connection) -> dict[str, Measurement | None]:
            found: dict[str, Measurement | None] = {}
            for start in range(0, len(keys), _TOGETHER):
                part = list(keys[start : start + _TOGETHER])
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT key, value FROM scores WHERE key IN ({marks})", part)
                found |= {key: json.loads(value) for key, value in rows}
                connection.execute(f"UPDATE scores SET used = ? WHERE key IN ({marks})", [time.time(), *part])
            return found

        return self._do(look_up, {})

    def keep(self, measurements: dict[str, Measurement | None]) -> None:
        """Add measurements, and drop what was used longest ago where there are too many."""

        def add(connection: sqlite3.Connection) -> None:
            rows = [(key, json.dumps(value), time.time()) for key, value in measurements.items()]
            connection.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)
            (number,) = connection.execute("SELECT COUNT(*) FROM scores").fetchone()
            connection.execute(
                "DELETE FROM scores WHERE key IN (SELECT key FROM scores ORDER BY used LIMIT ?)",
                [max(number - self.most_rows, 0)],
            )

        if measurements:
            self._do(add, None)

    def _do(self, action: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What an action in a transaction returns; `otherwise` where the file cannot be used."""
        if self.path is None:
            return otherwise
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, value TEXT, used REAL)")
                return action(connection)
        except (sqlite3.Error, OSError, ValueError):
            return otherwise


def measured(
    metric: RowMetric,
    name: str,
    options: dict[str, Any],
    predictions: Sequence[str],
    columns: dict[str, list[Any]],
    cache: ScoreCache,
) -> list[Measurement | None]:
    """What [`RowMetric.measure`] gives, from the cache where a model that is known by its files has measured before.

    Args:
        metric ([`RowMetric`]): made of `name` and `options`.
        predictions (`Sequence[str]`), columns (`dict`): as the metric takes them.
        cache ([`ScoreCache`])
    """
    keys = _keys(metric, name, options, predictions, columns)
    if keys is None:
        return metric.measure(predictions, **columns)
    found = cache.find(list(dict.fromkeys(keys)))
    missing = [index for index, key in enumerate(keys) if key not in found]
    if missing:
        part = {column: [values[index] for index in missing] for column, values in columns.items()}
        new = metric.measure([predictions[index] for index in missing], **part)
        added = {keys[index]: value for index, value in zip(missing, new, strict=True)}
        cache.keep(added)
        found |= added
    return [found[key] for key in keys]


def _keys(
    metric: RowMetric, name: str, options: dict[str, Any], predictions: Sequence[str], columns: dict[str, list[Any]]
) -> list[str] | None:
    """A key for each row; None where no model measures, or one that was handed over loaded, or by the other rows."""
    models = [value.identity() for value in vars(metric).values() if isinstance(value, Pretrained)]
    if not models or None in models or not metric.rows_alone:
        return None
    try:
        who = json.dumps([__version__, name, options, models], sort_keys=True)
        rows = [
            json.dumps([text, *(columns[column][index] for column in metric.columns)], sort_keys=True)
            for index, text in enumerate(predictions)
        ]
    except (TypeError, ValueError):
        return None
    return [hashlib.sha256(f"{who}\n{row}".encode("utf-8", "surrogatepass")).hexdigest() for row in rows]
