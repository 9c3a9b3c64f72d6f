"""Progress where there is no terminal: a plain line for every log event."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from ..display import printable
from .numbers import RunProgress, duration, evaluations, short, shown_numbers


class ProgressLines:
    """Prints a line with date, step and the main numbers for every log event, and nothing else.

    Args:
        progress ([`RunProgress`]): kept up to date by whoever calls.
    """

    def __init__(self, progress: RunProgress):
        self.progress = progress

    def log(self) -> None:
        """Print `progress.logs`."""
        progress = self.progress
        numbers = [f"{name} {text}" for name, text in shown_numbers(progress).items() if name != "speed"]
        if progress.tokens_per_second is not None:
            numbers.append(f"{progress.tokens_per_second:,.0f} tokens/s")
        if progress.seconds_left:
            numbers.append(f"{duration(progress.seconds_left)} left")
        if numbers:
            self._print(", ".join(numbers))

    def log_evaluation(self, logs: Mapping[str, float]) -> None:
        """Print what an evaluation gave."""
        for of, numbers in evaluations(logs).items():
            self._print(f"evaluation{f' of {of}' if of else ''}: {numbers}")

    def log_end(self, logs: Mapping[str, float]) -> None:
        """Print what transformers logs when a trainer has finished."""
        loss = f", mean loss {short(logs['train_loss'])}" if "train_loss" in logs else ""
        self._print(f"trained in {duration(logs['train_runtime'])}{loss}")

    def close(self) -> None:
        """Nothing is left open."""

    def _print(self, text: str) -> None:
        progress = self.progress
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {progress.title} {progress.step}/{progress.total}: {text}"
        # At once, for who follows a file that it is written to.
        print(printable(line), file=sys.stdout, flush=True)
