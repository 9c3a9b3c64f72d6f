"""Results tables: of a leaderboard as it was written, of other runs by group and stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..grid.leaderboard import add_interval, averaged_scores, averages, compared, scores_of_stage
from ..metrics.directions import direction
from ..storage.results import RunResults
from .runs import Reported, ReportedRun


@dataclass(frozen=True)
class ResultsTable:
    """What was measured on a task's test split.

    Attributes:
        rows: by system (an algorithm, or a group and its stage) its columns, each with `mean`, `std` and `seeds`, and
            `low` and `high` where it is the mean of scores per prompt.
        better: of each column which way it is better.
        comparisons: paired, see [`grid.leaderboard.compared`].
        missing: of each system that lacks seeds, how many of how many are there.
    """

    rows: dict[str, dict[str, Any]]
    better: dict[str, str | None]
    comparisons: list[dict[str, Any]]
    missing: dict[str, str] = field(default_factory=dict)


def results_of(reported: Reported, task: str) -> ResultsTable:
    """The results of a task; without any row where no stage has finished."""
    board = reported.board
    if board is None or task not in board["tasks"]:
        return _of_runs(reported.groups(task), reported.is_grid)
    asked = board.get("seeds", 0)
    numbers = board.get("runs", {}).get(task, {})
    missing = {label: f"{number} of {asked} seeds" for label, number in numbers.items() if number < asked}
    return ResultsTable(board["tasks"][task], board["better"][task], board["comparisons"][task], missing)


def _of_runs(groups: Mapping[str, list[ReportedRun]], last_only: bool) -> ResultsTable:
    """Rows of every group and stage; of unfinished grids' cells of the last stage, which is what a cell is about."""
    rows: dict[str, dict[str, Any]] = {}
    rows_of: dict[str, dict[Any, Any]] = {}
    prompts: dict[str, dict[Any, list[Any]]] = {}
    of_group: dict[str, str] = {}
    for group, runs in groups.items():
        stages = list(dict.fromkeys(stage for run in runs for stage in run.results.stages))
        for stage in stages[-1:] if last_only else stages:
            in_order = sorted(runs, key=lambda run: str(run.seed))
            finished = _by_seed([run for run in in_order if stage in run.results.stages])
            label = group if last_only else _label(group, stage, len(groups) > 1)
            columns = averages([_numbers(run.stages[stage]) for run in finished.values()])
            rows_of[label] = {seed: list(scores_of_stage(run, stage, columns)) for seed, run in finished.items()}
            for name, values in averaged_scores([*rows_of[label].values()]).items():
                add_interval(columns, "reward" if name == "score" else name, values)
            rows[label], of_group[label] = columns, group
            prompts[label] = {seed: [row.get("prompt") for row in run.samples] for seed, run in finished.items()}
    last = {group: label for label, group in of_group.items()}
    order = list(last.values())

    def opponents(label: str) -> list[str]:
        """Of a group's last stage its earlier ones, and the last ones of the groups before it."""
        if label not in order:
            return []
        others = [other for other, group in of_group.items() if group == of_group[label] and other != label]
        others += order[: order.index(label)]
        return [other for other in others if _were_asked_the_same(prompts[other], prompts[label])]

    return ResultsTable(rows, _directions(groups), compared(rows_of, opponents))


def _by_seed(runs: Sequence[ReportedRun]) -> dict[Any, RunResults]:
    """The results of a group's runs by seed, of several with the same seed by that and a number."""
    found: dict[Any, RunResults] = {}
    for run in runs:
        number = sum(seed == str(run.seed) for seed, _ in found)
        found[str(run.seed), number] = run.results
    return found


def _were_asked_the_same(first: Mapping[Any, list[Any]], second: Mapping[Any, list[Any]]) -> bool:
    """Whether two systems had the same prompts, row by row, with the seeds that both have, or with all their seeds.

    A seed may decide the data too.
    """
    common = first.keys() & second.keys()
    if common:
        return all(first[seed] == second[seed] for seed in common)
    asked = [*first.values(), *second.values()]
    return all(prompts == asked[0] for prompts in asked)


def _label(group: str, stage: str, several: bool) -> str:
    return stage if not several or group == stage else f"{group}: {stage}"


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _directions(groups: Mapping[str, list[ReportedRun]]) -> dict[str, str | None]:
    runs = [run.results for members in groups.values() for run in members]
    columns = dict.fromkeys(column for run in runs for metrics in run.stages.values() for column in metrics)
    recorded = {column: better for run in runs for column, better in run.better.items()}
    return {column: recorded[column] if column in recorded else direction(column) for column in columns}
