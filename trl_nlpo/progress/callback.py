"""The callback that shows a trainer's progress, and how it comes in the place of transformers' own."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback

from ..launch.library_output import without_bars
from .lines import ProgressLines
from .numbers import RunProgress, evaluations, numeric
from .panel import ProgressPanel


class ShownProgress(ProgressCallback, PrinterCallback):
    """A panel on a terminal, a plain line per log event elsewhere; with `disable_tqdm`, lines on a terminal too.

    The first process alone shows anything. It is a `ProgressCallback` and a `PrinterCallback`, so that scripts that
    remove these remove this.

    Args:
        title (`str`): what runs.
    """

    def __init__(self, title: str):
        super().__init__()
        self.progress = RunProgress(title)
        self.view: ProgressLines | ProgressPanel | None = None
        self._open = contextlib.ExitStack()
        self._step_began: float | None = None
        self._seconds = 0.0
        self._counted = 0.0

    def note_sample(self, sample: Mapping[str, Any]) -> None:
        """Show this prompt with its completion; `prompt`, `completion` and `score`."""
        self.progress.sample = sample

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the panel, if there is to be one."""
        self.close()
        self.progress = RunProgress(
            self.progress.title,
            unit="updates" if hasattr(args, "num_ppo_epochs") else "steps",
            step=state.global_step,
            total=state.max_steps,
            first=state.global_step,
            kl_target=getattr(args, "kl_target", None),
            has_mask=getattr(args, "mask_strategy", "none") != "none",
        )
        self._step_began, self._seconds, self._counted = None, 0.0, float(getattr(state, "episode", 0))
        if not state.is_world_process_zero:
            return
        self._open.enter_context(without_bars())
        self.view = ProgressPanel(self.progress) if shows_panel(args) else ProgressLines(self.progress)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time."""
        self._step_began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        self.progress.step = state.global_step
        if self._step_began is not None:
            self._seconds += time.monotonic() - self._step_began
            self._step_began = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show what is logged."""
        if not state.is_world_process_zero:
            return
        # Evaluated outside of training, by a script.
        view = self.view or ProgressLines(self.progress)
        numbers = numeric(logs)
        self.progress.step, self.progress.total = state.global_step, state.max_steps
        if evaluations(numbers):
            view.log_evaluation(numbers)
        elif "train_runtime" in numbers:
            view.log_end(numbers)
        else:
            self._take(numbers)
            view.log()

    def _take(self, numbers: dict[str, float]) -> None:
        progress = self.progress
        progress.logs = numbers
        if progress.first_reward is None:
            progress.first_reward = numbers.get("reward")
        # All tokens so far, or those of the completions sampled since the last log.
        so_far = numbers.get("num_tokens", numbers.get("episode"))
        if so_far is None:
            return
        tokens = (so_far - self._counted) * numbers.get("completions/mean_length", 1.0)
        progress.tokens_per_second = tokens / self._seconds if self._seconds else None
        self._seconds, self._counted = 0.0, so_far

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """No bar of its own."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What was evaluated was logged."""

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Nothing is shown."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the panel."""
        self.close()

    def close(self) -> None:
        """Take the panel away, if there is one; what is printed next comes below its last line."""
        view, self.view = self.view, None
        self._open.close()
        if view is not None:
            view.close()


def shows_panel(args: Any) -> bool:
    """Whether there is a terminal that can be drawn on, and `disable_tqdm` does not forbid it."""
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb").lower() not in ("dumb", "unknown")
    return is_terminal and not args.disable_tqdm


def show_progress_of(trainer: Any, title: str) -> ShownProgress:
    """Put our progress in the place of transformers', or rename it where it is; a notebook keeps its table.

    Args:
        trainer (`transformers.Trainer`)
        title (`str`): what runs.

    Returns:
        [`ShownProgress`]: not among the trainer's callbacks in a notebook, where it shows nothing.
    """
    callbacks = trainer.callback_handler.callbacks
    shown = next((one for one in callbacks if isinstance(one, ShownProgress)), None)
    if shown is None:
        shown = ShownProgress(title)
        if not any(map(is_notebook_table, callbacks)):
            trainer.remove_callback(ProgressCallback)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(shown)
    shown.progress.title = title
    return shown


@contextlib.contextmanager
def showing_progress(trainer: Any, title: str) -> Iterator[None]:
    """Inside, a trainer's progress is shown as [`show_progress_of`] has it.

    It is closed on the way out, whatever happens, so that an error message begins on a line of its own.
    """
    shown = show_progress_of(trainer, title)
    try:
        yield
    finally:
        shown.close()


def is_notebook_table(callback: Any) -> bool:
    """Whether a callback (or class of one) is a notebook's progress table, without importing what that needs."""
    cls = callback if isinstance(callback, type) else type(callback)
    return any((of.__module__, of.__name__) == _NOTEBOOK for of in cls.__mro__)


_NOTEBOOK = ("transformers.utils.notebook", "NotebookProgressCallback")
