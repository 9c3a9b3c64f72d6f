"""From the finished cells of an ablation to its report: for each axis a table, curves and paired differences."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..display import markdown, markdown_code
from ..storage.files import replace_file
from ..storage.results import RunResults
from .axes import Axis, combinations
from .cells import Cell, Grid
from .curves import draw_axes
from .leaderboard import Runs, averages, directions, metrics_of, scores_of
from .significance import two_level_bootstraps
from .tables import cell_text, table


def write_ablation(grid: Grid, axes: Sequence[Axis], command: str) -> Path:
    """Write `ablation.json`, `.md`, `.csv`, and `.png` where matplotlib is installed.

    Args:
        grid ([`Grid`]): its cells that are done count.
        axes (`Sequence[Axis]`): what they differ in.
        command (`str`): how it was made, kept in JSON and Markdown.

    Returns:
        `Path`: of the Markdown file.
    """
    from ..launch.environment import versions

    cells = _Cells(grid, axes)
    report = {
        "command": command,
        "versions": {package: version for package, version in versions().items() if version},
        "recipe": grid.recipes[0],
        "seeds": len(grid.seeds),
        "better": directions(cells.runs),
        "axes": [_report(cells, axis) for axis in axes],
        "cells": [
            {"values": dict(values), "runs": len(runs), "metrics": averages([metrics_of(cell) for cell in runs])}
            for values, runs in cells.by_values.items()
            if runs
        ],
        "missing": [f"{cell.folder}" for cell in grid.cells() if cell.status != "done"],
    }
    path = grid.folder / "ablation.md"
    replace_file(path.with_suffix(".json"), json.dumps(report, indent=2) + "\n")
    replace_file(path, as_markdown(report))
    _write_csv(report, path.with_suffix(".csv"))
    draw_axes({axis.key: {value: cells.of(axis, value) for value in axis.values} for axis in axes}, path)
    return path


class _Cells:
    """The finished cells of an ablation by the values of its axes."""

    def __init__(self, grid: Grid, axes: Sequence[Axis]):
        done = [cell for cell in grid.cells() if cell.status == "done" and cell.variant in grid.variants]
        self.runs: Runs = {cell: RunResults.read(cell.folder) for cell in done}
        # A grid's variants are made of the combinations, in their order.
        self.by_values: dict[tuple[tuple[str, str], ...], dict[Cell, RunResults]] = {
            values: {cell: run for cell, run in self.runs.items() if cell.variant == variant}
            for values, variant in zip(combinations(axes), grid.variants, strict=True)
        }

    def of(self, axis: Axis, value: str) -> dict[Cell, RunResults]:
        """Those in which an axis has a value, whatever the others have."""
        return {
            cell: run
            for values, runs in self.by_values.items()
            if dict(values)[axis.key] == value
            for cell, run in runs.items()
        }

    def scores(self, axis: Axis, value: str) -> dict[int, np.ndarray]:
        """By seed the scores of the test prompts, `(P,)`, averaged over the other axes; NaN where there is none.

        Only of seeds for which every combination of the others is there.
        """
        groups = [runs for values, runs in self.by_values.items() if dict(values)[axis.key] == value]
        by_seed: dict[int, list[np.ndarray]] = {}
        for runs in groups:
            for cell, run in runs.items():
                rows = [row["score"] for row in scores_of(cell, run)]
                by_seed.setdefault(cell.seed, []).append(
                    np.array([np.nan if score is None else score for score in rows], dtype=np.float64)
                )
        complete = {seed: rows for seed, rows in by_seed.items() if len(rows) == len(groups)}
        lengths = {len(row) for rows in complete.values() for row in rows}
        return {seed: np.mean(rows, axis=0) for seed, rows in complete.items()} if len(lengths) == 1 else {}


def _report(cells: _Cells, axis: Axis) -> dict[str, Any]:
    of_values = {value: cells.of(axis, value) for value in axis.values}
    rows = {value: averages([metrics_of(cell) for cell in runs]) for value, runs in of_values.items() if runs}
    scores = {value: cells.scores(axis, value) for value in axis.values}
    # That have run with the base and with every other value of which there is anything.
    seeds = sorted(set(scores[axis.base]).intersection(*(found for found in scores.values() if found)))
    comparisons = _comparisons(axis, scores, seeds)
    return {
        "key": axis.key,
        "values": list(axis.values),
        "base": axis.base,
        "seeds": len(seeds),
        "rows": rows,
        "comparisons": comparisons,
        "equal": [entry["value"] for entry in comparisons if _are_equal(scores, entry["value"], axis.base, seeds)],
    }


def _are_equal(scores: Mapping[str, Mapping[int, np.ndarray]], value: str, base: str, seeds: Sequence[int]) -> bool:
    return all(np.array_equal(scores[value][seed], scores[base][seed], equal_nan=True) for seed in seeds)


def _comparisons(
    axis: Axis, scores: Mapping[str, Mapping[int, np.ndarray]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Each value against the base, on the same seeds and prompts; all of an axis are one family."""
    others = [value for value in axis.values if value != axis.base and scores[value]]
    if len(seeds) < 2 or not others or len({len(scores[value][seeds[0]]) for value in (axis.base, *others)}) != 1:
        return []
    stacked = {value: np.stack([scores[value][seed] for seed in seeds]) for value in (axis.base, *others)}
    known = ~np.isnan(np.stack(list(stacked.values()))).any((0, 1))
    if not known.any():
        return []
    differences = [(stacked[value] - stacked[axis.base])[:, known] for value in others]
    return [
        {
            "value": value,
            "against": axis.base,
            "seeds": len(seeds),
            "by_seed": difference.mean(1).tolist(),
            **dataclasses.asdict(comparison),
        }
        for value, difference, comparison in zip(others, differences, two_level_bootstraps(differences), strict=True)
    ]


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: for each axis a table and the differences from its base.

    Args:
        report (`dict`): as [`write_ablation`] writes it in JSON.
    """
    lines = [f"# Ablation of {markdown(report['recipe'])}", "", markdown_code(report["command"]), ""]
    lines += [", ".join(f"{package} {version}" for package, version in report["versions"].items()), ""]
    others = len(report["axes"]) > 1
    for axis in report["axes"]:
        lines += [f"## {markdown(axis['key'])}", ""]
        if others:
            lines += ["Averaged over the values of the other axes; ± is over cells and seeds.", ""]
        labelled = {f"{axis['key']} = {value}": row for value, row in axis["rows"].items()}
        lines += [*table(labelled, report["better"], {}), "", *_difference_lines(axis)]
    if others:
        lines += ["## All cells", "", *_cell_lines(report), ""]
    if report["missing"]:
        lines += ["## Not there", "", *(f"- {markdown_code(folder)}" for folder in report["missing"]), ""]
    return "\n".join(lines)


def _difference_lines(axis: Mapping[str, Any]) -> list[str]:
    if not axis["comparisons"]:
        return ["One seed has run with every value: what is chance cannot be told.", ""] if axis["seeds"] == 1 else []
    seeds = axis["comparisons"][0]["seeds"]
    lines = [
        f"Differences of the reward from {markdown(axis['key'])} = {markdown(axis['base'])}, on the same {seeds} "
        "seeds and prompts. Student's t over seeds, bootstrap over prompts; intervals hold together with 95 %, and p "
        f"is corrected, for the {len(axis['comparisons'])} of this axis (max-T); bold: p < 0.05.",
        "",
        "| | difference | interval | p | seeds above |",
        "|---|---|---|---|---|",
    ]
    for entry in axis["comparisons"]:
        p = f"{entry['p_adjusted']:.4f}"
        above = sum(difference > 0 for difference in entry["by_seed"])
        lines.append(
            f"| {markdown(entry['value'])} | {entry['difference']:+.3f} | "
            f"{entry['low']:+.3f} to {entry['high']:+.3f} | "
            f"{f'**{p}**' if entry['p_adjusted'] < 0.05 else p} | {above} of {seeds} |"
        )
    lines.append("")
    if axis["equal"]:
        lines += [equal_line(axis["equal"], axis["base"], markdown), ""]
    return lines


def equal_line(values: Sequence[str], base: str, shown: Callable[[str], str]) -> str:
    """What is said of values of an axis with which every prompt of every seed scored as with the base.

    Args:
        values (`Sequence[str]`), base (`str`)
        shown: makes a text safe for where the line is shown.
    """
    return (
        f"Every score with {', '.join(map(shown, values))} is that with {shown(base)}: here the key changes nothing."
    )


def _cell_lines(report: Mapping[str, Any]) -> list[str]:
    keys = [axis["key"] for axis in report["axes"]]
    names = ("reward", "perplexity", "completions/mean_length")
    lines = ["| " + " | ".join(map(markdown, [*keys, "reward", "perplexity", "tokens", "runs"])) + " |"]
    lines.append("|---" * (len(keys) + 4) + "|")
    for cell in report["cells"]:
        words = [markdown(cell["values"][key]) for key in keys]
        words += [cell_text(cell["metrics"].get(name)) for name in names]
        lines.append("| " + " | ".join([*words, str(cell["runs"])]) + " |")
    return lines


def _write_csv(report: Mapping[str, Any], path: Path) -> None:
    keys = [axis["key"] for axis in report["axes"]]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*keys, "column", "mean", "std", "runs"])
        for cell in report["cells"]:
            for column, entry in cell["metrics"].items():
                place = [cell["values"][key] for key in keys]
                writer.writerow([*place, column, entry["mean"], entry["std"], entry["seeds"]])
