"""From the finished cells of a grid to a leaderboard: means, intervals and comparisons."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics.directions import direction
from ..recipes.algorithms import Algorithm
from ..storage.files import replace_file
from ..storage.results import RunResults
from .cells import SUPERVISED, Cell, Grid
from .curves import write_curves
from .significance import interval_of_mean, paired_bootstraps
from .tables import as_csv, as_latex, as_markdown


Runs = Mapping[Cell, RunResults]
Rows = dict[str, dict[str, Any]]
"""Of each algorithm its columns, each with `mean`, `std` and `seeds`, and `low` and `high` where rows have scores."""
Scores = dict[str, list[float | None]]
"""Of each kind of score (`score`, a reward, `metrics/<name>`) one per test prompt, averaged over seeds."""
SeedRows = Mapping[Any, Sequence[Mapping[str, "float | None"]]]
"""By seed a row per test prompt with its scores, as [`scores_of_stage`] gives them."""


def write_leaderboard(grid: Grid, command: str) -> Path:
    """Write `leaderboard.json`, `.md`, `.csv` and `.tex`, and `learning_curves.csv` (`.png` where matplotlib is).

    Args:
        grid ([`Grid`]): its cells that are done count.
        command (`str`): how it was made, kept in JSON and Markdown.

    Returns:
        `Path`: of the Markdown file.

    Raises:
        UserError: the results of a cell that is done are missing or damaged; the message names the file.
    """
    from ..launch.environment import versions

    runs = {cell: RunResults.read(cell.folder) for cell in grid.cells() if cell.status == "done"}
    tasks = _groups(runs, lambda cell: cell.task)
    board = {
        "command": command,
        "versions": {package: version for package, version in versions().items() if version},
        "seeds": len(grid.seeds),
        "tasks": {task: _in_order(_rows(of_task), grid) for task, of_task in tasks.items()},
        "runs": {
            task: {label: len(group) for label, group in _by_label(runs).items()} for task, runs in tasks.items()
        },
        "better": {task: directions(of_task) for task, of_task in tasks.items()},
        "comparisons": {task: _comparisons(of_task) for task, of_task in tasks.items()},
        "failed": {str(cell.folder): cell.result().get("error") for cell in grid.cells() if cell.status == "failed"},
    }
    path = grid.folder / "leaderboard.md"
    for suffix, text in {
        ".json": json.dumps(board, indent=2) + "\n",
        ".md": as_markdown(board),
        ".csv": as_csv(board),
        ".tex": as_latex(board),
    }.items():
        replace_file(path.with_suffix(suffix), text)
    write_curves(runs, grid.folder)
    return path


def _groups(runs: Runs, key: Callable[[Cell], str]) -> dict[str, dict[Cell, RunResults]]:
    groups: dict[str, dict[Cell, RunResults]] = {}
    for cell, run in runs.items():
        groups.setdefault(key(cell), {})[cell] = run
    return groups


def _by_label(runs: Runs) -> dict[str, dict[Cell, RunResults]]:
    return _groups(runs, lambda cell: cell.variant.label)


def _rows(runs: Runs) -> Rows:
    """Of every algorithm and column its mean, standard deviation (of the sample; 0 for one seed), seeds, interval."""
    found = {}
    for label, group in _by_label(runs).items():
        columns = averages([metrics_of(cell) for cell in group])
        for name, scores in _scores(group).items():
            add_interval(columns, "reward" if name == "score" else name, scores)
        found[label] = columns
    return found


def add_interval(averages: dict[str, Any], column: str, scores: list[float | None]) -> None:
    """Give a column its interval over prompts, if it is the mean of these scores, as that of corpus BLEU is not."""
    known = [score for score in scores if score is not None]
    if column in averages and known and math.isclose(statistics.fmean(known), averages[column]["mean"], rel_tol=1e-6):
        averages[column]["low"], averages[column]["high"] = interval_of_mean(scores)


def _in_order(rows: Rows, grid: Grid) -> Rows:
    """Rows as the algorithms were asked for; a supervised model that others needed comes last."""
    labels = [variant.label for variant in grid.variants]
    return {label: rows[label] for label in [*labels, SUPERVISED.label] if label in rows}


def metrics_of(cell: Cell) -> dict[str, float]:
    """The numbers of a finished cell, by column."""
    return {key: value for key, value in cell.result()["metrics"].items() if value is not None}


def directions(runs: Runs) -> dict[str, str | None]:
    """Of every column which way it is better."""
    recorded = {column: better for run in runs.values() for column, better in run.better.items()}
    columns = dict.fromkeys(column for cell in runs for column in metrics_of(cell))
    return {column: _direction(column, recorded) for column in columns}


def _direction(column: str, recorded: Mapping[str, str | None] | None = None) -> str | None:
    """Which way a column is better, as the runs recorded what their metrics said; by its name where none did."""
    return recorded[column] if recorded and column in recorded else direction(column)


def averages(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Of each column `mean`, `std` (of the sample; 0 for one run) and `seeds`, the number of runs that have it."""
    found = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        values = [run[name] for run in runs if name in run]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        found[name] = {"mean": statistics.fmean(values), "std": deviation, "seeds": len(values)}
    return found


