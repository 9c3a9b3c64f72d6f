"""From the finished cells of a grid to a leaderboard: JSON, a Markdown table per task, and comparisons."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..display import markdown, markdown_code
from ..metrics.directions import direction
from ..recipes.algorithms import Algorithm
from ..storage.files import replace_file
from ..storage.results import RunResults
from .cells import SUPERVISED, Cell, Grid
from .curves import write_curves
from .significance import Comparison, paired_bootstrap


_SHOWN = ("reward", "rewards/", "metrics/", "perplexity", "completions/mean_length")

Runs = Mapping[Cell, RunResults]
Rows = dict[str, dict[str, Any]]
"""Of each algorithm its columns, each with `mean`, `std` and `seeds`."""
Directions = Mapping[str, "str | None"]
"""Of each column whether `"higher"` or `"lower"` is better; None: neither."""


def write_leaderboard(grid: Grid, command: str) -> Path:
    """Write `leaderboard.json`, `leaderboard.md` and `learning_curves.csv` (and `.png` where matplotlib is there).

    Args:
        grid ([`Grid`]): its cells that are done count.
        command (`str`): how it was made, kept in both.

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
        "tasks": {task: _in_order(_rows(of_task), grid) for task, of_task in tasks.items()},
        "better": {task: _directions(of_task) for task, of_task in tasks.items()},
        "comparisons": {task: _comparisons(of_task) for task, of_task in tasks.items()},
        "failed": {str(cell.folder): cell.result().get("error") for cell in grid.cells() if cell.status == "failed"},
    }
    replace_file(grid.folder / "leaderboard.json", json.dumps(board, indent=2) + "\n")
    path = grid.folder / "leaderboard.md"
    replace_file(path, as_markdown(board))
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
    """Mean, standard deviation (of the sample; 0 for one seed) and number of seeds of every metric and variant."""
    return {label: _averages([_metrics(cell) for cell in group]) for label, group in _by_label(runs).items()}


def _in_order(rows: Rows, grid: Grid) -> Rows:
    """Rows as the algorithms were asked for; a supervised model that others needed comes last."""
    labels = [variant.label for variant in grid.variants]
    return {label: rows[label] for label in [*labels, SUPERVISED.label] if label in rows}


def _metrics(cell: Cell) -> dict[str, float]:
    return {key: value for key, value in cell.result()["metrics"].items() if value is not None}


def _directions(runs: Runs) -> dict[str, str | None]:
    """Of every column which way it is better, as the runs recorded it; by its name where none did."""
    recorded = {column: better for run in runs.values() for column, better in run.better.items()}
    columns = dict.fromkeys(column for cell in runs for column in _metrics(cell))
    return {column: recorded[column] if column in recorded else direction(column) for column in columns}


