"""Every question and every answer of a run, in one SQLite file that only grows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..storage.append_only import AppendOnlyFile


_TABLES = {
    "items": "round INTEGER NOT NULL, position INTEGER NOT NULL, policy_update INTEGER NOT NULL, "
    "prompt TEXT NOT NULL, completions TEXT NOT NULL, columns TEXT NOT NULL, UNIQUE (round, position)",
    "judgements": "item INTEGER NOT NULL REFERENCES items (id), annotator TEXT NOT NULL, choice INTEGER NOT NULL, "
    "made REAL NOT NULL, UNIQUE (item, annotator)",
}


@dataclass(frozen=True)
class Item:
    """A question: which of these completions is best?

    Attributes:
        id (`int`): in the file.
        round (`int`): from 0; round 0 is before the first update.
        policy_update (`int`): updates that the policy had seen when it wrote the completions.
        prompt: text or messages.
        completions (`tuple`): k texts or messages.
        columns (`dict`): what else the data says of the prompt, such as references.
    """

    id: int
    round: int
    policy_update: int
    prompt: Any
    completions: tuple[Any, ...]
    columns: dict[str, Any]


class Labels:
    """The file of a run's questions and answers.

    One row is written per judgement, in a transaction of its own, so what was answered is kept whatever happens to the
    process; the file itself refuses to change or delete a row. Several processes may read and write.

    Args:
        path (`str` or `Path`): made if it is not there.

    Raises:
        UserError: the file is no such file, or cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = AppendOnlyFile(self.path, _TABLES)

    def add_items(self, round_number: int, policy_update: int, rows: Sequence[dict[str, Any]]) -> None:
        """Add all questions of a round, or none of them.

        Args:
            round_number (`int`), policy_update (`int`)
            rows: each with `prompt`, `completions` and `columns`; JSON.
        """
        values = [
            (
                round_number,
                position,
                policy_update,
                *(_json(row[name]) for name in ("prompt", "completions", "columns")),
            )
            for position, row in enumerate(rows)
        ]
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT INTO items (round, position, policy_update, prompt, completions, columns) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

    def items(self, round_number: int | None = None) -> list[Item]:
        """Questions in the order in which they were asked, of one round or of all."""
        where, values = ("", ()) if round_number is None else ("WHERE round = ?", (round_number,))
        with self._file.transaction() as connection:
            found = connection.execute(
                f"SELECT id, round, policy_update, prompt, completions, columns FROM items {where} ORDER BY id", values
            ).fetchall()
        return [
            Item(key, number, update, json.loads(prompt), tuple(json.loads(completions)), json.loads(columns))
            for key, number, update, prompt, completions, columns in found
        ]

    def add(self, item: Item, annotator: str, choice: int) -> None:
        """Write down an answer. A second one of the same annotator to the same question is not taken.

        Raises:
            UserError: a choice that is none of the completions.
        """
        if isinstance(choice, bool) or not isinstance(choice, int) or not 0 <= choice < len(item.completions):
            raise UserError(
                f"the choice for item {item.id} is {choice!r}, but must be a whole number from 0 to "
                f"{len(item.completions) - 1}."
            )
        with self._file.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO judgements (item, annotator, choice, made) VALUES (?, ?, ?, ?)",
                (item.id, annotator, choice, time.time()),
            )

    def choices(self, up_to_round: int | None = None) -> list[tuple[Item, str, int]]:
        """Every answer: the question, the annotator and the choice, in the order of the questions."""
        by_id = {item.id: item for item in self.items() if up_to_round is None or item.round <= up_to_round}
        with self._file.transaction() as connection:
            found = connection.execute(
                "SELECT item, annotator, choice FROM judgements ORDER BY item, annotator"
            ).fetchall()
        return [(by_id[key], annotator, choice) for key, annotator, choice in found if key in by_id]

    def unanswered(self, round_number: int) -> list[Item]:
        """Questions of a round without an answer."""
        answered = {item.id for item, _, _ in self.choices()}
        return [item for item in self.items(round_number) if item.id not in answered]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
