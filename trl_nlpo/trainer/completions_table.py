"""Sample completions for people: a table on the terminal and JSON lines in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..display import printable
from ..storage.json_lines import write_json_lines


def print_completions(rows: list[dict[str, Any]], title: str, limit: int) -> None:
    """A table of the first `limit` rows on the terminal: a column per key."""
    if not rows or limit <= 0:
        return
    # As `Text`, because in a string rich reads markup, which completions may hold: [/b], \[x\].
    table = Table(title=Text(printable(title)), show_lines=True)
    for key in rows[0]:
        table.add_column(Text(printable(key)), overflow="fold")
    for row in rows[:limit]:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console = Console()
    with console.capture() as drawn:
        console.print(table)
    # By `print`, so that it comes above a progress panel: rich's own consoles write past that.
    print(drawn.get(), end="", flush=True)


def append_completions(rows: list[dict[str, Any]], folder: str | Path, step: int) -> None:
    """Keep rows as `completions/completions_<step>.jsonl` under `folder`; what is not JSON stays as its text."""
    path = Path(folder) / "completions" / f"completions_{step:05d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, ({"step": step, **row} for row in rows), default=str)


def log_to_wandb(rows: list[dict[str, Any]], step: int) -> None:
    """Rows as a table of the Weights & Biases run, if there is one; a column says of which update they are."""
    import wandb

    if wandb.run is not None and rows:
        data = [[str(step), *(str(value) for value in row.values())] for row in rows]
        table = wandb.Table(columns=["step", *rows[0]], data=data)
        wandb.log({"completions": table, "train/global_step": step})


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and isinstance(value[0], dict) and "content" in value[0]:
        value = "\n".join(f"{message['role']}: {message['content']}" for message in value)
    return printable(str(value))
