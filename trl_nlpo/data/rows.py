"""From rows of a file or the Hub to prompts, references and supervised targets."""

from __future__ import annotations

import string
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from ..errors import UserError, one_line
from ..prompts.messages import read_prompt
from ..recipes.arguments import RecipeArguments


@dataclass(frozen=True)
class SourceRows:
    """Rows of a split as they are in a file or on the Hub, with their places there, for messages.

    Attributes:
        rows (`list` or `Dataset`)
        source (`str`): file or split.
        places (`Sequence[int]`, *optional*): of the rows in their source; None for all rows in the source's order.
        prepare (`Callable`, *optional*): what a task makes of a row before anything else.
    """

    rows: list[dict[str, Any]] | Dataset
    source: str
    places: Sequence[int] | None = None
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = dict(self.rows[index])
        # A row without a prompt is told of by whoever looks for one.
        return row if self.prepare is None or row.get("prompt") is None else self.prepare(row)

    def where(self, index: int) -> str:
        """Source and number of a row, the first of which is 1."""
        return f"{self.source}, row {(index if self.places is None else self.places[index]) + 1}"


def target_text(prompt: str, target: str) -> str:
    """A target as the continuation of a text prompt: with one space before it, unless the prompt ends in white space.

    Tokenizers join a space to the word after it, so the space must belong to the target: a prompt alone and the same
    prompt with its target then begin with the same tokens.
    """
    return target if not prompt or prompt[-1].isspace() else f" {target.lstrip()}"


def prompts_and_references(rows: SourceRows, arguments: RecipeArguments, limit: int | None, split: str) -> Dataset:
    """A split with `prompt` and `references` as the trainer and the rewards expect them, and all other columns.

    Args:
        rows ([`SourceRows`])
        arguments ([`RecipeArguments`]): columns and template.
        limit (`int`, *optional*): how many rows to take; None for all.
        split (`str`): its name, for messages.

    Raises:
        UserError: no rows, a row without a prompt, or one that does not fit with the others.
    """
    num_rows = min(len(rows), limit or len(rows))
    found = [_prompt_and_references(rows[index], arguments, rows.where(index)) for index in range(num_rows)]
    if not found:
        raise UserError(f"the {split} split of {arguments.dataset_name} is empty.")
    # The columns of all rows: Dataset.from_list would drop those that the first row lacks.
    names = dict.fromkeys(name for row in found for name in row)
    columns = {name: [row.get(name) for row in found] for name in names}
    try:
        return Dataset.from_dict(columns)
    except (TypeError, ValueError, OverflowError) as error:
        misfit = _misfit(columns, rows, error)
        if misfit is None:
            raise
        raise misfit from None


def _misfit(columns: dict[str, list[Any]], rows: SourceRows, error: Exception) -> UserError | None:
    """Which value does not fit into its column: pyarrow's error names neither column nor row."""
    for name, values in columns.items():
        if not _is_column(values):
            index = bisect_left(range(len(values)), True, key=lambda last: not _is_column(values[: last + 1]))
            return UserError(
                f"{rows.where(index)} has {values[index]!r:.60} in the column {name!r}, which does not fit into one "
                f"column with the rows before it ({one_line(error, 200)}): use one type per column."
            )
    return None


def _is_column(values: list[Any]) -> bool:
    """Whether values can be one column of a `Dataset`."""
    try:
        Dataset.from_dict({"values": values})
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _prompt_and_references(row: dict[str, Any], arguments: RecipeArguments, where: str) -> dict[str, Any]:
    if arguments.prompt_column not in row:
        raise _no_column(row, arguments.prompt_column, "prompt_column", where)
    # `input_ids` would be taken for a tokenized prompt.
    left_out = {"completion", "completion_ids", "input_ids"}
    # A column that is read as the prompt or the target may have a name that reward functions know for something else.
    left_out |= {"prompts", "completions"} & {arguments.prompt_column, arguments.completion_column}
    kept = {key: value for key, value in row.items() if key not in left_out}
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
    return UserError(f"{where} has null in the column {column!r} ({key}): write text, or remove the row.")


