"""A few completions for people to read at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ..display import printable
from .numbers import short


_LONGEST = 300
"""Characters that are shown of a text."""


def as_line(value: Any) -> str:
    """A prompt or completion, text or messages, in one line without control characters."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "content" in value[0]:
        value = " ".join(f"{message.get('role', '')}: {message['content']}" for message in value)
    return printable(" ".join(str(value).split()))


def print_samples(console: Console, title: str, samples: Sequence[Mapping[str, Any]], count: int = 3) -> None:
    """Print the first few samples: prompt, completion and reward, each truncated.

    Args:
        console: where to.
        title (`str`): above them.
        samples: with `prompt`, `completion` and `score` each.
        count (`int`): how many of them.
    """
    if not samples:
        return
    console.print(Text(printable(title)), soft_wrap=True)
    for sample in samples[:count]:
        for name, text in _described(sample).items():
            console.print(Text.assemble((f"  {name:<11}", "dim"), text), soft_wrap=True)
        console.print()


def _described(sample: Mapping[str, Any]) -> dict[str, str]:
    prompt, completion = as_line(sample["prompt"]), as_line(sample["completion"])
    score = sample.get("score")
    return {
        # The end of a prompt, which the completion goes on from.
        "prompt": prompt if len(prompt) <= _LONGEST else f"... {prompt[-_LONGEST:]}",
        "completion": completion if len(completion) <= _LONGEST else f"{completion[:_LONGEST]} ...",
        "reward": "-" if score is None else short(float(score)),
    }
