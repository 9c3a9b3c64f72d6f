"""A model, an adapter or someone else's predictions, scored on a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .data import load_splits, read_file
from .errors import UserError
from .evaluation import evaluate_policy
from .metric_suite import fit_rewards, judge_samples, metric_columns
from .recipes import Recipe, load_recipe
from .reward_calls import call_all
from .scoring import check_weights, reward_names
from .starting_model import starting_model, starting_tokenizer


_NEEDS_TOKENS = "a bare classifier reads tokens, which predictions do not have: write {name: classifier, model: ...}."


@dataclass(frozen=True)
class TaskScores:
    """What a system does on a task's test split.

    Attributes:
        metrics (`dict[str, float]`): rewards (`reward`, `rewards/<name>/mean`) and the task's metrics.
        unavailable (`dict[str, str]`): metrics and rewards that could not be computed, and why.
        samples (`list[dict]`): prompt, prediction and scores of every row.
    """

    metrics: dict[str, float]
    unavailable: dict[str, str]
    samples: list[dict[str, Any]]

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def evaluate_on_task(system: str, recipe_name: str, overrides: Sequence[str] = ()) -> TaskScores:
    """Score a system on the test split of a task's recipe.

    Args:
        system (`str`): folder or Hub id of a model or adapter, or a `.jsonl` file of predictions: a row per test
            prompt with `prediction` (or `completion`), in the split's order, or with its `id` or `prompt`.
        recipe_name (`str`): a recipe, by name or file.
        overrides (`Sequence[str]`): keys of the recipe.

    Raises:
        UserError: the recipe, the model or the predictions are not there, or do not fit the test split.
    """
    is_file = system.endswith(".jsonl")
    # A system is scored as it is; a recipe's use_peft is about the adapter that a run would add to it.
    words = [*overrides, "--algorithm", "zero_shot", "--use_peft", "false"]
    recipe = load_recipe(recipe_name, words if is_file else [*words, "--model_name_or_path", system])
    splits = load_splits(recipe.arguments, recipe.training.seed)
    rewards = recipe.arguments.reward_functions()
    fit_rewards(rewards, splits.train)
    score = _score_predictions if is_file else _score_model
    metrics, samples, unavailable = score(system, recipe, rewards, splits.test)
    numbers, samples, missing = judge_samples(recipe.arguments.metric_specs, samples, splits.test)
    return TaskScores(metrics | numbers, {**unavailable, **missing}, samples)


_Scored = tuple[dict[str, float], list[dict[str, Any]], dict[str, str]]


def _score_model(system: str, recipe: Recipe, rewards: list[Any], test: Any) -> _Scored:
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


def _score_predictions(system: str, recipe: Recipe, rewards: list[Any], test: Any) -> _Scored:
    """The rewards of texts alone; one that needs tokens, or fails otherwise, is named and left out of the reward."""
    predictions = matched_predictions(Path(system), test)
    weights = check_weights(recipe.training.reward_weights, len(rewards))
    weighted = [pair for pair in zip(rewards, weights, strict=True) if callable(pair[0])]
    functions = [function for function, _ in weighted]
    names = reward_names(functions)
    unavailable = {name: _NEEDS_TOKENS for name in rewards if isinstance(name, str)}
    answers = call_all(functions, names, {**metric_columns(test), "completions": predictions}, None)
    metrics, total = {}, 0.0
    for name, (_, weight), values in zip(names, weighted, answers, strict=True):
        if isinstance(values, Exception):
            unavailable[name] = str(values)
            continue
        numbers = [float(value) for value in values if value is not None]
        if numbers:
            metrics[f"rewards/{name}/mean"] = sum(numbers) / len(numbers)
        # A row that a function does not apply to earns nothing by it, as in training.
        total += weight * sum(numbers) / len(predictions)
    samples = [
        {"prompt": prompt, "completion": text} for prompt, text in zip(test["prompt"], predictions, strict=True)
    ]
    return {"reward": total, **metrics}, samples, unavailable


def matched_predictions(path: Path, test: Any) -> list[str]:
    """Predictions of a file in the order of the test split.

    Raises:
        UserError: the file is not there, a row has no prediction, or the rows are not those of the split.
    """
    rows = _prediction_rows(path)
    key = next(
        (name for name in ("id", "prompt") if name in test.column_names and all(name in row for row in rows)), None
    )
    if key is None or len(set(test[key])) < len(test):
        if len(rows) != len(test):
            raise UserError(
                f"{path} has {len(rows)} predictions, but the test split has {len(test)} prompts: give one for each, "
                "in its order, or name its prompt."
            )
        return [row["prediction"] for row in rows]
    given = {row[key]: row["prediction"] for row in rows}
    missing = [value for value in test[key] if value not in given]
    if missing:
        raise UserError(
            f"{path} has no prediction for {len(missing)} prompts of the test split, such as {missing[0]!r:.80}."
        )
    return [given[value] for value in test[key]]


def _prediction_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, row in enumerate(read_file(path), 1):
        text = row.get("prediction", row.get("completion"))
        if not isinstance(text, str):
            raise UserError(f"{path}, row {number}: a row needs the text of a `prediction`.")
        rows.append({**row, "prediction": text})
    if not rows:
        raise UserError(f"{path} is empty.")
    return rows
