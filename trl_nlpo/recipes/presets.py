"""Sizes at which a task's recipe can be run without editing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..naming import did_you_mean
from ..tasks.base import Task, needs_download


MINIATURE = "miniature"
"""`dataset_name` of a task's own generated rows."""


def preset_values(name: str, task: Task, given: dict[str, Any]) -> dict[str, Any]:
    """The keys of a recipe that a preset decides.

    Args:
        name (`str`): `"tiny"`.
        task ([`Task`]): the recipe's.
        given (`dict`): the values of file and command line, to know what kind of model the recipe has.

    Raises:
        UserError: an unknown preset.
    """
    if name not in _PRESETS:
        raise UserError(
            f"preset is {name!r}{did_you_mean(name, _PRESETS) or ','} but must be {' or '.join(_PRESETS)}."
        )
    return _PRESETS[name](task, given)


def _tiny(task: Task, given: dict[str, Any]) -> dict[str, Any]:
    """A model of a million weights from scratch on generated rows: minutes on a CPU, nothing downloaded."""
    return {
        "dataset_name": MINIATURE,
        "max_train_samples": 1000,
        "max_eval_samples": 64,
        "max_test_samples": 64,
        "rewards": list(task.offline_rewards),
        "metrics": [spec for spec in (*task.metrics, *task.naturalness) if not needs_download(spec)],
        "model_name_or_path": None,
        "model_type": "t5" if "t5" in str(given.get("model_name_or_path") or task.model_name_or_path) else "llama",
        "vocab_size": 1000,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "use_peft": False,
        "load_in_4bit": False,
        "load_in_8bit": False,
        "max_prompt_length": min(task.max_prompt_length, 160),
        "response_length": min(task.response_length, 32),
        # So that it takes minutes, and leaves something to be learned from the reward.
        "supervised_all_references": False,
        "supervised_where": None,
        "supervised_num_train_epochs": 1.5,
        "supervised_learning_rate": 3e-3,
        "supervised_batch_size": 16,
        "supervised_lr_scheduler_type": "linear",
        "supervised_weight_decay": 0.0,
        "max_steps": 30,
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 64,
        "gradient_accumulation_steps": 1,
        "num_ppo_epochs": 2,
        "num_mini_batches": 4,
        "learning_rate": 1e-4,
        "vf_coef": 0.1,
        "value_trains_backbone": False,
        "warmup_steps": 0,
        "temperature": 1.0,
        "cliprange_value": float("inf"),
        "kl_coef": 0.05,
        "kl_target": None,
        "entropy_coef": 0.0,
        "mask_sync_steps": 2,
        "generation_kwargs": None,
        "eval_generation_kwargs": None,
        "eval_strategy": "steps",
        "eval_steps": 15,
    }


_PRESETS: dict[str, Callable[[Task, dict[str, Any]], dict[str, Any]]] = {"tiny": _tiny}
