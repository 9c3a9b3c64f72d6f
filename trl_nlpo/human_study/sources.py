"""What a study shows: completions of a run's stages, or items of a file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ..data.files import read_file
from ..errors import UserError
from ..storage.results import SAMPLES_NAME, read_samples
from .argilla import is_record, item_of


def items_of(
    source: Path, kind: str, systems: Sequence[str] | None = None, number: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Items for [`create`].

    Args:
        source (`Path`): a run's folder, or a file of items (`prompt`, `completions`, `systems`; `item`, `prompt_key`,
            `gold`), or of Argilla's records.
        kind (`str`): of the study. Of a run, `likert` shows each completion alone, `pairwise` every pair of systems,
            and `best_of_k` all of them together.
        systems (*optional*): stages of the run; by default all.
        number (`int`, *optional*): prompts to take, by chance; by default all.
        seed (`int`): of chance.

    Raises:
        UserError: nothing there, a stage that the run does not have, or an item without one of its parts.
    """
    if source.is_dir():
        rows = read_samples(source)
        if not rows:
            raise UserError(f"{source / SAMPLES_NAME} is not there: give a run's folder, or a file of items.")
        return _of_run(rows, kind, systems_of(rows, systems), _chosen(len(rows), number, seed))
    if systems:
        raise UserError("systems are of a run; a file of items names its own.")
    given = [
        item_of(row, f"{source}, row {index}") if is_record(row) else row
        for index, row in enumerate(read_file(source), 1)
    ]
    for index, row in enumerate(given, 1):
        for column in ("prompt", "completions", "systems"):
            if row.get(column) in (None, "", []):
                raise UserError(f"{source}, row {index} has no {column!r}.")
    return [given[index] for index in _chosen(len(given), number, seed)]


def _chosen(size: int, number: int | None, seed: int) -> list[int]:
    if number is None or number >= size:
        return list(range(size))
    return sorted(random.Random(seed).sample(range(size), number))


def _of_run(
    rows: Sequence[dict[str, Any]], kind: str, systems: Sequence[str], chosen: Sequence[int]
) -> list[dict[str, Any]]:
    groups: list[tuple[str, ...]]
    if kind == "likert":
        groups = [(system,) for system in systems]
    else:
        groups = list(combinations(systems, 2)) if kind == "pairwise" else [tuple(systems)]
    return [
        {
            "item": f"{index} {' | '.join(group)}",
            "prompt_key": str(index),
            "prompt": rows[index]["prompt"],
            "completions": [rows[index][system]["completion"] for system in group],
            "systems": list(group),
        }
        for index in chosen
        for group in groups
    ]


def gold_items(source: Path, kind: str) -> list[dict[str, Any]]:
    """Items whose answer is known, for everybody.

    Raises:
        UserError: as [`items_of`], or an item without `gold`.
    """
    items = items_of(source, kind)
    for index, item in enumerate(items, 1):
        if item.get("gold") is None:
            raise UserError(f"{source}, row {index} has no 'gold': the answer that is right.")
    return items


def systems_of(samples: Sequence[dict[str, Any]], wanted: Sequence[str] | None) -> list[str]:
    """Stages of a run's samples whose completions are judged: those wanted, or all.

    Raises:
        UserError: one that the run does not have.
    """
    known = [name for name, value in samples[0].items() if isinstance(value, dict) and "completion" in value]
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise UserError(f"the run has no stage {unknown[0]!r}; it has: {', '.join(known)}.")
    return list(wanted or known)
