"""Learning curves of a grid: a table of points, and a picture with the curves of each task."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..pictures import pyplot
from ..storage.results import RunResults
from .cells import Cell


_CURVES = ("reward", "eval_reward", "objective/kl", "perplexity", "eval_perplexity", "nlpo/mask_mass")
_CELL = ("task", "algorithm", "seed", "update")


def write_curves(runs: Mapping[Cell, RunResults], folder: Path) -> None:
    """Write `learning_curves.csv` and, where matplotlib is installed, `learning_curves.png`.

    Args:
        runs: what each finished cell left.
        folder (`Path`): the grid's.
    """
    points = [point for cell, run in runs.items() for point in _points(cell, run)]
    with (folder / "learning_curves.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*_CELL, *_CURVES])
        writer.writeheader()
        writer.writerows(points)
    _draw(points, folder / "learning_curves.png")


def _points(cell: Cell, run: RunResults) -> Iterator[dict[str, Any]]:
    """The log lines of the stage that counts, by update; those of an evaluation at its end have step 0."""
    for line in run.log:
        values = {name: line[name] for name in _CURVES if name in line}
        if line["stage"] == cell.stage and line["step"] > 0 and values:
            place = (cell.task, cell.variant.label, cell.seed, line["step"])
            yield {**dict(zip(_CELL, place, strict=True)), **values}


def draw_axes(axes: Mapping[str, Mapping[str, Mapping[Cell, RunResults]]], path: Path) -> None:
    """Draw the training rewards of an ablation, where matplotlib is installed: a picture for each axis.

    A curve is the mean over the cells with a value, smoothed over five updates; its band is a standard deviation over
    seeds, each averaged over the other axes.

    Args:
        axes: by key and value the finished cells.
        path (`Path`): of the report; the picture has its name, and the ending `.png`.
    """
    plt = pyplot()
    if plt is None or not axes:
        return
    figure, plots = plt.subplots(1, len(axes), figsize=(6 * len(axes), 4), squeeze=False)
    for plot, (key, values) in zip(plots[0], axes.items(), strict=True):
        for value, runs in values.items():
            steps, means, deviations = _band([point for cell, run in runs.items() for point in _points(cell, run)])
            plot.plot(steps, means, label=value)
            low, high = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
            plot.fill_between(steps, low, high, alpha=0.2)
        plot.set(title=key, xlabel="update", ylabel="reward in training")
        plot.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=120)
    plt.close(figure)


def _band(points: Sequence[dict[str, Any]], window: int = 5) -> tuple[list[int], list[float], list[float]]:
    """Updates, means over seeds and their deviations; smoothed."""
    rewards: dict[int, dict[int, list[float]]] = {}
    for point in points:
        if point.get("reward") is not None:
            rewards.setdefault(point["update"], {}).setdefault(point["seed"], []).append(point["reward"])
    steps = sorted(rewards)
    of_seeds = [[statistics.fmean(values) for values in rewards[step].values()] for step in steps]
    means = [statistics.fmean(values) for values in of_seeds]
    deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in of_seeds]
    return steps, _smoothed(means, window), _smoothed(deviations, window)


def _smoothed(numbers: Sequence[float], window: int) -> list[float]:
    return [statistics.fmean(numbers[max(0, end - window) : end]) for end in range(1, len(numbers) + 1)]


def _draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    plt = pyplot()
    tasks = sorted({point["task"] for point in points})
    if plt is None or not tasks:
        return
    figure, axes = plt.subplots(1, len(tasks), figsize=(6 * len(tasks), 4), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for label in sorted({point["algorithm"] for point in points if point["task"] == task}):
            mine = [p for p in points if p["task"] == task and p["algorithm"] == label and p.get("reward") is not None]
            steps = sorted({point["update"] for point in mine})
            means = [statistics.fmean(p["reward"] for p in mine if p["update"] == step) for step in steps]
            axis.plot(steps, means, label=label)
        axis.set(title=task, xlabel="update", ylabel="reward (mean over seeds)")
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
