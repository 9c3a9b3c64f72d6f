"""What a task is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError
from ..metrics.registry import metric_class, metric_names


Row = dict[str, Any]
"""`prompt` (text), `references` (list of texts) and further columns for rewards and metrics."""

_PATIENCE = 1000
"""Repeated rows in a row, besides 20 for every different one, after which a miniature has no others."""


@dataclass(frozen=True)
class Portion:
    """A part of a split of a data set on the Hub: from the share `start` of its rows up to the share `end`."""

    split: str
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class HubData:
    """Where a task's data is on the Hub, in a form that needs no script.

    Attributes:
        path (`str`): the id.
        splits (`dict[str, Portion]`): `train`, `validation` and `test`, and what of the data set they are.
        options (`dict`): further arguments of `datasets.load_dataset`, such as `name`, `revision` (a commit, so that
            the rows stay the same) or `data_files` (so that no other split's files are taken for a split's).
        rows (`dict[str, int]`): how many rows a split of the data set has there; another number is refused.
        shuffle_seed (`int`, *optional*): shuffle a split before a portion of it is taken; for data sorted by label.
    """

    path: str
    splits: dict[str, Portion]
    options: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    shuffle_seed: int | None = None


@dataclass(frozen=True)
class Task:
    """A generation task. Everything but the data is a default that a recipe may change.

    Attributes:
        name (`str`): as recipes and tables call it.
        summary (`str`): what is to be done, in a line.
        hub ([`HubData`], *optional*): the data; None for a task that only reads local files.
        rows (`Callable`): turns the rows of a split on the Hub into [`Row`]s.
        miniature (`Callable`): yields such rows without end, drawn by a `random.Random`: the task offline.
        files (`str`): prefix of the task's files in a folder, `<files>_train.jsonl`.
        prepare (`Callable`, *optional*): makes of a row, whatever its source, the row that the template reads; for
            prompts that no template can make.
        prompt_template (`str`): what the model reads, with `{prompt}` and other columns.
        max_prompt_length (`int`), prompt_truncation_side (`str`): in tokens.
        response_length (`int`): maximum number of tokens of a completion.
        model_name_or_path (`str`): the paper's model.
        rewards (`tuple`): default rewards, as a recipe's `rewards`.
        metrics (`tuple`): the task's own metrics, as a recipe's `metrics`.
        naturalness (`tuple`): the metrics of how natural the text is.
        offline_rewards (`tuple`): rewards that need no download, for the miniature.
    """

    name: str
    summary: str
    rows: Callable[[Iterable[Row]], Iterator[Row]]
    miniature: Callable[[random.Random], Iterator[Row]]
    files: str
    response_length: int
    rewards: tuple[Any, ...]
    metrics: tuple[Any, ...]
    hub: HubData | None = None
    prepare: Callable[[Row], Row] | None = None
    prompt_template: str = "{prompt}"
    max_prompt_length: int = 512
    prompt_truncation_side: Literal["left", "right"] = "right"
    model_name_or_path: str = "google-t5/t5-base"
    naturalness: tuple[Any, ...] = (
        # Not to be confused with the column `perplexity`, that of the run's own judge.
        {"name": "perplexity", "model": "openai-community/gpt2", "as": "perplexity_gpt2"},
        "diversity",
    )
    offline_rewards: tuple[Any, ...] = ("rougeL",)

    def recipe_values(self) -> dict[str, Any]:
        """The keys of a recipe that the task decides unless the recipe does."""
        return {
            "dataset_config": self.files,
            "prompt_template": self.prompt_template,
            "max_prompt_length": self.max_prompt_length,
            "prompt_truncation_side": self.prompt_truncation_side,
            "response_length": self.response_length,
            "model_name_or_path": self.model_name_or_path,
            "rewards": list(self.rewards),
            "metrics": [*self.metrics, *self.naturalness],
        }


def distinct_rows(task: Task, sizes: dict[str, int], seed: int) -> dict[str, list[Row]]:
    """Rows of a task's miniature for every split; no prompt occurs twice, not even in two splits.

    Args:
        task ([`Task`])
        sizes (`dict[str, int]`): rows of each split, drawn in this order.
        seed (`int`): decides everything.

    Raises:
        UserError: the miniature ends, or only repeats itself, before there are so many.
    """
    rows = without_repetition(task.miniature(random.Random(seed)))
    found = list(itertools.islice(rows, sum(sizes.values())))
    if len(found) < sum(sizes.values()):
        raise UserError(
            f"the miniature of task {task.name!r} has only {len(found)} different prompts, and "
            f"{sum(sizes.values())} are wanted: lower max_train_samples, max_eval_samples and max_test_samples "
            f"({', '.join(f'{split} {size}' for split, size in sizes.items())}), or let it make up more."
        )
    taken = iter(found)
    return {split: list(itertools.islice(taken, size)) for split, size in sizes.items()}


def without_repetition(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows without those whose prompt was there before; ends when a new one is not to be expected."""
    seen: set[str] = set()
    repeated = 0
    for row in rows:
        if row["prompt"] not in seen:
            seen.add(row["prompt"])
            repeated = 0
            yield row
        elif (repeated := repeated + 1) > _PATIENCE + 20 * len(seen):
            return


def needs_download(spec: Any) -> bool:
    """Whether a reward or metric of a recipe reads texts with a model (or is one: a name with a slash)."""
    name, options = (spec, {}) if isinstance(spec, str) else (spec["name"], spec)
    if name in metric_names():
        return metric_class(name).needs_model
    # What only a user's own class knows is seen by its option.
    return "/" in name or "model" in options
