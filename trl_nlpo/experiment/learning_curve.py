"""The learning curve of a run, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..pictures import pyplot


PICTURE_NAME = "learning_curve.png"

_PANELS = (
    ("reward", {"reward": "in training", "eval_reward": "on held-out prompts"}),
    ("KL from the start (nats per completion)", {"objective/kl": "in training"}),
)
"""Of each panel its title, and the columns of the log in it with what a curve is called."""


def draw_learning_curve(log: Sequence[dict[str, Any]], stage: str, folder: Path) -> str | None:
    """Draw reward and KL over the updates of a stage, where matplotlib is installed.

    Args:
        log (`Sequence[dict]`): lines of `metrics.jsonl`.
        stage (`str`): the one that reinforced.
        folder (`Path`): where the picture goes.

    Returns:
        Its name; None where there is none.
    """
    plt = pyplot()
    lines = [line for line in log if line["stage"] == stage and line["step"] > 0]
    if plt is None or not any(column in line for line in lines for _, columns in _PANELS for column in columns):
        return None
    figure, axes = plt.subplots(1, len(_PANELS), figsize=(6 * len(_PANELS), 4), squeeze=False)
    for axis, (title, columns) in zip(axes[0], _PANELS, strict=True):
        for column, label in columns.items():
            points = [(line["step"], line[column]) for line in lines if line.get(column) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)
        axis.set(title=title, xlabel="update")
        if axis.lines:
            axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(folder / PICTURE_NAME, dpi=120)
    plt.close(figure)
    return PICTURE_NAME
