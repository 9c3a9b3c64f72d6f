"""Learning curves of a grid: a table of points, and a picture with the curves of each task."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def _draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    tasks = sorted({point["task"] for point in points})
    if not tasks:
        return
    figure, axes = pyplot.subplots(1, len(tasks), figsize=(6 * len(tasks), 4), squeeze=False)
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
    pyplot.close(figure)