def _averages(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    averages = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        values = [run[name] for run in runs if name in run]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        averages[name] = {"mean": statistics.fmean(values), "std": deviation, "seeds": len(values)}
    return averages


def _comparisons(runs: Runs) -> list[dict[str, Any]]:
    """Paired bootstraps over prompts, scores averaged over seeds: NLPO against PPO, both against where they start."""
    scores = {label: found for label, group in _by_label(runs).items() if (found := _scores(group))}
    pairs = [
        (first, second)
        for first in scores
        for second in scores
        if first != second and second in _opponents(first, list(scores))
    ]
    return [
        {"first": first, "second": second, **dataclasses.asdict(comparison)}
        for first, second in pairs
        if (comparison := _compared(scores[first], scores[second])) is not None
    ]


def _compared(first: Sequence[float | None], second: Sequence[float | None]) -> Comparison | None:
    """On the prompts that both have a score for; None where there are none, or where the prompts are not the same."""
    if len(first) != len(second):
        return None
    both = [(one, other) for one, other in zip(first, second, strict=True) if one is not None and other is not None]
    return paired_bootstrap([one for one, _ in both], [other for _, other in both]) if both else None


def _opponents(label: str, labels: Sequence[str]) -> list[str]:
    """`supervised+nlpo[...]` meets its plain form, `supervised+ppo` and `supervised`; `nlpo` the same without."""
    algorithm = Algorithm.parse(label.partition("[")[0])
    against = {algorithm.name, algorithm.unmasked.name, algorithm.start.name}
    return [other for other in labels if other in against]


def _scores(runs: Runs) -> list[float | None]:
    """The score of every test prompt, averaged over the seeds; None where a seed's was skipped (`reward_failure`)."""
    columns = [[row[cell.stage]["score"] for row in run.samples if cell.stage in row] for cell, run in runs.items()]
    if len({len(column) for column in columns}) != 1:
        return []
    return [None if None in values else statistics.fmean(values) for values in zip(*columns, strict=True)]


def as_markdown(board: dict[str, Any]) -> str:
    """The leaderboard as Markdown: a table per task, the best of a column in bold.

    Args:
        board (`dict`): as [`write_leaderboard`] writes it in JSON.
    """
    lines = ["# Leaderboard", "", markdown_code(board["command"]), ""]
    lines += [", ".join(f"{package} {version}" for package, version in board["versions"].items()), ""]
    for task, rows in board["tasks"].items():
        lines += [f"## {markdown(task)}", "", *_table(rows, board["better"][task]), ""]
        lines += _comparison_lines(board["comparisons"][task])
    if board["failed"]:
        lines += [
            "## Failed",
            "",
            *(f"- {markdown_code(folder)}: {markdown(str(error))}" for folder, error in board["failed"].items()),
            "",
        ]
    return "\n".join(lines)


def _table(rows: Rows, better: Directions) -> list[str]:
    shown = {name for row in rows.values() for name in row if name.startswith(_SHOWN)}
    # A metric that is also a reward has one column, unless the reward turns it around.
    higher = [name for name in shown if name.startswith("metrics/") and better[name] == "higher"]
    names = _ordered(shown - {f"rewards/{_short(name)}/mean" for name in higher})
    best = {name: _best(name, rows, better[name]) for name in names}
    header = [markdown(_short(name)) + _ARROWS[better[name]] for name in names]
    lines = ["| | " + " | ".join(header) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in rows.items():
        cells = [_cell(row.get(name), label in best[name]) for name in names]
        lines.append(f"| {markdown(label)} | " + " | ".join(cells) + " |")
    return lines


_ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def _ordered(names: set[str]) -> list[str]:
    def place(name: str) -> tuple[int, str]:
        first = next((index for index, start in enumerate(_SHOWN) if name.startswith(start)), len(_SHOWN))
        return (0 if name == "reward" else first, name)

    return sorted((name for name in names if name != "reward_std"), key=place)


def _short(name: str) -> str:
    if name.startswith("rewards/"):
        return f"reward {name.split('/')[1]}"
    return {"completions/mean_length": "tokens"}.get(name, name.removeprefix("metrics/"))


def _best(name: str, rows: Rows, better: str | None) -> list[str]:
    """The algorithms whose mean is the best; none where neither way is better, or where all are equal."""
    means = {label: row[name]["mean"] for label, row in rows.items() if name in row}
    if better is None or not means:
        return []
    wanted = max(means.values()) if better == "higher" else min(means.values())
    best = [label for label, value in means.items() if math.isclose(value, wanted)]
    # Such as a BLEU of 0 everywhere.
    return best if len(best) < len(means) else []


def _cell(entry: dict[str, Any] | None, is_best: bool) -> str:
    if entry is None:
        return "-"
    mean = entry["mean"]
    digits = 4 if abs(mean) < 0.01 else 3 if abs(mean) < 10 else 1
    text = f"{mean:.{digits}f}" + (f" ± {entry['std']:.{digits}f}" if entry["seeds"] > 1 else "")
    return f"**{text}**" if is_best else text


def _comparison_lines(comparisons: Sequence[dict[str, Any]]) -> list[str]:
    if not comparisons:
        return []
    lines = [
        "Score per prompt, averaged over seeds; paired bootstrap over prompts, 95 % interval:",
        "",
        "| | difference | interval | p |",
        "|---|---|---|---|",
    ]
    rows = [
        f"| {markdown(entry['first'])} - {markdown(entry['second'])} | {entry['difference']:+.3f} | "
        f"{entry['low']:+.3f} to {entry['high']:+.3f} | {entry['p_value']:.4f} |"
        for entry in comparisons
    ]
    return [*lines, *rows, ""]
