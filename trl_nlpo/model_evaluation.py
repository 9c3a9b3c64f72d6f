"""A model, an adapter or someone else's predictions, scored on a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .data import load_splits
from .errors import UserError
from .evaluation import evaluate_policy
from .experiment import metric_columns
from .metric_suite import compute_metrics
from .recipes import Recipe, load_recipe
from .rewards.texts import completion_text
from .scoring import check_weights
from .starting_model import starting_model, starting_tokenizer


@dataclass(frozen=True)
class TaskScores:
    """What a system does on a task's test split.

    Attributes:
        metrics (`dict[str, float]`): rewards (`reward`, `rewards/<name>/mean`) and the task's metrics.
        unavailable (`dict[str, str]`): metrics that could not be computed, and why.
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
    words = [*overrides, "--algorithm", "zero_shot"]
    recipe = load_recipe(recipe_name, words if is_file else [*words, "--model_name_or_path", system])
    test = load_splits(recipe.arguments, recipe.training.seed).test
    metrics: dict[str, float] = {}
    if is_file:
        predictions = matched_predictions(Path(system), test)
        samples = [
            {"prompt": prompt, "completion": text} for prompt, text in zip(test["prompt"], predictions, strict=True)
        ]
        metrics |= _rewards(recipe, test, predictions)
    else:
        model, tokenizer = starting_model(recipe), starting_tokenizer(recipe)
        judge = (
            starting_model(recipe, folder=Path(recipe.arguments.judge_model)) if recipe.arguments.judge_model else None
        )
        rewards = recipe.arguments.reward_functions()
        evaluation = evaluate_policy(
            model, tokenizer, test, rewards, recipe.training, judge, description="the test split"
        )
        metrics |= evaluation.metrics
        samples = evaluation.samples
        predictions = [completion_text(sample["completion"]) for sample in samples]
    suite = compute_metrics(recipe.arguments.metric_specs, predictions, metric_columns(test))
    metrics |= {f"metrics/{name}": value for name, value in suite.metrics.items()}
    rows = [
        {**sample, "metrics": {name: scores[index] for name, scores in suite.rows.items()}}
        for index, sample in enumerate(samples)
    ]
    return TaskScores(metrics, suite.unavailable, rows)


def _rewards(recipe: Recipe, test: Any, predictions: list[str]) -> dict[str, float]:
    functions = recipe.arguments.reward_functions()
    weights = check_weights(recipe.training.reward_weights, len(functions))
    columns = metric_columns(test)
    metrics, total = {}, 0.0
    for function, weight in zip(functions, weights, strict=True):
        if isinstance(function, str):
            # A bare classifier reads the policy's tokens, which predictions do not have.
            continue
        values = [value for value in function(completions=predictions, **columns) if value is not None]
        if values:
            metrics[f"rewards/{function.__name__}/mean"] = sum(values) / len(values)
            total += weight * metrics[f"rewards/{function.__name__}/mean"]
    return {"reward": total, **metrics}


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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable: {error}.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error.msg}).") from None
        text = row.get("prediction", row.get("completion")) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise UserError(f"{path}, line {number}: a row needs the text of a `prediction`.")
        rows.append({**row, "prediction": text})
    if not rows:
        raise UserError(f"{path} is empty.")
    return rows
