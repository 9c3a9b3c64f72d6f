"""Completions of a task, side by side by prompt, as the page searches them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..display import printable
from .runs import Reported, ReportedRun


MOST_COLUMNS = 12
"""With more runs of a task, only the first of each group is shown."""


def samples_of(reported: Reported, task: str, most: int) -> dict[str, Any]:
    """Prompts and completions for JSON.

    Args:
        reported ([`Reported`])
        task (`str`)
        most (`int`): prompts to keep.

    Returns:
        `dict`: `prompts`, texts; `total`, how many there are without `most`; `columns`, of each run's stages, with
        `name` and whether it is `shown` at first; `cells`, a row per prompt and a value per column: `text`, `score`
        (None: it has none) and the other numbers in `more`, or None where the run lacks the prompt.
    """
    groups = reported.groups(task)
    runs = [run for members in groups.values() for run in members]
    if len(runs) > MOST_COLUMNS:
        runs = [members[0] for members in groups.values()]
    runs = [run for run in runs if run.results.samples]
    prompts = list(dict.fromkeys(key for run in runs for key in _rows(run)))
    columns = [(run, stage) for run in runs for stage in _stages(run, reported.is_grid)]
    rows = {id(run): _rows(run) for run in runs}
    first = _first_shown(columns, len(runs))
    return {
        "total": len(prompts),
        "prompts": [text for text, _ in prompts[:most]],
        "columns": [
            {"name": _name(run, stage, groups, reported.is_grid, len(runs)), "shown": (run, stage) in first}
            for run, stage in columns
        ],
        "cells": [[_cell(rows[id(run)].get(key, {}).get(stage)) for run, stage in columns] for key in prompts[:most]],
    }


def _name(
    run: ReportedRun, stage: str, groups: Mapping[str, Sequence[ReportedRun]], is_grid: bool, num_runs: int
) -> str:
    """Of a column: as short as it can be told apart."""
    if num_runs == 1:
        return stage
    members = groups[run.group]
    name = run.group
    if len(members) > 1:
        seeds = [other.seed for other in members]
        name += f" ({run.name})" if run.seed is None or seeds.count(run.seed) > 1 else f", seed {run.seed}"
    return name if is_grid or stage == run.group else f"{name}: {stage}"


def _stages(run: ReportedRun, last_only: bool) -> list[str]:
    """Stages that have completions; of a cell the one that it is about."""
    stages = [stage for stage in run.results.stages if any(stage in row for row in run.results.samples)]
    return stages[-1:] if last_only else stages


def _first_shown(columns: Sequence[tuple[ReportedRun, str]], num_runs: int) -> list[tuple[ReportedRun, str]]:
    """All stages of one run; of several the last stages of the first four."""
    if num_runs == 1:
        return list(columns)
    return list({id(run): (run, stage) for run, stage in columns}.values())[:4]


def _rows(run: ReportedRun) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows by prompt, and by how often the same prompt came before."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    seen: dict[str, int] = {}
    for row in run.results.samples:
        text = _text(row.get("prompt"))
        found[text, seen.get(text, 0)] = row
        seen[text] = seen.get(text, 0) + 1
    return found


def _cell(sample: Any) -> dict[str, Any] | None:
    if not isinstance(sample, dict):
        return None
    given = {**sample, **(sample.get("metrics") or {})}
    more = {
        name: value
        for name, value in given.items()
        if name not in ("completion", "score", "metrics") and (isinstance(value, str) or _is_finite(value))
    }
    score = sample.get("score")
    return {
        "text": _text(sample.get("completion")),
        "score": score if _is_finite(score) else None,
        "more": {
            printable(name): printable(value) if isinstance(value, str) else value for name, value in more.items()
        },
    }


def _is_finite(value: Any) -> bool:
    """Whether a value is a number that JSON has."""
    return isinstance(value, int | float) and math.isfinite(value)


def _text(value: Any) -> str:
    """A text, or a conversation with a line for each message and whose it is."""
    if isinstance(value, list):
        return "\n".join(
            printable(f"{message.get('role')}: {message.get('content')}")
            if isinstance(message, dict)
            else printable(str(message))
            for message in value
        )
    return printable("" if value is None else str(value))
