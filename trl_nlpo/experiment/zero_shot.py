"""The zero-shot results of another run, taken instead of evaluating the same model on the same prompts again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipes.algorithms import ZERO_SHOT, Algorithm
from ..recipes.recipe import Recipe
from ..storage.results import RunResults


@dataclass(frozen=True)
class TakenOver:
    """Another run's zero-shot results.

    Attributes:
        metrics (`dict`): by column.
        samples (`list[dict]`): a row per test prompt.
        better (`dict`): of each column, which way it is better.
    """

    metrics: dict[str, Any]
    samples: list[dict[str, Any]]
    better: dict[str, str | None]


def zero_shot_of(folder: Path, recipe: Recipe, prompts: list[Any]) -> TakenOver | str:
    """The zero-shot results in a run's folder, or why they are not those that this run would get.

    Args:
        folder (`Path`): the other run's.
        recipe ([`Recipe`]): of this run.
        prompts (`list`): of this run's test split.
    """
    stage = ZERO_SHOT.last_stage
    try:
        run = RunResults.read(folder)
    except UserError as error:
        return str(error)
    if stage not in run.stages or run.recipe is None:
        return f"{folder} has no zero-shot results"
    differing = _differing(run.recipe, recipe.resolved)
    if differing:
        return f"{folder} has another {' and '.join(differing)}"
    if _judge(run.recipe, folder) != _judge(recipe.resolved, Path(str(recipe.training.output_dir))):
        return f"another model judged {folder}"
    if [row.get("prompt") for row in run.samples] != prompts or not all(stage in row for row in run.samples):
        return f"{folder} has other test prompts"
    metrics = {name: value for name, value in run.stages[stage].items() if name != "seconds"}
    samples = [{"prompt": row["prompt"], **row[stage]} for row in run.samples]
    return TakenOver(metrics, samples, {name: run.better[name] for name in metrics if name in run.better})


_ONLY_TRAINING = (
    "algorithm", "output_dir", "judge_model", "zero_shot_results", "max_steps", "total_episodes", "num_train_epochs",
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_ppo_epochs", "num_mini_batches",
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "max_grad_norm", "optim", "weight_decay", "vf_coef",
    "entropy_coef", "gamma", "lam", "cliprange", "cliprange_value", "whiten_rewards", "value_trains_backbone",
    "lam_alpha", "value_model", "cliprange_high", "dual_clip", "is_truncation", "bootstrap_at_length_limit",
    "normalize_returns", "normalize_rewards", "policy_update", "disable_dropout", "fuse_output_layer",
    "stop_on_collapse", "disable_tqdm", "report_to", "run_name", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better", "max_eval_samples", "rollout_engine",
)  # fmt: skip
_ONLY_TRAINING_BEGINNINGS = (
    "mask_", "supervised_", "kl_", "save_", "logging_", "log_", "hub_", "eval_s", "warmup_", "critic_", "positive_",
    "trpo_", "vllm_",
)  # fmt: skip
"""Keys on which what the starting model does on the test split does not depend."""


def _differing(other: dict[str, Any], own: dict[str, Any]) -> list[str]:
    return [
        key
        for key in dict.fromkeys((*other, *own))
        if other.get(key) != own.get(key)
        and key not in _ONLY_TRAINING
        and not key.startswith(_ONLY_TRAINING_BEGINNINGS)
    ]


def _judge(values: dict[str, Any], folder: Path) -> str | None:
    """The folder or name of the model whose perplexity is reported; None for the starting model."""
    given = values.get("judge_model")
    if given is None and Algorithm.parse(values.get("algorithm", "nlpo")).supervised:
        given = values.get("supervised_model") or str(folder / "supervised")
    return None if given is None else str(Path(given).resolve()) if Path(given).is_dir() else given
