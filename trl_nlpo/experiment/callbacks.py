"""Callbacks of a recipe's run: its log file and its progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..storage.run_folder import RunFolder


class MetricsLog(TrainerCallback):
    """Writes every log line of a trainer to `metrics.jsonl` in the run folder.

    Args:
        folder ([`RunFolder`])
        stage (`str`): the name under which the lines are written.
    """

    def __init__(self, folder: RunFolder, stage: str):
        self.folder, self.stage = folder, stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.folder.begin_stage(self.stage, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.log(self.stage, state.global_step, logs or {})


_SHOWN = {"reward": "reward", "objective/kl": "kl", "perplexity": "ppl", "loss": "loss"}


class ProgressBar(TrainerCallback):
    """One bar per training stage on the terminal; evaluations add a line above it.

    Args:
        description (`str`): what the bar is about.
    """

    def __init__(self, description: str):
        self.description = description
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.description, dynamic_ncols=True
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self.bar is None or not logs:
            return
        if shown := _selected(logs, ""):
            self.bar.set_postfix(shown, refresh=True)
        if shown := _selected(logs, "eval_"):
            self.bar.write(f"{self.description}, step {state.global_step}, evaluation: {_sentence(shown)}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is; what is printed next comes below it."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


@contextlib.contextmanager
def showing_progress(trainer: Any, description: str) -> Iterator[None]:
    """Give a trainer this bar in place of transformers' own, which prints every log as a dictionary.

    The bar is closed on the way out, whatever happens, so that an error message begins on a line of its own.
    """
    bar = ProgressBar(description)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(bar)
    try:
        yield
    finally:
        bar.close()


def _selected(logs: dict[str, Any], prefix: str) -> dict[str, str]:
    values = {label: logs.get(prefix + key) for key, label in _SHOWN.items()}
    return {label: f"{float(value):.3f}" for label, value in values.items() if value is not None}


def _sentence(shown: dict[str, str]) -> str:
    return ", ".join(f"{label} {value}" for label, value in shown.items())
