"""The progress table of a notebook, with what is logged here. Imported in notebooks only: it needs IPython."""

from __future__ import annotations

import contextlib
from typing import Any

from transformers.utils.notebook import NotebookProgressCallback, NotebookTrainingTracker

from ..launch.library_output import without_bars


COLUMNS = {
    "reward": "Reward",
    "objective/kl": "KL",
    "perplexity": "Perplexity",
    "policy/entropy_avg": "Entropy",
    "completions/mean_length": "Length",
    "loss/policy_avg": "Policy Loss",
    "loss/value_avg": "Value Loss",
}
"""Metrics of the log, and their titles."""

EVAL_COLUMNS = {"reward": "Eval Reward", "perplexity": "Eval Perplexity"}
"""Metrics of evaluation, and their titles; those of a named data set have its name in the title."""


_EMPTY = "No Log"
"""What transformers writes into a cell without a value."""


class NotebookTable(NotebookProgressCallback):
    """`NotebookProgressCallback`, which knows a training loss and none of our metrics, with columns of ours.

    Its bar is the only one: those of transformers and datasets are off until training ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open = contextlib.ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the table."""
        self.close()
        self._open.enter_context(without_bars())
        self.training_tracker = NotebookTrainingTracker(state.max_steps, ["Step", *COLUMNS.values()])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Write what is logged in the row of the update."""
        values = {title: logs[name] for name, title in COLUMNS.items() if name in logs} if logs else {}
        self._write(state, values)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Write what was evaluated in the row of the update."""
        values = {}
        for name, value in (metrics or {}).items():
            # `eval_reward`, or `eval_<data set>_reward`
            start, _, metric = name.rpartition("_")
            if metric in EVAL_COLUMNS and "/" not in name:
                of = start.partition("_")[2]
                values[EVAL_COLUMNS[metric] + (f" ({of})" if of else "")] = value
        self._write(state, values)
        self._force_next_update = True

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """No second bar."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the table for the last time."""
        super().on_train_end(args, state, control, **kwargs)
        self.close()

    def close(self) -> None:
        """Let others show bars again."""
        self._open.close()

    def _write(self, state: Any, values: dict[str, float]) -> None:
        tracker = self.training_tracker
        if not values or tracker is None:
            return
        row: dict[str, Any] = {"Step": state.global_step, **values}
        if len(tracker.inner_table) == 1:
            # The first row must have all columns; an evaluation that comes before training has few.
            row = {**dict.fromkeys(tracker.inner_table[0], _EMPTY), **row}
        tracker.write_line(row)
