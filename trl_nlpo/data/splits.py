"""Where the data of a recipe comes from, and its splits with `prompt`, `references` and all other columns."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_line
from ..recipes.algorithms import Algorithm
from ..recipes.arguments import RecipeArguments
from ..recipes.presets import MINIATURE
from ..tasks.base import distinct_rows
from ..tasks.hub import rows_from_hub
from ..tasks.registry import get_task
from .files import ENDINGS, file_of_split, read_file
from .rows import SourceRows, prompts_and_completions, prompts_and_references


if TYPE_CHECKING:
    from datasets import Dataset

QUICKSTART_SIZES = {"train": 4000, "validation": 200, "test": 200}
MINIATURE_TRAIN, MINIATURE_HELD_OUT = 2000, 200
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 500


@dataclass(frozen=True)
class Splits:
    """The data of a run, as `datasets.Dataset`s with a `prompt` column; all columns but prompts reach the rewards.

    Attributes:
        train: prompts to train on.
        validation: for evaluation during training; None without such a split.
        test: for the table at the end.
        supervised: `prompt` and `completion` of the train split, for the supervised stage; None without one.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset
    supervised: Dataset | None


def load_splits(arguments: RecipeArguments, seed: int = 42) -> Splits:
    """Load the splits, `max_*_samples` of each, and make their prompts and references.

    Args:
        arguments ([`RecipeArguments`])
        seed (`int`): for the quickstart's sentences, and for splitting a single file.

    Raises:
        UserError: nothing there, a split or column that is missing (the message lists what there is), an empty split,
            a row without a prompt or target.
    """
    rows = _load(arguments, seed)
    test = prompts_and_references(rows[arguments.dataset_test_split], arguments, arguments.max_test_samples, "test")
    train_rows = rows[arguments.dataset_train_split]
    train = prompts_and_references(train_rows, arguments, arguments.max_train_samples, "train")
    validation = None
    if arguments.dataset_validation_split in rows:
        validation = prompts_and_references(
            rows[arguments.dataset_validation_split], arguments, arguments.max_eval_samples, "validation"
        )
    supervised = None
    if Algorithm.parse(arguments.algorithm).supervised:
        supervised = prompts_and_completions(train_rows, train, arguments)
    return Splits(train, validation, test, supervised)


def _load(arguments: RecipeArguments, seed: int) -> dict[str, SourceRows]:
    """Every split that the recipe names, by its name; rows as the recipe's task prepares them."""
    rows = _load_as_they_are(arguments, seed)
    prepare = None if arguments.task is None else get_task(arguments.task).prepare
    return {split: dataclasses.replace(part, prepare=prepare) for split, part in rows.items()}


def _load_as_they_are(arguments: RecipeArguments, seed: int) -> dict[str, SourceRows]:
    if arguments.task is not None and arguments.dataset_name in (None, MINIATURE):
        return _with_source(_of_task(arguments, seed), f"task {arguments.task}")
    name = str(arguments.dataset_name)
    train, test = arguments.dataset_train_split, arguments.dataset_test_split
    if name == "quickstart":
        return _with_source(_quickstart(arguments, seed), name)
    path = Path(name).expanduser()
    if path.is_file():
        return _split_file(read_file(path), arguments, seed)
    wanted = [train, test] + ([arguments.dataset_validation_split] if arguments.dataset_validation_split else [])
    if path.is_dir():
        return _read_folder(path, wanted, arguments)
    if path.suffix in ENDINGS or path.is_absolute() or name.startswith("."):
        raise UserError(f"dataset_name {name!r} is not there (looked in {Path.cwd()}).")
    return _with_source(_load_from_hub(name, wanted, arguments), name)


def _with_source(splits: dict[str, Any], name: str) -> dict[str, SourceRows]:
    """Rows of every split, with the name of what they come from."""
    return {split: SourceRows(rows, f"{name}, split {split}") for split, rows in splits.items()}


def _of_task(arguments: RecipeArguments, seed: int) -> dict[str, Any]:
    """The task's own rows: those of its data on the Hub, or of its miniature."""
    task = get_task(str(arguments.task))
    names = {
        arguments.dataset_train_split: "train",
        arguments.dataset_validation_split: "validation",
        arguments.dataset_test_split: "test",
    }
    wanted = {name: split for name, split in names.items() if name is not None}
    if arguments.dataset_name == MINIATURE:
        sizes = {
            "test": arguments.max_test_samples or MINIATURE_HELD_OUT,
            "validation": arguments.max_eval_samples or MINIATURE_HELD_OUT,
        }
        # The held-out rows come first: they are the same whatever the size of the train split.
        rows = distinct_rows(task, {**sizes, "train": arguments.max_train_samples or MINIATURE_TRAIN}, seed=0)
        return {name: rows[split] for name, split in wanted.items()}
    return {name: rows_from_hub(task, split) for name, split in wanted.items()}


def _quickstart(arguments: RecipeArguments, seed: int) -> dict[str, Any]:
    from ..tasks.quickstart import quickstart_rows

    names = {
        "train": arguments.dataset_train_split,
        "validation": arguments.dataset_validation_split,
        "test": arguments.dataset_test_split,
    }
    rows = quickstart_rows(QUICKSTART_SIZES, seed)
    return {name: rows[split] for split, name in names.items() if name}


def _split_file(rows: Any, arguments: RecipeArguments, seed: int) -> dict[str, SourceRows]:
    """One file as three splits: a tenth (at most 500 rows) each for validation and test, drawn by the seed."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    held_out = min(int(len(order) * HELD_OUT_SHARE), MOST_HELD_OUT)
    if held_out == 0:
        raise UserError(
            f"{arguments.dataset_name} has {len(order)} rows, too few to hold some out for evaluation: give a folder "
            "with one file per split, or at least 10 rows."
        )
    parts = {arguments.dataset_test_split: order[:held_out], arguments.dataset_train_split: order[2 * held_out :]}
    if arguments.dataset_validation_split:
        parts[arguments.dataset_validation_split] = order[held_out : 2 * held_out]
    return {
        split: SourceRows([rows[index] for index in sorted(indices)], str(arguments.dataset_name), sorted(indices))
        for split, indices in parts.items()
    }


def _read_folder(folder: Path, wanted: list[str], arguments: RecipeArguments) -> dict[str, SourceRows]:
    found = {}
    for split in wanted:
        path = file_of_split(folder, split, arguments.dataset_config)
        if path is not None:
            found[split] = SourceRows(read_file(path), str(path))
        elif split != arguments.dataset_validation_split:
            have = (
                ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)) or "no data file"
            )
            raise UserError(
                f"{folder} has no file for the split {split!r} ({split}.jsonl or <prefix>_{split}.jsonl): {have}."
            )
    return found


def _load_from_hub(name: str, wanted: list[str], arguments: RecipeArguments) -> dict[str, Any]:
    from datasets import load_dataset

    try:
        splits = load_dataset(name, arguments.dataset_config)
    except Exception as error:
        # The Hub's client raises many errors (offline, no such name, gated, a script), all of them about the name.
        raise UserError(
            f"dataset_name {name!r} is not a local file or folder and could not be loaded from the Hub: "
            f"{one_line(error, 300)}"
        ) from error
    for split in wanted:
        if split not in splits and split != arguments.dataset_validation_split:
            raise UserError(f"{name} has no split {split!r}; it has: {', '.join(map(str, splits))}.")
    return {split: splits[split] for split in wanted if split in splits}
