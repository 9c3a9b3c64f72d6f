"""What is checked before a run begins, and by `--dry-run`.

It would otherwise fail only after hours, or after an earlier run's results were replaced. Nothing that the recipe
names is written, loaded or imported for it.
"""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState

from ..algorithm.batch_plan import BatchPlan
from ..data.splits import Splits
from ..errors import UserError
from ..recipes.recipe import Recipe, placing_mistakes
from ..storage.run_folder import check_free
from ..storage.run_lock import check_not_taken
from ..trainer.checkpoints import check_checkpoint
from ..trainer.optimizer_settings import check_optimizer_settings
from ..trainer.saved_critics import SavedCritic


def check_before_start(recipe: Recipe, overwrite: bool = False) -> None:
    """Check folder, models' paths, trackers and optimizer of a run.

    Args:
        recipe ([`Recipe`])
        overwrite (`bool`): whether an earlier run in `output_dir` is to be replaced.

    Raises:
        UserError: the first that cannot work.
    """
    with placing_mistakes(recipe):
        recipe.arguments.check_functions()
    _check_folder(recipe, overwrite)
    with placing_mistakes(recipe):
        _check_paths(recipe)
        _check_trackers(recipe.training.report_to)
        _check_ranges(recipe)
        for name in _critic(recipe).values():
            SavedCritic(name)
        if recipe.algorithm.reinforces:
            check_optimizer_settings(recipe.training)


def check_batches(recipe: Recipe, splits: Splits) -> None:
    """Raise a `UserError` for batches that cannot be split, or that the training data cannot fill."""
    if recipe.algorithm.reinforces:
        BatchPlan.from_config(recipe.training, PartialState().num_processes, len(splits.train))


def _check_folder(recipe: Recipe, overwrite: bool) -> None:
    folder, resumed = Path(str(recipe.training.output_dir)), recipe.arguments.resume_from_checkpoint
    if resumed and overwrite:
        raise UserError("--resume and --overwrite are two opposite things: give one of them.")
    check_not_taken(folder)
    check_free(folder, bool(resumed), overwrite)
    if isinstance(resumed, str):
        check_checkpoint(resumed)
    for key, name in {**_models(recipe), **_critic(recipe)}.items():
        if overwrite and folder.resolve() in (Path(name).resolve(), *Path(name).resolve().parents):
            raise UserError(f"{key} {name!r} lies in output_dir, which --overwrite replaces: give another output_dir.")


def _models(recipe: Recipe) -> dict[str, str]:
    """Models that the recipe names, by key."""
    arguments = recipe.arguments
    named = {
        "model_name_or_path": recipe.model.model_name_or_path,
        "supervised_model": arguments.supervised_model,
        "judge_model": arguments.judge_model,
    }
    return {key: name for key, name in named.items() if name is not None}


def _critic(recipe: Recipe) -> dict[str, str]:
    """The critic that the recipe starts from, by key."""
    name = recipe.training.value_model
    return {"value_model": name} if recipe.algorithm.reinforces and name is not None else {}


def _check_paths(recipe: Recipe) -> None:
    """Refuse paths of models that are not there. What may be a name on the Hub is asked for when it is loaded."""
    for key, name in _models(recipe).items():
        path = Path(name).expanduser()
        is_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or key == "supervised_model"
        if is_path and not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "is not there"
            raise UserError(f"{key} {name!r} {what} (looked in {Path.cwd()}).")
        if path.is_dir() and not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise UserError(f"{key} {name!r} holds no model: it has neither config.json nor adapter_config.json.")


def _check_trackers(names: list[str] | str) -> None:
    """Refuse trackers (`report_to`) that are not known or whose package is missing."""
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in [names] if isinstance(names, str) else names:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(
                f"report_to has {name!r}; take none, all, or some of {', '.join(INTEGRATION_TO_CALLBACK)}."
            )
        # Two are known to transformers without being listed.
        if name not in ("flyte", "azure_ml") and name not in get_available_reporting_integrations():
            raise UserError(f"report_to has {name!r}, whose package is not installed: install it, or leave it out.")


_AT_LEAST: dict[str, float] = {
    "gradient_accumulation_steps": 1, "warmup_steps": 0, "max_grad_norm": 0, "logging_steps": 0, "save_steps": 0,
    "num_train_epochs": 0,
}  # fmt: skip
"""Settings of `transformers` that it takes whatever they are, and the least of each that can work."""


def _check_ranges(recipe: Recipe) -> None:
    for name, least in _AT_LEAST.items():
        value = getattr(recipe.training, name)
        if value is not None and value < least:
            raise UserError(f"{name} is {value!r}, but must be at least {least:g}.")
