"""The progress table of a notebook, with what is logged here. Imported in notebooks only: it needs IPython."""

from __future__ import annotations

from typing import Any

from transformers.utils.notebook import NotebookProgressCallback, NotebookTrainingTracker


COLUMNS = {
    "reward": "Reward",
    "objective/kl": "KL",
    "policy/entropy_avg": "Entropy",
    "completions/mean_length": "Length",
    "loss/policy_avg": "Policy Loss",
    "loss/value_avg": "Value Loss",
}
"""Metrics of the log, and their titles."""

EVAL_COLUMNS = {"reward": "Eval Reward", "perplexity": "Eval Perplexity"}
"""Metrics of evaluation, and their titles; those of a named data set have its name in the title."""


class NotebookTable(NotebookProgressCallback):
    """`NotebookProgressCallback`, which knows a training loss and none of our metrics, with columns of ours."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the table."""
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

    def _write(self, state: Any, values: dict[str, float]) -> None:
        if values and self.training_tracker is not None:
            self.training_tracker.write_line({"Step": state.global_step, **values})
