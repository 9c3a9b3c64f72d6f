"""Which numbers of a log are shown, under which names, and how they are written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunProgress:
    """How far a trainer is.

    Attributes:
        title (`str`): what runs.
        unit (`str`): what a step is called, in the plural.
        step (`int`), total (`int`), first (`int`): of the run, and where this process began.
        logs (`dict`): numbers of the latest log that is no evaluation.
        first_reward (`float`, *optional*): the first that was logged.
        tokens_per_second (`float`, *optional*): sampled, or read in supervised training, by all processes together.
        kl_target (`float`, *optional*), has_mask (`bool`): as the trainer's arguments say.
        sample (`dict`, *optional*): one prompt with its completion and score.
        notice (`str`): a line to be read at once.
        started (`float`): by `time.monotonic`.
    """

    title: str
    unit: str = "steps"
    step: int = 0
    total: int = 0
    first: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    first_reward: float | None = None
    tokens_per_second: float | None = None
    kl_target: float | None = None
    has_mask: bool = False
    sample: Mapping[str, Any] | None = None
    notice: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None before the first step."""
        done = self.step - self.first
        return self.seconds / done * max(self.total - self.step, 0) if done > 0 else None


def numeric(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """The numbers of a log; transformers has some of them as text."""
    return {name: float(value) for name, value in (logs or {}).items() if _is_number(value)}


def shown_numbers(progress: RunProgress) -> dict[str, str]:
    """The main numbers of the latest log, by the names that people read; what was not logged is left out."""
    logs = progress.logs
    shown = {
        "loss": _number(logs, "loss"),
        "reward": _number(logs, "reward"),
        "KL": _kl(progress),
        "kl_coef": _number(logs, "nlpo/kl_coef"),
        "clipped": _percent(logs, "policy/clipfrac_avg"),
        "entropy": _number(logs, "policy/entropy_avg" if "policy/entropy_avg" in logs else "entropy"),
        "perplexity": _number(logs, "perplexity"),
        "accuracy": _percent(logs, "mean_token_accuracy" if "mean_token_accuracy" in logs else "accuracy"),
        "learning rate": f"{logs['learning_rate']:.2g}" if "learning_rate" in logs else "",
        "mask": _mask(progress),
        "speed": "" if progress.tokens_per_second is None else f"{progress.tokens_per_second:,.0f} tokens/s",
    }
    return {name: text for name, text in shown.items() if text}


def evaluations(logs: Mapping[str, float]) -> dict[str, str]:
    """What was evaluated: by the name of the data set (empty where there is one) its main numbers in a line."""
    found: dict[str, dict[str, str]] = {}
    for name, value in logs.items():
        start, _, metric = name.rpartition("_")
        if (
            "/" not in name
            and start.partition("_")[0] in ("eval", "test")
            and metric in ("reward", "perplexity", "loss")
        ):
            found.setdefault(start.partition("_")[2], {})[metric] = short(value)
    return {of: ", ".join(f"{metric} {text}" for metric, text in shown.items()) for of, shown in found.items()}


def short(value: float) -> str:
    """A number in few characters.

    Example:
        >>> [short(value) for value in (0.53219, 12.345, 12345.6, 2e-5, 0)]
        ['0.532', '12.3', '12,346', '2.0e-05', '0']
    """
    size = abs(value)
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if size == 0:
        return "0"
    if size < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 1 else f"{value:.2f}" if size < 10 else f"{value:,.{int(size < 100)}f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> duration(3725.4)
        '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _number(logs: Mapping[str, float], name: str) -> str:
    return short(logs[name]) if name in logs else ""


def _percent(logs: Mapping[str, float], name: str) -> str:
    return f"{100 * logs[name]:.1f} %" if name in logs else ""


def _kl(progress: RunProgress) -> str:
    kl = _number(progress.logs, "objective/kl")
    return kl if not kl or progress.kl_target is None else f"{kl} (target {progress.kl_target:g})"


def _mask(progress: RunProgress) -> str:
    logs = progress.logs
    if not progress.has_mask or "nlpo/mask_size" not in logs:
        return ""
    size, mass = short(logs["nlpo/mask_size"]), _number(logs, "nlpo/mask_mass")
    return f"{size} tokens, mass {mass}, age {logs.get('nlpo/mask_age', 0.0):g}"
