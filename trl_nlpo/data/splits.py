"""From what a recipe calls its data to splits with the columns `prompt`, `references` and all others."""

from __future__ import annotations

import csv
import json
import random
import string
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_line
from ..recipes.arguments import RecipeArguments
from ..recipes.presets import MINIATURE
from ..tasks.base import distinct_rows
from ..tasks.hub import rows_from_hub
from ..tasks.registry import get_task


if TYPE_CHECKING:
    from datasets import Dataset

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
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


@dataclass(frozen=True)
class _Rows:
    """Rows of a split as they were found, and where, for messages.

    Attributes:
        rows: a list or `Dataset`.
        source: file or split.
        places: of the rows in their source; None for the source's own order.
    """

    rows: Any
    source: str
    places: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.rows[index])

    def where(self, index: int) -> str:
        return f"{self.source}, row {(index if self.places is None else self.places[index]) + 1}"


def load_splits(arguments: RecipeArguments, seed: int = 42) -> Splits:
    """Load, cut to `max_*_samples`, and bring prompts and references into shape.

    Args:
        arguments ([`RecipeArguments`])
        seed (`int`): for the quickstart's sentences, and for cutting a single file into splits.

    Raises:
        UserError: nothing there, a split or column that is missing (the message lists what there is), an empty split,
            a row without a prompt or target.
    """
    rows = _load(arguments, seed)
    test = _shaped(rows[arguments.dataset_test_split], arguments, arguments.max_eval_samples, "test")
    train_rows = rows[arguments.dataset_train_split]
    train = _shaped(train_rows, arguments, arguments.max_train_samples, "train")
    validation = None
    if arguments.dataset_validation_split in rows:
        validation = _shaped(
            rows[arguments.dataset_validation_split], arguments, arguments.max_eval_samples, "validation"
        )
    supervised = None
    if arguments.has_supervised_stage:
        supervised = _supervised(train_rows, train, arguments)
    return Splits(train, validation, test, supervised)


def target_text(prompt: str, target: str) -> str:
    """A target as the continuation of a text prompt: with one space before it, unless the prompt ends in white space.

    Tokenizers glue the space to the word after it, so it must belong to the target: a prompt alone and the same prompt
    with its target then begin with the same tokens.
    """
    return target if not prompt or prompt[-1].isspace() else f" {target.lstrip()}"


def _load(arguments: RecipeArguments, seed: int) -> dict[str, _Rows]:
    """Every wanted split."""
    if arguments.task is not None and arguments.dataset_name in (None, MINIATURE):
        return _named(_of_task(arguments, seed), f"task {arguments.task}")
    name = str(arguments.dataset_name)
    train, test = arguments.dataset_train_split, arguments.dataset_test_split
    if name == "quickstart":
        return _named(_quickstart(arguments, seed), name)
    path = Path(name).expanduser()
    if path.is_file():
        return _cut(read_file(path), arguments, seed)
    wanted = [train, test] + ([arguments.dataset_validation_split] if arguments.dataset_validation_split else [])
    if path.is_dir():
        return _read_folder(path, wanted, arguments)
    if path.suffix in ENDINGS or path.is_absolute() or name.startswith("."):
        raise UserError(f"dataset_name {name!r} is not there (looked in {Path.cwd()}).")
    return _named(_load_from_hub(name, wanted, arguments), name)


def _named(splits: dict[str, Any], name: str) -> dict[str, _Rows]:
    return {split: _Rows(rows, f"{name}, split {split}") for split, rows in splits.items()}


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
        held_out = arguments.max_eval_samples or MINIATURE_HELD_OUT
        sizes = dict.fromkeys(("test", "validation"), held_out)
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


def _cut(rows: Any, arguments: RecipeArguments, seed: int) -> dict[str, _Rows]:
    """One file as three splits: a tenth (at most 500 rows) each for validation and test, chosen by the seed."""
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
        split: _Rows([rows[index] for index in sorted(indices)], str(arguments.dataset_name), sorted(indices))
        for split, indices in parts.items()
    }


def _read_folder(folder: Path, wanted: list[str], arguments: RecipeArguments) -> dict[str, _Rows]:
    found = {}
    for split in wanted:
        path = _file_of_split(folder, split, arguments.dataset_config)
        if path is not None:
            found[split] = _Rows(read_file(path), str(path))
        elif split != arguments.dataset_validation_split:
            have = (
                ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)) or "no data file"
            )
            raise UserError(
                f"{folder} has no file for the split {split!r} ({split}.jsonl or <prefix>_{split}.jsonl): {have}."
            )
    return found


