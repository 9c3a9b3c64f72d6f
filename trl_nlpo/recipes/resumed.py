"""Whether a resumed run has the recipe that it was started with, key by key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..secrets import without_secret_keys
from .arguments import RecipeArguments
from .files import read_yaml
from .recipe import Recipe
from .specs import parse_rewards
from .values import as_yaml


_FREE = (
    "env", "output_dir", "overwrite_output_dir", "run_name", "project", "trackio_space_id", "disable_tqdm",
    "per_device_eval_batch_size", "num_sample_generations", "num_completions_to_print", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "resume_from_checkpoint", "push_to_hub", "report_to",
    "eval_strategy", "eval_steps", "eval_on_start", "eval_delay", "eval_accumulation_steps", "include_for_metrics",
    "metrics", "judge_model", "zero_shot_results", "stop_on_collapse", "max_skipped_steps", "reward_timeout",
)  # fmt: skip
_FREE_BEGINNINGS = ("log_", "logging_", "save_", "hub_", "dataloader_")
"""Keys that do not change the weights: what is written, logged, evaluated, saved and pushed, and how often."""

_MAY_GROW = ("max_steps", "total_episodes", "num_train_epochs")

_ARCHITECTURE = (
    "algorithm", "model_name_or_path", "model_revision", "model_type", "vocab_size", "hidden_size",
    "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "use_peft", "load_in_8bit", "load_in_4bit",
    "bnb_4bit_quant_type", "use_bnb_nested_quant", "use_dora", "use_rslora", "model_adapter_name", "ref_adapter_name",
)  # fmt: skip
_ARCHITECTURE_BEGINNINGS = ("lora_",)
"""Keys that decide which weights there are, or which stages: another run's checkpoint cannot be loaded."""

_DATA_BEGINNINGS = ("dataset_", "prompt_", "references_", "max_train_samples", "supervised_all_references")
"""Keys that decide the texts from which a run's own tokenizer is trained."""


def check_resumed_recipe(recipe: Recipe, force: bool = False) -> None:
    """Refuse to resume a run with another recipe than its own, which is `recipe.yaml` in its folder.

    What is written, logged, evaluated, saved and pushed may change, and a run may get longer.

    Args:
        recipe ([`Recipe`]): with `resume_from_checkpoint`.
        force (`bool`): resume with other values, unless they make another model or tokenizer.

    Raises:
        UserError: the differences, as `key: old -> new`.
    """
    folder = _run_folder(recipe)
    if not (folder / "recipe.yaml").is_file():
        return
    # A recipe that was edited, or written by an earlier version, may hold what this one would leave out.
    differences = _differences(without_secret_keys(read_yaml(folder / "recipe.yaml")), recipe.resolved)
    fatal = {key: change for key, change in differences.items() if _is_fatal(key, recipe)}
    if fatal:
        raise UserError(
            f"{folder} cannot be resumed with another model, tokenizer or algorithm: {_listed(fatal)}. Resume it with "
            f"its own recipe, {folder / 'recipe.yaml'}, or start a run in another output_dir."
        )
    if differences and not force:
        raise UserError(
            f"{folder} was started with another recipe: {_listed(differences)}. Resume it with its own, "
            f"{folder / 'recipe.yaml'}, start a run in another output_dir, or use the new values with --force."
        )


def _run_folder(recipe: Recipe) -> Path:
    """The folder of the run that is resumed: of the checkpoint, where one is named."""
    checkpoint = recipe.arguments.resume_from_checkpoint
    return Path(checkpoint).parent if isinstance(checkpoint, str) else Path(str(recipe.training.output_dir))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ and may not, with both values; a key that is absent has its default."""
    defaults = _defaults()
    new = yaml.safe_load(yaml.safe_dump(dict(new), sort_keys=False))
    found = {}
    for key in {**old, **new}:
        values = tuple(given.get(key, defaults.get(key)) for given in (old, new))
        if values[0] != values[1] and not _may_change(key, *values):
            found[key] = values
    return found


def _may_change(key: str, old: Any, new: Any) -> bool:
    if key in _FREE or key.startswith(_FREE_BEGINNINGS):
        return True
    if key == "rewards":
        return parse_rewards(old) == parse_rewards(new)
    is_number = isinstance(old, (int, float)) and isinstance(new, (int, float))
    return key in _MAY_GROW and is_number and 0 < old < new


def _is_fatal(key: str, recipe: Recipe) -> bool:
    if key in _ARCHITECTURE or key.startswith(_ARCHITECTURE_BEGINNINGS):
        return True
    return recipe.model.model_name_or_path is None and key.startswith(_DATA_BEGINNINGS)


def _defaults() -> dict[str, Any]:
    from trl import ModelConfig

    from ..config import NLPOConfig

    found = {}
    for cls in (ModelConfig, NLPOConfig, RecipeArguments):
        for item in dataclasses.fields(cls):
            made = item.default_factory() if item.default_factory is not dataclasses.MISSING else None
            found[item.name] = made if item.default is dataclasses.MISSING else item.default
    return found


def _listed(changes: Mapping[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key}: {as_yaml(old)} -> {as_yaml(new)}" for key, (old, new) in changes.items())
