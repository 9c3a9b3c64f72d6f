"""What callbacks remember, such as the patience of early stopping, from a checkpoint into those of a resumed run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.trainer_callback import ExportableState


def with_state(callbacks: Iterable[Any]) -> Any:
    """Those that have something to remember."""
    return [callback for callback in callbacks if isinstance(callback, ExportableState)]


def restore_callbacks(callbacks: Iterable[Any], saved: dict[str, Any]) -> None:
    """Give callbacks back what they counted; what they were built with stays as it is.

    Args:
        callbacks: those of the run, in their order.
        saved (`dict`): `TrainerState.stateful_callbacks` of a checkpoint: states, or lists of them, by class name.
    """
    by_class: dict[str, list[Any]] = {}
    for callback in with_state(callbacks):
        by_class.setdefault(type(callback).__name__, []).append(callback)
    for name, same in by_class.items():
        states = saved.get(name, [])
        states = states if isinstance(states, list) else [states]
        # `transformers` adds to the list of callbacks of one class at every save; the last are the latest.
        for callback, state in zip(same, states[-len(same) :], strict=False):
            for attribute, value in state.get("attributes", {}).items():
                setattr(callback, attribute, value)
