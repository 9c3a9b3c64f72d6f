"""Scoring a model, an adapter or another system's predictions on a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..algorithm.reward_calls import FunctionFailedError, call_all
from ..algorithm.scoring import as_rows, check_weights, finite_number, reward_names
from ..data.splits import load_splits
from ..errors import RewardError, UserError
from ..evaluation.policy import evaluate_policy
from ..metrics.suite import fit_rewards, judge_samples, metric_columns
from ..recipes.algorithms import ZERO_SHOT
from ..recipes.recipe import Recipe, load_recipe
from ..storage.files import check_folder, replace_file
from .predictions import matched_predictions
from .starting_model import starting_model, starting_tokenizer


if TYPE_CHECKING:
    from datasets import Dataset


_NEEDS_TOKENS = "a bare classifier reads tokens, which predictions do not have: write {name: classifier, model: ...}."
_REWARDS_TOKENS = "it gives a reward per token, and predictions are texts without tokens."


@dataclass(frozen=True)
class TaskScores:
    """What a system does on a task's test split.

    Attributes:
        metrics (`dict[str, float]`): rewards (`reward`, `rewards/<name>/mean`) and the task's metrics. There is no
            `reward` where none of them could be computed.
        unavailable (`dict[str, str]`): metrics and rewards that could not be computed, and why.
        samples (`list[dict]`): prompt, prediction and scores of every row.
    """

    metrics: dict[str, float]
    unavailable: dict[str, str]
    samples: list[dict[str, Any]]

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def evaluate_on_task(
    system: str,
    recipe_name: str,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    stage: str | None = None,
) -> TaskScores:
    """Score a system on the test split of a task's recipe.

    Args:
        system (`str`): folder or Hub id of a model or adapter, or a `.jsonl` file of predictions: a row per test
            prompt with `prediction` (or `completion`), in the split's order, or all with their `id` or `prompt`; or
            the `samples.jsonl` of a run.
        recipe_name (`str`): a recipe, by name or file.
        overrides (`Sequence[str]`): keys of the recipe.
        out (`Path`, *optional*): a file for scores and samples.
        stage (`str`, *optional*): of a run's samples, the stage whose completions are scored; the last by default.

    Raises:
        UserError: `out` cannot be written, or the recipe, the model or the predictions do not exist, or do not fit
            the test split.
    """
    if out is not None:
        check_folder(out.absolute().parent, "--out: the folder")
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: give a file.")
    is_file = system.endswith(".jsonl")
    if stage is not None and not is_file:
        raise UserError(f"--stage is for the samples.jsonl of a run, and {system} is a model: leave it out.")
    # A system is scored as it is; a recipe's use_peft is about the adapter that a run would add to it.
    words = [*overrides, "--algorithm", ZERO_SHOT.name, "--use_peft", "false"]
    recipe = load_recipe(recipe_name, words if is_file else [*words, "--model_name_or_path", system])
    splits = load_splits(recipe.arguments, recipe.training.seed)
    rewards = recipe.arguments.reward_functions()
    fit_rewards(rewards, splits.train)
    if is_file:
        predictions = matched_predictions(Path(system), splits.test, stage)
        metrics, samples, unavailable = _score_predictions(predictions, recipe, rewards, splits.test)
    else:
        metrics, samples, unavailable = _score_model(recipe, rewards, splits.test)
    judged = judge_samples(recipe.arguments.metric_specs, samples, splits.test)
    found = TaskScores(metrics | judged.metrics, unavailable | judged.unavailable, judged.samples)
    if out is not None:
        found.write(out)
    return found


_Scored = tuple[dict[str, float], list[dict[str, Any]], dict[str, str]]


def _score_model(recipe: Recipe, rewards: list[Any], test: Dataset) -> _Scored:
    judge = recipe.arguments.judge_model
    evaluation = evaluate_policy(
        starting_model(recipe),
        starting_tokenizer(recipe),
        test,
        rewards,
        recipe.training,
        judge=starting_model(recipe, folder=Path(judge)) if judge else None,
        description="the test split",
    )
    return evaluation.metrics, evaluation.samples, {}


def _score_predictions(predictions: list[str], recipe: Recipe, rewards: list[Any], test: Dataset) -> _Scored:
    """Rewards of texts without tokens; a function that needs tokens, or fails, is reported and left out of the sum."""
    completions = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(test["prompt"], predictions, strict=True)
    ]
    weights = check_weights(recipe.training.reward_weights, len(rewards))
    weighted = [pair for pair in zip(rewards, weights, strict=True) if callable(pair[0])]
    functions = [function for function, _ in weighted]
    names = reward_names(functions)
    unavailable = {name: _NEEDS_TOKENS for name in rewards if isinstance(name, str)}
    answers = call_all(functions, names, {**metric_columns(test), "completions": completions}, None)
    metrics, total = {}, 0.0
    for name, (_, weight), answer in zip(names, weighted, answers, strict=True):
        try:
            numbers = _numbers(answer, name, len(completions))
        except RewardError as error:
            unavailable[name] = str(error)
            continue
        if numbers:
            metrics[f"rewards/{name}/mean"] = sum(numbers) / len(numbers)
        # A row that a function does not apply to earns nothing by it, as in training.
        total += weight * sum(numbers) / len(completions)
    samples = [
        {"prompt": prompt, "completion": completion}
        for prompt, completion in zip(test["prompt"], completions, strict=True)
    ]
    return {"reward": total, **metrics} if metrics else {}, samples, unavailable


def _numbers(answer: Any, name: str, num_rows: int) -> list[float]:
    """What a function returned for the rows that it applies to; a `RewardError` says why it is not a reward."""
    if isinstance(answer, FunctionFailedError):
        raise answer
    values = as_rows(answer, name, num_rows)
    if any(isinstance(value, list) for value in values):
        raise RewardError(_REWARDS_TOKENS)
    return [finite_number(value, name, row) for row, value in enumerate(values) if value is not None]
