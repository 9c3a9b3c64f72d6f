"""What people said, as rows of a file: ratings of single completions, and choices among several."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.files import read_file
from ..errors import UserError
from . import argilla


@dataclass(frozen=True)
class Rating:
    """One person's rating of one completion by one criterion.

    Attributes:
        item (`str`): which completion; ratings of one completion have the same.
        prompt (`str`): which prompt; completions of several systems for one prompt have the same.
        annotator, system, criterion (`str`)
        value (`float`): on the criterion's scale, as of Likert.
        is_repeat (`bool`): the person had rated this completion before.
        gold (`float`, *optional*): what it should be, of completions that only check the people.
    """

    item: str
    prompt: str
    annotator: str
    system: str
    criterion: str
    value: float
    is_repeat: bool = False
    gold: float | None = None

    @property
    def about(self) -> tuple[str, str]:
        """Which completion: an item may be called like its prompt."""
        return self.item, self.system


@dataclass(frozen=True)
class Choice:
    """One person's choice among completions of one prompt.

    Attributes:
        item (`str`), prompt (`str`), annotator (`str`), criterion (`str`)
        systems (`tuple[str, ...]`): whose completions were shown, in the order of the data, not of the screen.
        choice (`int`, *optional*): the index of the chosen one; None for a tie.
        is_repeat (`bool`): the person had chosen here before.
        gold (`int`, *optional*): the right one, of questions that only check the people.
    """

    item: str
    prompt: str
    annotator: str
    systems: tuple[str, ...]
    choice: int | None
    criterion: str = "best"
    is_repeat: bool = False
    gold: int | None = None

    @property
    def about(self) -> str:
        """Which question."""
        return self.item


def read_judgements(path: Path) -> tuple[list[Rating], list[Choice]]:
    """Ratings and choices of a file.

    A rating has `item`, `annotator`, `system` and `rating`; a choice `item`, `annotator`, `systems` and `choice`.
    Optional columns are `prompt` (by default the item), `criterion`, `is_repeat` and `gold`.
    Records as Argilla exports them (`fields`, `responses`) are read as well.

    Raises:
        UserError: nothing in it, a row that is neither, or a value that cannot be; with the row.
    """
    ratings: list[Rating] = []
    choices: list[Choice] = []
    numbered = [(f"{path}, row {number}", row) for number, row in enumerate(read_file(path), 1)]
    rows = [
        (at, part) for at, row in numbered for part in (argilla.rows_of(row, at) if argilla.is_record(row) else [row])
    ]
    for at, cells in rows:
        row = {name: _from_text(name, value) for name, value in cells.items()}
        for column in ("item", "annotator"):
            if row.get(column) in (None, ""):
                raise UserError(f"{at} has no {column!r}.")
        if "rating" in row:
            ratings.append(_rating(row, at))
        elif "choice" in row:
            choices.append(_choice(row, at))
        else:
            raise UserError(f"{at} has neither 'rating' nor 'choice'; it has: {', '.join(row)}.")
    if not ratings and not choices:
        raise UserError(f"{path} has no judgements.")
    return ratings, choices


def _rating(row: dict[str, Any], at: str) -> Rating:
    if row.get("system") in (None, ""):
        raise UserError(f"{at} has no 'system': whose completion was rated.")
    return Rating(
        **_common(row, at),
        system=str(row["system"]),
        criterion=str(row.get("criterion") or "rating"),
        value=_number(row["rating"], at, "rating"),
        gold=None if row.get("gold") is None else _number(row["gold"], at, "gold"),
    )


def _choice(row: dict[str, Any], at: str) -> Choice:
    systems = row.get("systems")
    if not isinstance(systems, list) or len(systems) < 2:
        raise UserError(f"{at}: systems is {systems!r:.60}, but must be a list of two or more.")
    for name in ("choice", "gold"):
        index = row.get(name)
        is_index = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(systems)
        if index is not None and not is_index:
            raise UserError(f"{at}: {name} is {index!r}, but must be from 0 to {len(systems) - 1}, or null for a tie.")
    return Choice(
        **_common(row, at),
        systems=tuple(map(str, systems)),
        choice=row["choice"],
        criterion=str(row.get("criterion") or "best"),
        gold=row.get("gold"),
    )


def _common(row: dict[str, Any], at: str) -> dict[str, Any]:
    item = str(row["item"])
    return {
        "item": item,
        "prompt": item if row.get("prompt") is None else str(row["prompt"]),
        "annotator": str(row["annotator"]),
        "is_repeat": _flag(row.get("is_repeat"), at),
    }


def _from_text(name: str, value: Any) -> Any:
    """A cell of a CSV as JSON would have it."""
    if name not in ("choice", "gold", "systems") or not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError:
        return value


def _flag(value: Any, at: str) -> bool:
    words = {"": False, "false": False, "0": False, "true": True, "1": True}
    flag = words.get(str("" if value is None else value).strip().lower())
    if flag is None:
        raise UserError(f"{at}: is_repeat is {value!r}, but must be true or false.")
    return flag


def _number(value: Any, at: str, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise UserError(f"{at}: {name} is {value!r}, but must be a number.")
    return number


def criteria_of(judgements: Sequence[Rating] | Sequence[Choice]) -> list[str]:
    """In the order in which they occur."""
    return list(dict.fromkeys(judgement.criterion for judgement in judgements))
