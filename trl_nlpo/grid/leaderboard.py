"""From the cells of a grid to a leaderboard: JSON, a Markdown table, comparisons and learning curves."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..recipes.algorithms import Algorithm
from ..storage.json_lines import read_json_lines
from .curves import write_curves
from .grid import SUPERVISED, Cell, Grid
from .significance import Comparison, paired_bootstrap


_LOWER_IS_BETTER = ("perplexity", "ter")
_NOT_A_CONTEST = ("completions/", "reward_std", "mean_length", "seconds", "unique", "msttr", "entropy", "distinct")
"""Beginnings of names where neither more nor less is better by itself."""

_SHOWN = ("reward", "rewards/", "metrics/", "perplexity", "completions/mean_length")


def write_leaderboard(grid: Grid, command: str) -> Path:
    """Write `leaderboard.json`, `leaderboard.md` and `learning_curves.csv` (and `.png` where matplotlib is there).

    Args:
        grid ([`Grid`]): its cells that are done count.
        command (`str`): how it was made, kept in both.

    Returns:
        `Path`: of the Markdown file.
    """
    from ..launch.environment import versions

    done = [cell for cell in grid.cells() if (cell.result() or {}).get("status") == "done"]
    failed = [cell for cell in grid.cells() if (cell.result() or {}).get("status") == "failed"]
    board = {
        "command": command,
        "versions": {package: version for package, version in versions().items() if version},
        "tasks": {task: _in_order(_rows(cells), grid) for task, cells in _by(done, "task").items()},
        "comparisons": {task: _comparisons(cells) for task, cells in _by(done, "task").items()},
        "failed": {str(cell.folder): (cell.result() or {}).get("error") for cell in failed},
    }
    (grid.folder / "leaderboard.json").write_text(json.dumps(board, indent=2) + "\n", encoding="utf-8")
    path = grid.folder / "leaderboard.md"
    path.write_text(as_markdown(board), encoding="utf-8")
    write_curves(done, grid.folder)
    return path


def _by(cells: Sequence[Cell], what: str) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.task if what == "task" else cell.variant.label, []).append(cell)
    return groups


def _rows(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation (of the sample; 0 for one seed) and number of seeds of every metric and variant."""
    return {label: _averages([_metrics(cell) for cell in group]) for label, group in _by(cells, "label").items()}


def _in_order(rows: dict[str, dict[str, Any]], grid: Grid) -> dict[str, dict[str, Any]]:
    """Rows as the algorithms were asked for; a supervised model that others needed comes last."""
    labels = [variant.label for variant in grid.variants]
    return {label: rows[label] for label in [*labels, SUPERVISED.label] if label in rows}


def _metrics(cell: Cell) -> dict[str, float]:
    return {key: value for key, value in (cell.result() or {})["metrics"].items() if value is not None}


def _averages(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    averages = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        values = [run[name] for run in runs if name in run]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        averages[name] = {"mean": statistics.fmean(values), "std": deviation, "seeds": len(values)}
    return averages


def _comparisons(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Paired bootstraps over prompts, scores averaged over seeds: NLPO against PPO, both against where they start."""
    scores = {label: scores for label, group in _by(cells, "label").items() if (scores := _scores(group))}
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


def _scores(cells: Sequence[Cell]) -> list[float | None]:
    """The score of every test prompt, averaged over the seeds; None where a seed's was skipped (`reward_failure`)."""
    columns = [
        [row[cell.stage]["score"] for row in read_json_lines(cell.folder / "samples.jsonl") if cell.stage in row]
        for cell in cells
    ]
    if len({len(column) for column in columns}) != 1:
        return []
    return [None if None in values else statistics.fmean(values) for values in zip(*columns, strict=True)]


def as_markdown(board: dict[str, Any]) -> str:
    """The leaderboard as Markdown: a table per task, the best of a column in bold."""
    lines = ["# Leaderboard", "", f"`{board['command']}`", ""]
    lines += [", ".join(f"{package} {version}" for package, version in board["versions"].items()), ""]
    for task, rows in board["tasks"].items():
        lines += [f"## {task}", "", *_table(rows), ""]
        lines += _comparison_lines(board["comparisons"][task])
    if board["failed"]:
        lines += ["## Failed", "", *(f"- `{folder}`: {error}" for folder, error in board["failed"].items()), ""]
    return "\n".join(lines)


def _table(rows: dict[str, dict[str, Any]]) -> list[str]:
    there = {name for row in rows.values() for name in row if name.startswith(_SHOWN)}
    # A metric that is also a reward has one column, unless the reward turns it around.
    twice = {f"rewards/{_short(name)}/mean" for name in there if name.startswith("metrics/") and _direction(name) > 0}
    names = _ordered(there - twice)
    best = {name: _best(name, rows) for name in names}
    header = [_short(name) + _arrow(name) for name in names]
    lines = ["| | " + " | ".join(header) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in rows.items():
        cells = [_cell(row.get(name), label in best[name]) for name in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def _ordered(names: set[str]) -> list[str]:
    def place(name: str) -> tuple[int, str]:
        first = next((index for index, start in enumerate(_SHOWN) if name.startswith(start)), len(_SHOWN))
        return (0 if name == "reward" else first, name)

    return sorted((name for name in names if name != "reward_std"), key=place)


def _short(name: str) -> str:
    if name.startswith("rewards/"):
        return f"reward {name.split('/')[1]}"
    return {"completions/mean_length": "tokens"}.get(name, name.removeprefix("metrics/"))


def _direction(name: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither is."""
    short = name.removeprefix("metrics/")
    if short.startswith(_NOT_A_CONTEST) or name.startswith(_NOT_A_CONTEST):
        return 0
    return -1 if short in _LOWER_IS_BETTER else 1


def _arrow(name: str) -> str:
    return {1: " ↑", -1: " ↓", 0: ""}[_direction(name)]


def _best(name: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    direction = _direction(name)
    means = {label: direction * row[name]["mean"] for label, row in rows.items() if name in row}
    if direction == 0 or not means:
        return []
    best = [label for label, value in means.items() if math.isclose(value, max(means.values()))]
    # Where all are equal, such as a BLEU of 0 everywhere, none is the best.
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
        f"| {entry['first']} - {entry['second']} | {entry['difference']:+.3f} | "
        f"{entry['low']:+.3f} to {entry['high']:+.3f} | {entry['p_value']:.4f} |"
        for entry in comparisons
    ]
    return [*lines, *rows, ""]
