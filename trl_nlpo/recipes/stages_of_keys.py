"""Which stage of a run a key of a recipe is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from trl import ModelConfig

from .arguments import RecipeArguments


_NOT_OF_THE_START = {
    "algorithm", "preset", "rewards", "metrics", "judge_model", "supervised_model", "zero_shot_results",
    "max_eval_samples", "max_test_samples", "dataset_validation_split", "dataset_test_split",
    "resume_from_checkpoint",
}  # fmt: skip
_OF_ALL_STAGES = {
    "seed", "bf16", "fp16", "gradient_checkpointing", "max_prompt_length", "prompt_truncation_side",
    "chat_template_kwargs",
}  # fmt: skip


def decide_the_start(keys: Iterable[str]) -> bool:
    """Whether what reinforcement starts from (data, model, supervised stage) depends on any of these keys."""
    names = {field.name for cls in (RecipeArguments, ModelConfig) for field in dataclasses.fields(cls)}
    return any(key in (names - _NOT_OF_THE_START) | _OF_ALL_STAGES for key in keys)
