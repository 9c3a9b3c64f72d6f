"""A file of predictions, or of a run's samples, matched with the rows of the test split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.files import read_file
from ..errors import UserError
from ..metrics.texts import completion_text
from ..naming import did_you_mean


if TYPE_CHECKING:
    from datasets import Dataset


def matched_predictions(path: Path, test: Dataset, stage: str | None = None) -> list[str]:
    """Predictions of a file in the order of the test split: by `id` or `prompt`, or by order where no row has either.

    Several rows of the split with the same prompt get its predictions in the order of the file.

    Args:
        path (`Path`): a row per prompt with `prediction` or `completion`; or the `samples.jsonl` of a run, which has
            the completions of every stage.
        test (`Dataset`): the test split.
        stage (`str`, *optional*): of a run's samples, whose completions; the last stage's by default.

    Raises:
        UserError: the file is not there, a row has no prediction, there is no such stage, or the rows are not those
            of the split.
    """
    rows = _prediction_rows(path, stage)
    name = _matched_by(path, rows, test.column_names)
    if name is None:
        if len(rows) != len(test):
            raise UserError(
                f"{path} has {len(rows)} predictions, but the test split has {len(test)} prompts: give one for each, "
                "in its order, or name its prompt."
            )
        return [row["prediction"] for row in rows]
    given: dict[str, list[str]] = {}
    for row in rows:
        given.setdefault(_as_key(row[name]), []).append(row["prediction"])
    values = list(test[name])
    missing = [value for value in values if _as_key(value) not in given]
    if missing:
        raise UserError(
            f"{path} has no prediction for {len(missing)} prompts of the test split, such as {missing[0]!r:.80}."
        )
    wanted = Counter(map(_as_key, values))
    for value in values:
        key = _as_key(value)
        if len(given[key]) != wanted[key]:
            raise UserError(
                f"{path} has the {name} {value!r:.80} in {len(given[key])} rows, the test split (which "
                f"max_test_samples may have shortened) in {wanted[key]}: give a prediction for each."
            )
    following = {key: iter(predictions) for key, predictions in given.items()}
    return [next(following[_as_key(value)]) for value in values]


def _matched_by(path: Path, rows: list[dict[str, Any]], columns: Sequence[str]) -> str | None:
    """What rows name their prompt by; None when none of them does, so that they are in the split's order."""
    named = [name for name in ("id", "prompt") if any(name in row for row in rows)]
    for name in named:
        if name in columns and all(name in row for row in rows):
            return name
    if not named:
        return None
    reason = "the test split has none" if all(named[0] in row for row in rows) else "not every row has it"
    raise UserError(
        f"{path} has rows with the key {named[0]!r}, but {reason}: give the `prompt` in every row, or no `id` and "
        "`prompt` at all where rows are in the split's order."
    )


def _as_key(value: Any) -> str:
    """An id or prompt as something to look up by: messages are lists."""
    return json.dumps(value, sort_keys=True)


def _prediction_rows(path: Path, stage: str | None) -> list[dict[str, Any]]:
    rows = list(read_file(path))
    if not rows:
        raise UserError(f"{path} is empty.")
    stages = _stages_of(rows[0])
    if stage is not None and not stages:
        raise UserError(f"{path} has no stages, as a run's samples.jsonl has: leave out --stage.")
    if stage is not None and stage not in stages:
        hint = did_you_mean(stage, stages) or "."
        raise UserError(f"{path} has no stage {stage!r}{hint} It has: {', '.join(stages)}.")
    chosen = stage or next(reversed(stages), None)
    found = []
    for number, row in enumerate(rows, 1):
        given = row if chosen is None else row.get(chosen)
        text = given.get("prediction", given.get("completion")) if isinstance(given, dict) else None
        if isinstance(text, list) and chosen is not None:
            # Messages, as a run writes them.
            text = completion_text(text)
        if not isinstance(text, str):
            what = "`prediction`" if chosen is None else f"completion of the stage {chosen!r}"
            raise UserError(f"{path}, row {number}: a row needs the text of a {what}.")
        found.append({**row, "prediction": text})
    return found


def _stages_of(row: dict[str, Any]) -> list[str]:
    """The stages of a row of a run's samples, in their order; none where the row is not of that kind."""
    if "prediction" in row or "completion" in row:
        return []
    return [name for name, value in row.items() if isinstance(value, dict) and "completion" in value]