def _empty(column: str, key: str, where: str) -> UserError:
    return UserError(
        f"{where} has no text in the column {column!r} ({key}), which the supervised stage learns from: write text, "
        "or remove the row."
    )


def _prompt(row: dict[str, Any], arguments: RecipeArguments, where: str) -> Any:
    prompt = row[arguments.prompt_column]
    template = arguments.prompt_template
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        if template != "{prompt}":
            raise UserError(
                f"{where} has messages as its prompt, which prompt_template cannot format: remove prompt_template."
            )
        try:
            return read_prompt(prompt)
        except UserError as error:
            raise UserError(f"{where} {error}") from None
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
    # Most tokenizers would join spaces at the end to the completion's first word.
    return template.format(**{name: _as_text(values[name]) for name in names}).rstrip(" ")


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def prompts_and_completions(rows: SourceRows, train: Dataset, arguments: RecipeArguments) -> Dataset:
    """`prompt` and `completion` of every row (or of every reference) of the train split, for the supervised stage.

    Args:
        rows ([`SourceRows`]): the train split in its source.
        train (`Dataset`): the same with prompts and references, of [`prompts_and_references`].
        arguments ([`RecipeArguments`]): which column or references are the targets.

    Raises:
        UserError: a row without a target, or with one that is not text.
    """
    pairs: list[dict[str, Any]] = []
    for index, row in enumerate(train):
        if not _is_wanted(rows[index], arguments.supervised_where or {}, rows.where(index)):
            continue
        for target in _targets(rows[index], row.get("references"), arguments, rows.where(index)):
            prompt = row["prompt"]
            if isinstance(prompt, str):
                pairs.append({"prompt": prompt, "completion": target_text(prompt, target)})
            else:
                pairs.append({"prompt": prompt, "completion": [{"role": "assistant", "content": target}]})
    if not pairs:
        raise UserError(
            f"supervised_where is {arguments.supervised_where!r}, and no row of {rows.source} is so: "
            f"{_values_of(rows, len(train), arguments.supervised_where or {})}."
        )
    return Dataset.from_list(pairs)


def _is_wanted(row: dict[str, Any], wanted: dict[str, Any], where: str) -> bool:
    """Whether a row has the values that `supervised_where` names."""
    for column in wanted:
        if column not in row:
            raise _no_column(row, column, "supervised_where", where)
    return all(row[column] == value for column, value in wanted.items())


def _values_of(rows: SourceRows, number: int, wanted: dict[str, Any]) -> str:
    found = {column: dict.fromkeys(repr(rows[index][column]) for index in range(number)) for column in wanted}
    return "; ".join(f"{column} has {', '.join([*values][:8])}" for column, values in found.items())


def _targets(row: dict[str, Any], references: Any, arguments: RecipeArguments, where: str) -> list[str]:
    if arguments.completion_column is not None:
        return [_target_in_column(row, arguments.completion_column, where)]
    column = arguments.references_column
    if not references:
        purpose = f"{column!r} (references_column), which the supervised stage learns from"
        if column not in row:
            raise UserError(f"{where} has no column {purpose}; it has: {', '.join(row)}.")
        empty = "null" if references is None else "an empty list"
        raise UserError(f"{where} has {empty} in the column {purpose}: write text, or remove the row.")
    targets = references if arguments.supervised_all_references else references[:1]
    for target in targets:
        if not isinstance(target, str):
            raise UserError(
                f"{where} has {target!r:.60} in the column {column!r} (references_column), but the supervised stage "
                "learns from texts: write a list of texts."
            )
        if not target.strip():
            raise _empty(column, "references_column", where)
    return targets


def _target_in_column(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise _no_column(row, column, "completion_column", where)
    if row[column] is None:
        raise _null(column, "completion_column", where)
    if not isinstance(row[column], (str, int, float)):
        raise UserError(f"{where} has {row[column]!r:.60} in the column {column!r} (completion_column): write text.")
    if not str(row[column]).strip():
        raise _empty(column, "completion_column", where)
    return str(row[column])
