"""Learning curves of a grid: a table of points and a picture of each task."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..storage.json_lines import read_json_lines
from .grid import Cell


_CURVES = ("reward", "eval_reward", "objective/kl", "perplexity", "eval_perplexity", "nlpo/mask_mass")


def write_curves(cells: Sequence[Cell], folder: Path) -> None:
    points = []
    for cell in cells:
        for line in read_json_lines(cell.folder / "metrics.jsonl"):
            values = {name: line[name] for name in _CURVES if name in line}
            if line["stage"] == cell.stage and line["step"] > 0 and values:
                points.append(
                    {
                        "task": cell.task,
                        "algorithm": cell.variant.label,
                        "seed": cell.seed,
                        "update": line["step"],
                        **values,
                    }
                )
    with (folder / "learning_curves.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["task", "algorithm", "seed", "update", *_CURVES])
        writer.writeheader()
        writer.writerows(points)
    _draw_curves(points, folder / "learning_curves.png")


def _draw_curves(points: Sequence[dict[str, Any]], path: Path) -> None:
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
