"""The keys that a recipe may have, and their values by the types of the fields behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence
from typing import Any, get_type_hints

from ..errors import UserError
from ..naming import did_you_mean
from .values import WrongValueError, convert


COMPUTED = {
    "sft_model_path": "model_name_or_path",
    "reward_model_path": "rewards",
    "batch_size": "per_device_train_batch_size and gradient_accumulation_steps",
    "local_batch_size": "per_device_train_batch_size and gradient_accumulation_steps",
    "micro_batch_size": "per_device_train_batch_size",
    "mini_batch_size": "num_mini_batches",
    "local_mini_batch_size": "num_mini_batches",
    "num_total_batches": "total_episodes",
    "world_size": "`accelerate launch --num_processes`",
    "reward_weights": "rewards: [{name: ..., weight: ...}]",
}
"""Fields of `NLPOConfig` that are computed or that only other scripts read, and what to set instead."""


def recipe_fields(classes: Sequence[type], refused: Container[str] = COMPUTED) -> dict[str, tuple[Any, Any]]:
    """Every key that a recipe may have: its type, and the values it is restricted to (or None)."""
    fields = {}
    for cls in reversed(classes):
        hints = get_type_hints(cls)
        for item in dataclasses.fields(cls):
            if item.init and item.name not in refused:
                fields[item.name] = (hints[item.name], item.metadata.get("choices"))
    return fields


def converted(key: str, value: Any, where: str, fields: dict[str, tuple[Any, Any]]) -> Any:
    """A key's value as the type of its field.

    Args:
        key (`str`): as it was given.
        value: from YAML or the command line.
        where (`str`): the file, or `"command line"`, for messages.
        fields (`dict`): of [`recipe_fields`].

    Raises:
        UserError: an unknown key, one that a recipe may not set, or a value of another type.
    """
    if key in COMPUTED and key not in fields:
        raise UserError(f"{where}: {key!r} is not a key of a recipe; set {COMPUTED[key]} instead.")
    if key not in fields:
        if (there := name_here(key)) and there.rpartition(" ")[2] in fields:
            raise UserError(f"{where}: unknown key {key!r}: {there}.")
        hint = did_you_mean(key, fields) or f": it is not one of the {len(fields)} keys of a recipe."
        raise UserError(f"{where}: unknown key {key!r}{hint}")
    hint, choices = fields[key]
    try:
        return convert(value, hint, choices)
    except WrongValueError as error:
        raise UserError(f"{where}: {key} is {value!r}, but must be {error}.") from None


def name_here(key: str) -> str | None:
    """What a recipe has instead of a key that it may not set, or of a name that another trainer has; None for others.

    Returns:
        `"use kl_coef"`.
    """
    from ..config.names_elsewhere import SETTINGS

    if key in COMPUTED:
        return f"set {COMPUTED[key]} instead"
    there = _ELSEWHERE.get(key) or SETTINGS.get(key)
    return there if there and there.startswith("use ") else None


_ELSEWHERE = {
    "model": "use model_name_or_path",
    "model_name": "use model_name_or_path",
    "dataset": "use dataset_name",
    "reward_funcs": "use rewards",
    "reward_fn": "use rewards",
    "tokenizer": "use model_name_or_path, whose tokenizer is taken",
}
"""Names that are no trainer's setting but a recipe's key: what to write instead."""