def _comparisons(runs: Runs) -> list[dict[str, Any]]:
    """NLPO against PPO, and both against where they start, on the seeds that both have."""
    rows = {
        label: {cell.seed: list(scores_of(cell, run)) for cell, run in group.items()}
        for label, group in _by_label(runs).items()
    }

    def opponents(label: str) -> list[str]:
        # A seed may decide the data: without one in common there may be no prompt in common.
        return [other for other in _opponents(label, list(rows)) if rows[label].keys() & rows[other].keys()]

    return compared(rows, opponents)


def compared(rows: Mapping[str, SeedRows], opponents: Callable[[str], Sequence[str]]) -> list[dict[str, Any]]:
    """Paired bootstraps over prompts, scores paired by seed and row and averaged over seeds.

    Every kind of score that both have is compared, on the seeds that both have; all comparisons are one family. Where
    two have no seed in common, each is averaged over its own: they must have been asked the same.

    Args:
        rows: by system and seed.
        opponents: of a system, those that it is compared with.

    Returns:
        `list[dict]`: `first`, `second`, `score` (its kind), `seeds` (how many were averaged over), and the fields of a
        [`significance.Comparison`].
    """
    pairs: dict[tuple[str, str, str], tuple[list[float | None], list[float | None]]] = {}
    seeds: dict[tuple[str, str], int] = {}
    for first in rows:
        others = opponents(first)
        for second in rows:
            if second == first or second not in others:
                continue
            common = [seed for seed in rows[first] if seed in rows[second]]
            ours, theirs = (
                averaged_scores([rows[system][seed] for seed in common or rows[system]]) for system in (first, second)
            )
            seeds[first, second] = len(common) or min(len(rows[first]), len(rows[second]))
            for name in ours:
                if _are_comparable(ours[name], theirs.get(name, [])):
                    pairs[first, second, name] = ours[name], theirs[name]
    found: dict[tuple[str, str, str], Any] = {}
    # Other numbers of prompts are other families: their resamples are not the same.
    for size in dict.fromkeys(len(ours) for ours, _ in pairs.values()):
        family = [key for key, (ours, _) in pairs.items() if len(ours) == size]
        found |= dict(zip(family, paired_bootstraps([pairs[key] for key in family]), strict=True))
    return [
        {
            "first": first,
            "second": second,
            "score": name,
            "seeds": seeds[first, second],
            **dataclasses.asdict(found[first, second, name]),
        }
        for first, second, name in pairs
    ]


def _are_comparable(first: Sequence[float | None], second: Sequence[float | None]) -> bool:
    """Whether two systems have scores of the same prompts."""
    same = len(first) == len(second)
    return same and any(None not in pair for pair in zip(first, second, strict=True))


def _opponents(label: str, labels: Sequence[str]) -> list[str]:
    """`supervised+nlpo[...]` meets its plain form, `supervised+ppo` and `supervised`; `nlpo` the same without."""
    algorithm = Algorithm.parse(label.partition("[")[0])
    against = {algorithm.name, algorithm.baseline.name, algorithm.start.name}
    return [other for other in labels if other in against]


def _scores(runs: Runs) -> Scores:
    """Of every kind of score one per test prompt, averaged over the seeds."""
    return averaged_scores([list(scores_of(cell, run)) for cell, run in runs.items()])


def averaged_scores(of_seeds: Sequence[Sequence[Mapping[str, float | None]]]) -> Scores:
    """Of every kind of score one per test prompt, averaged over seeds; None where a seed has none for the prompt.

    A kind that not all seeds have is left out, and everything where they had other numbers of prompts.

    Args:
        of_seeds: of each seed a row per test prompt, as [`scores_of_stage`] gives them.
    """
    if len({len(rows) for rows in of_seeds}) != 1 or not of_seeds[0]:
        return {}
    names = [name for name in of_seeds[0][0] if all(name in row for rows in of_seeds for row in rows)]
    return {
        name: [
            None if None in values else statistics.fmean(values)
            for values in zip(*([row[name] for row in rows] for rows in of_seeds), strict=True)
        ]
        for name in names
    }


def scores_of(cell: Cell, run: RunResults) -> Iterator[dict[str, float | None]]:
    """What each sample of a cell was given: its score, its rewards, and the metrics that have a score for a row."""
    return scores_of_stage(run, cell.stage, metrics_of(cell))


def scores_of_stage(run: RunResults, stage: str, columns: Iterable[str]) -> Iterator[dict[str, float | None]]:
    """What each sample of a stage was given.

    Args:
        run ([`RunResults`])
        stage (`str`)
        columns: of the stage's results, which say what the rewards are called.

    Yields:
        `dict`: `score`, the rewards, and the metrics that have a score for a row, by column.
    """
    rewards = [column.split("/")[1] for column in columns if column.startswith("rewards/")]
    for row in run.samples:
        if stage in row:
            sample = row[stage]
            given = {f"rewards/{name}/mean": sample[name] for name in rewards if name in sample}
            given |= {f"metrics/{name}": score for name, score in sample.get("metrics", {}).items()}
            yield {"score": sample["score"], **given}
