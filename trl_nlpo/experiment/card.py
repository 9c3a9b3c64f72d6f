"""What a run's model card says beyond what its trainer knows: task, data, start, results, samples and curves."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub.card import LOCAL_DATA, CardFacts, hub_id
from ..hub.snippet import PLACEHOLDER, Reading
from ..metrics.texts import completion_text, prompt_text
from ..recipes.algorithms import Algorithm
from ..recipes.files import read_yaml
from ..recipes.presets import MINIATURE
from ..recipes.recipe import Recipe
from ..storage.results import RECIPE_NAME, RunResults
from ..tasks.registry import get_task
from .learning_curve import draw_learning_curve


if TYPE_CHECKING:
    from datasets import Dataset

    from ..tasks.base import Task


_NUM_SAMPLES = 4
_LONGEST_EXAMPLE = 300
"""Characters; a test prompt that is not longer is preferred as the example in the card's code."""


def with_recipe(facts: CardFacts, recipe: Recipe, test: Dataset) -> CardFacts:
    """Facts of a run, while it runs: names of models and data are told from paths where it runs.

    Args:
        facts ([`CardFacts`]): the trainer's.
        recipe ([`Recipe`])
        test (`Dataset`): the test split, whose rows are examples.
    """
    arguments, algorithm = recipe.arguments, recipe.algorithm
    dataset_name, data = _data(recipe)
    task = None if arguments.task is None else get_task(arguments.task)
    supervised = None
    if algorithm.supervised:
        supervised = {
            "supervised_num_train_epochs": arguments.supervised_num_train_epochs,
            "supervised_learning_rate": arguments.supervised_learning_rate,
            "supervised_lr_scheduler_type": arguments.supervised_lr_scheduler_type,
            "supervised_batch_size": arguments.supervised_batch_size,
        }
    settings: dict[str, Any] = {"algorithm": algorithm.name, **facts.settings}
    if recipe.model.use_peft:
        settings |= {"lora_r": recipe.model.lora_r, "lora_alpha": recipe.model.lora_alpha}
    return dataclasses.replace(
        facts,
        method="A2C" if algorithm.objective == "a2c" else facts.method,
        base_model=_starting_model(recipe),
        dataset_name=dataset_name,
        data=data,
        task=task.name if task is not None else _quickstart(recipe),
        task_summary=None if task is None else _summary(task),
        reading=_reading(facts.reading, recipe, test),
        settings=settings,
        supervised=supervised,
        split=arguments.dataset_test_split,
        recipe=RECIPE_NAME,
    )


def with_results(facts: CardFacts, run: RunResults) -> CardFacts:
    """Facts of a finished run, with the numbers and samples in its folder, where the learning curve is drawn.

    A run whose model is not evaluated yet says nothing of any results.
    """
    algorithm = Algorithm.parse(str((run.recipe or {}).get("algorithm", "nlpo")))
    stage = algorithm.last_stage
    if stage not in run.stages:
        return facts
    before = algorithm.stages[-2]
    results = {name: _numbers(run.stages[name]) for name in algorithm.stages if name in run.stages}
    return dataclasses.replace(
        facts,
        results=results,
        better=dict(run.better),
        num_rows=len(run.samples),
        before=before if before in run.stages else None,
        samples=[
            {
                "prompt": prompt_text(row["prompt"]),
                "before": completion_text(row[before]["completion"]),
                "after": completion_text(row[stage]["completion"]),
            }
            for row in run.samples[:_NUM_SAMPLES]
            if before in row and stage in row
        ],
        picture=draw_learning_curve(run.log, stage, run.folder),
    )


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Of a stage's columns those that are numbers, and no times."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if name != "seconds" and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _summary(task: Task) -> str:
    if task.prepare is None:
        return task.summary
    return f"{task.summary} Its rows are brought into a form of the task's first, by its function prepare."


def _data(recipe: Recipe) -> tuple[str | None, str | None]:
    """The data's id on the Hub, or what it is in words."""
    name, task = recipe.arguments.dataset_name, recipe.arguments.task
    if task is not None and name == MINIATURE:
        return None, "rows that the task makes up (its miniature)"
    if task is not None and name is None:
        hub = get_task(task).hub
        return (None, None) if hub is None else (hub.path, None)
    if _quickstart(recipe):
        return None, "sentences that trl-nlpo makes up"
    found = hub_id(name)
    return found, None if found else LOCAL_DATA


def _quickstart(recipe: Recipe) -> str | None:
    name = recipe.arguments.dataset_name
    return name if name == "quickstart" else None


def _starting_model(recipe: Recipe) -> str | None:
    """The id on the Hub of the model that the first stage of all started from."""
    given = recipe.arguments.supervised_model
    if given is None:
        return hub_id(recipe.model.model_name_or_path)
    # Another run's; only its recipe knows, where it is beside the model.
    path = Path(given).parent / RECIPE_NAME
    return hub_id(read_yaml(path).get("model_name_or_path")) if path.is_file() else None


def _reading(reading: Reading, recipe: Recipe, test: Dataset) -> Reading:
    """How prompts are read, with an example of the test split."""
    sizes = [len(prompt_text(prompt)) for prompt in test["prompt"]]
    fitting = [index for index, size in enumerate(sizes) if 0 < size <= _LONGEST_EXAMPLE]
    row = test[fitting[0] if fitting else 0]
    if not isinstance(row["prompt"], str):
        return dataclasses.replace(reading, messages=[_without_nothing(message) for message in row["prompt"]])
    template = recipe.arguments.prompt_template
    columns = _columns(template, row)
    if columns is None:
        template, columns = "{prompt}", {"prompt": row["prompt"] or PLACEHOLDER}
    return dataclasses.replace(reading, template=template, example=columns)


def _without_nothing(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without the keys that it only has because others of its column have them."""
    return {key: value for key, value in message.items() if value is not None}


def _columns(template: str, row: Mapping[str, Any]) -> dict[str, str] | None:
    """The text of each column that a template names, of a row whose prompt is made with it.

    None where the prompt cannot be taken out of it again: it is there twice, or in a format of its own.
    """
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    texts = {name: _text(row[name]) for name in names if name != "prompt"}
    if "prompt" not in names:
        return texts
    before, _, after = template.format(prompt="\0", **texts).partition("\0")
    whole, after = row["prompt"], after.rstrip(" ")
    if names.count("prompt") > 1 or not (whole.startswith(before) and whole.endswith(after)):
        return None
    texts["prompt"] = whole[len(before) : len(whole) - len(after)] or PLACEHOLDER
    return texts


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
