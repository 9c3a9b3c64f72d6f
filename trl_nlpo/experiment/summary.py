"""What a finished run prints: a table, and the line that loads the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ..hub.loading import loading_of


def results_table(title: str, results: dict[str, dict[str, Any]]) -> Table:
    """A row per stage: reward, each reward function, perplexity under the one judge, length, variety, training time.

    Args:
        title (`str`): above the table.
        results: metrics of every stage, as `results.json` holds them.
    """
    names = [key for key in next(iter(results.values())) if key.startswith("rewards/")]
    columns = {"reward": "reward"} | {key: key.split("/")[1] for key in names}
    columns |= {"perplexity": "perplexity", "completions/mean_length": "tokens", "distinct_2": "distinct-2"}
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for header in columns.values():
        table.add_column(header, justify="right", overflow="fold")
    table.add_column("training", justify="right", no_wrap=True)
    for stage, metrics in results.items():
        cells = [_cell(metrics.get(key)) for key in columns]
        table.add_row(stage, *cells, f"{metrics['seconds']:.0f} s" if metrics["seconds"] else "-")
    return table


def load_command(folder: Path) -> str:
    """The Python line that loads a model or adapter from a folder, from any working directory."""
    return loading_of(folder).line


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