def read_rows(path: Path, split: str, prefix: str | None = None) -> list[dict[str, Any]]:
    """Rows of a split of a folder, as they are; none where it has no such split. A file is the train split.

    Raises:
        UserError: nothing there, or not readable.
    """
    if path.is_file():
        return list(read_file(path)) if split == "train" else []
    if not path.is_dir():
        raise UserError(f"{path} is not there (looked in {Path.cwd()}).")
    found = _file_of_split(path, split, prefix)
    return [] if found is None else list(read_file(found))


def _file_of_split(folder: Path, split: str, prefix: str | None) -> Path | None:
    """`<prefix>_<split>.<ending>`, `<split>.<ending>`, or the only file that ends so."""
    stems = [f"{prefix}_{split}", split] if prefix else [split]
    for stem in stems:
        for ending in ENDINGS:
            if (folder / (stem + ending)).is_file():
                return folder / (stem + ending)
    if prefix:
        return None
    matches = sorted(path for ending in ENDINGS for path in folder.glob(f"*_{split}{ending}"))
    if len(matches) > 1:
        prefixes = ", ".join(path.stem.removesuffix(f"_{split}") for path in matches)
        raise UserError(f"{folder} has several data sets: set dataset_config to one of {prefixes}.")
    return matches[0] if matches else None


def read_file(path: Path) -> Any:
    """Rows of a file (`.jsonl`, `.json`, `.csv` or `.parquet`), as a list or a `Dataset`.

    Raises:
        UserError: not there, or not readable; the message names the line.
    """
    try:
        if path.suffix == ".parquet":
            return _parquet_rows(path)
        return list(_csv_rows(path) if path.suffix == ".csv" else _json_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not readable: {one_line(error)}.") from None


def _parquet_rows(path: Path) -> Dataset:
    from datasets import Dataset

    try:
        return Dataset.from_parquet(str(path))
    except Exception as error:
        # A damaged file fails in many ways (pyarrow's, the operating system's, those of `datasets`).
        raise UserError(f"{path} is not readable as Parquet: {one_line(error, 300)}") from error


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    # Excel writes a byte order mark, which is no part of the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row:
                raise UserError(
                    f"{path}, line {reader.line_num}: the row has more fields than the header's {len(row) - 1}: put "
                    "quotes around fields with commas."
                )
            yield row


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON Lines file, or of one JSON list."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json" and text.lstrip().startswith("["):
        numbered = [(1, text)]
    else:
        # Not splitlines(): texts may hold line separators of Unicode, which JSON does not escape.
        numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in numbered:
        try:
            parsed = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number + error.lineno - 1}: not valid JSON ({error.msg}).") from None
        for row in parsed if isinstance(parsed, list) else [parsed]:
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: a row must be a JSON object, not {type(row).__name__}.")
            yield row


def _load_from_hub(name: str, wanted: list[str], arguments: RecipeArguments) -> dict[str, Any]:
    from datasets import load_dataset

    try:
        splits = load_dataset(name, arguments.dataset_config)
    except Exception as error:
        # The Hub's client fails in many ways (offline, no such name, gated, a script); all of them are about the name.
        raise UserError(
            f"dataset_name {name!r} is no file or folder, and not to be had from the Hub: {one_line(error, 300)}"
        ) from error
    for split in wanted:
        if split not in splits and split != arguments.dataset_validation_split:
            raise UserError(f"{name} has no split {split!r}; it has: {', '.join(map(str, splits))}.")
    return {split: splits[split] for split in wanted if split in splits}


def _shaped(rows: _Rows, arguments: RecipeArguments, limit: int | None, split: str) -> Dataset:
    """The split with `prompt` and `references` as the trainer and the rewards expect them."""
    from datasets import Dataset

    shaped = [
        _shaped_row(rows[index], arguments, rows.where(index)) for index in range(min(len(rows), limit or len(rows)))
    ]
    if not shaped:
        raise UserError(f"the {split} split of {arguments.dataset_name} is empty.")
    # Of all rows: Dataset.from_list would drop what the first row lacks.
    names = dict.fromkeys(name for row in shaped for name in row)
    columns = {name: [row.get(name) for row in shaped] for name in names}
    try:
        return Dataset.from_dict(columns)
    except (TypeError, ValueError, OverflowError) as error:
        # pyarrow says neither the column nor the row.
        for name, values in columns.items():
            if not _fit_together(values):
                index = bisect_left(range(len(values)), True, key=lambda last: not _fit_together(values[: last + 1]))
                raise UserError(
                    f"{rows.where(index)} has {values[index]!r:.60} in the column {name!r}, which cannot stand in one "
                    f"column with the rows before it ({one_line(error, 200)}): write the column alike in all rows."
                ) from None
        raise


