"""Rows of preference data as choices among completions, whatever their format."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Comparison:
    """Completions of one prompt, and which of them was chosen.

    Attributes:
        prompt (`str` or `list[dict]`): text or messages; empty where the completions have it in them.
        completions (`tuple`): two or more; texts, or lists of messages.
        choice (`int`): the index of the chosen one.
        row (`int`): of the data; one row with a ranking or ratings gives several comparisons.
        group (`str`): what comparisons of one prompt share, where the prompt is in the completions; empty: the prompt.
    """

    prompt: Any
    completions: tuple[Any, ...]
    choice: int
    row: int
    group: str = ""


def kind_of(rows: Sequence[dict[str, Any]], where: str) -> str:
    """The format of rows, by their columns: `pairs`, `choices`, `rankings` or `ratings`.

    Raises:
        UserError: the columns are of none.
    """
    columns = set(rows[0]) if rows else set()
    for kind, needed in COLUMNS.items():
        if needed <= columns:
            return kind
    formats = "; ".join(f"{kind}: {', '.join(sorted(needed))}" for kind, needed in COLUMNS.items())
    raise UserError(
        f"{where} has the columns {', '.join(sorted(columns)) or 'none'}, which are no preferences. Known formats: "
        f"{formats} (and prompt); labels: set kind to labels."
    )


def comparisons_of(rows: Sequence[dict[str, Any]], kind: str, where: str) -> list[Comparison]:
    """Every choice that rows tell of.

    Args:
        rows: of one format.
        kind (`str`): `pairs` (`chosen`, `rejected`, and `prompt` unless they have it in them: TRL's preference format,
            texts or messages); `choices` (`prompt`, `completions`, `choice`: an index from 0); `rankings` (`ranking`:
            indices, the best first; each but the last is chosen among itself and those after it, as in Plackett and
            Luce's model); `ratings` (`ratings`: a number per completion; every two that differ are a pair).
        where (`str`): how messages call the data.

    Raises:
        UserError: a column that is missing, fewer than two completions, a choice that is none of them, a ranking that
            is no order of them, ratings that are no numbers, completions that are all equal; with the row.
    """
    needed = COLUMNS[kind]
    found: list[Comparison] = []
    for index, row in enumerate(rows):
        at = f"{where}, row {index + 1}"
        missing = sorted(column for column in needed if row.get(column) is None)
        if missing:
            raise UserError(f"{at} has no {missing[0]!r}; {kind} need {', '.join(sorted(needed))}.")
        choices = _READERS[kind](row, at)
        prompt = _prompt(row.get("prompt"), [text for completions, _ in choices for text in completions], at)
        group = "" if prompt else _group(row, kind)
        found += [Comparison(prompt, *choice, index, group) for choice in choices]
    if rows and not found:
        raise UserError(f"{where}: no row prefers one completion to another.")
    return found


_Choice = tuple[tuple[Any, ...], int]


def _prompt(prompt: Any, completions: Sequence[Any], at: str) -> Any:
    """The prompt as the completions have theirs; empty where they begin with it."""
    if not prompt or not completions or isinstance(prompt, str) == isinstance(completions[0], str):
        return prompt or ""
    if isinstance(prompt, str) and all(messages and messages[0].get("content") == prompt for messages in completions):
        return ""
    kinds = ("text", "messages") if isinstance(prompt, str) else ("messages", "texts")
    raise UserError(f"{at}: the prompt is {kinds[0]}, but completions are {kinds[1]}: give both in the same way.")


def _group(row: dict[str, Any], kind: str) -> str:
    """Of a row without a prompt what its completions begin with, or all of them where that is nothing."""
    if kind != "pairs":
        return json.dumps(row["completions"])
    chosen, rejected = row["chosen"], row["rejected"]
    equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    return json.dumps([first for first, _ in equal] or [chosen, rejected])


def _of_pair(row: dict[str, Any], at: str) -> list[_Choice]:
    pair = (row["chosen"], row["rejected"])
    if type(pair[0]) is not type(pair[1]):
        raise UserError(f"{at}: chosen and rejected must both be texts or both be messages.")
    return [(pair, 0)]


def _of_choice(row: dict[str, Any], at: str) -> list[_Choice]:
    completions, choice = _completions(row, at), row["choice"]
    if not _is_index(choice, completions):
        raise UserError(f"{at}: choice is {choice!r}, but must be a whole number from 0 to {len(completions) - 1}.")
    return [(completions, int(choice))]


def _of_ranking(row: dict[str, Any], at: str) -> list[_Choice]:
    completions, ranking = _completions(row, at), row["ranking"]
    is_order = isinstance(ranking, list) and all(_is_index(index, completions) for index in ranking)
    if not is_order or sorted(ranking) != list(range(len(completions))):
        raise UserError(
            f"{at}: ranking is {ranking!r}, but must be each of 0 to {len(completions) - 1} once, the best first."
        )
    return [(tuple(completions[i] for i in ranking[first:]), 0) for first in range(len(ranking) - 1)]


def _of_ratings(row: dict[str, Any], at: str) -> list[_Choice]:
    completions, ratings = _completions(row, at), row["ratings"]
    if not isinstance(ratings, list) or len(ratings) != len(completions) or not all(map(_is_number, ratings)):
        raise UserError(f"{at}: ratings is {ratings!r}, but must be a list of {len(completions)} numbers.")
    return [
        ((completions[i], completions[j]), int(ratings[j] > ratings[i]))
        for i, j in itertools.combinations(range(len(completions)), 2)
        if ratings[i] != ratings[j]
    ]


def _completions(row: dict[str, Any], at: str) -> tuple[Any, ...]:
    completions = row["completions"]
    if not isinstance(completions, list) or len(completions) < 2:
        raise UserError(f"{at}: completions is {completions!r:.60}, but must be a list of two or more.")
    if len({type(completion) for completion in completions}) > 1:
        raise UserError(f"{at}: completions must all be texts or all be messages.")
    return tuple(completions)


def _is_index(value: Any, completions: Sequence[Any]) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(completions)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


COLUMNS = {
    "pairs": {"chosen", "rejected"},
    "choices": {"completions", "choice"},
    "rankings": {"completions", "ranking"},
    "ratings": {"completions", "ratings"},
}
"""Format -> columns that tell it."""

_READERS: dict[str, Callable[[dict[str, Any], str], list[_Choice]]] = {
    "pairs": _of_pair,
    "choices": _of_choice,
    "rankings": _of_ranking,
    "ratings": _of_ratings,
}