def _fit_together(values: list[Any]) -> bool:
    """Whether values can be one column of a `Dataset`."""
    from datasets import Dataset

    try:
        Dataset.from_dict({"values": values})
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _shaped_row(row: dict[str, Any], arguments: RecipeArguments, where: str) -> dict[str, Any]:
    if arguments.prompt_column not in row:
        raise _no_column(row, arguments.prompt_column, "prompt_column", where)
    # The trainer gives rewards its own `completions` and `completion_ids`; `input_ids` would be a tokenized prompt.
    kept = {key: value for key, value in row.items() if key not in ("completion", "completion_ids", "input_ids")}
    kept["prompt"] = _prompt(row, arguments, where)
    column = arguments.references_column
    references = row.get(column)
    if references is not None:
        if not isinstance(references, (str, list, tuple)):
            raise UserError(
                f"{where} has {references!r:.60} in the column {column!r} (references_column): write text, or a list "
                "of texts."
            )
        kept["references"] = [references] if isinstance(references, str) else list(references)
    elif column != "references":
        if column in row:
            raise _null(column, "references_column", where)
        raise _no_column(row, column, "references_column", where)
    return kept


def _no_column(row: dict[str, Any], column: str, key: str, where: str) -> UserError:
    return UserError(f"{where} has no column {column!r} ({key}); it has: {', '.join(row)}.")


def _null(column: str, key: str, where: str) -> UserError:
    return UserError(f"{where} has null in the column {column!r} ({key}): write text, or leave the row out.")


def _prompt(row: dict[str, Any], arguments: RecipeArguments, where: str) -> Any:
    prompt = row[arguments.prompt_column]
    template = arguments.prompt_template
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        if template != "{prompt}":
            raise UserError(f"{where} has messages for a prompt, which prompt_template cannot format: leave it out.")
        return prompt
    values = {**row, "prompt": prompt}
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"prompt_template is {template!r}: {error}; write {{{{ for a brace.") from None
    for name in names:
        if name not in values:
            raise UserError(f"prompt_template names {{{name}}}, but {where} has: {', '.join(row)}.")
        if values[name] is None or (isinstance(values[name], list) and None in values[name]):
            column, key = (arguments.prompt_column, "prompt_column") if name == "prompt" else (name, "prompt_template")
            raise _null(column, key, where)
    # Spaces at the end would be glued to the completion's first word by most tokenizers.
    return template.format(**{name: _as_text(values[name]) for name in names}).rstrip(" ")


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _supervised(rows: _Rows, train: Dataset, arguments: RecipeArguments) -> Dataset:
    """Prompt and completion of every row (or of every reference) of the train split."""
    from datasets import Dataset

    pairs: list[dict[str, Any]] = []
    for index, shaped in enumerate(train):
        for target in _targets(rows[index], shaped, arguments, rows.where(index)):
            prompt = shaped["prompt"]
            if isinstance(prompt, str):
                pairs.append({"prompt": prompt, "completion": target_text(prompt, target)})
            else:
                pairs.append({"prompt": prompt, "completion": [{"role": "assistant", "content": target}]})
    return Dataset.from_list(pairs)


def _targets(row: dict[str, Any], shaped: dict[str, Any], arguments: RecipeArguments, where: str) -> list[str]:
    column = arguments.completion_column
    if column is not None:
        if column not in row:
            raise _no_column(row, column, "completion_column", where)
        if row[column] is None:
            raise _null(column, "completion_column", where)
        if not isinstance(row[column], (str, int, float)):
            raise UserError(
                f"{where} has {row[column]!r:.60} in the column {column!r} (completion_column): write text."
            )
        return [str(row[column])]
    column, references = arguments.references_column, shaped.get("references")
    if not references:
        purpose = f"{column!r} (references_column), which the supervised stage learns from"
        if column not in row:
            raise UserError(f"{where} has no column {purpose}; it has: {', '.join(row)}.")
        empty = "null" if references is None else "an empty list"
        raise UserError(f"{where} has {empty} in the column {purpose}: write text, or leave the row out.")
    targets = references if arguments.supervised_all_references else references[:1]
    for target in targets:
        if not isinstance(target, str):
            raise UserError(
                f"{where} has {target!r:.60} in the column {column!r} (references_column), but the supervised stage "
                "learns from texts: write a list of texts."
            )
    return targets
