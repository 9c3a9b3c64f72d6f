"""Items and judgements in the shape of Argilla's exported records, so that a study can move in and out.

A record has `id`, `fields` (`prompt`, `completion_1`, ...), `metadata` (`system_1`, ..., `prompt_key`, `gold`) and
`responses`: of each question a list of `{"value": ..., "user_id": ...}`. The value of a choice is the field's name,
`tie` for none; of a rating its number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import UserError
from ..metrics.texts import completion_text, prompt_text


_TIE = "tie"
_FIELD = "completion_"


def is_record(row: dict[str, Any]) -> bool:
    """Whether a row is such a record."""
    return isinstance(row.get("fields"), dict)


def records_of(items: Iterable[dict[str, Any]], judgements: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of a study's items, with what people said of each.

    Args:
        items: as [`Study.items`] gives them.
        judgements: as [`Study.judgements`] gives them; repeats are left out, as a person answers once there.
    """
    by_item: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in judgements:
        if row["is_repeat"]:
            continue
        answer = {"value": _value(row), "user_id": row["annotator"], "status": "submitted"}
        by_item.setdefault(row["item"], {}).setdefault(row["criterion"], []).append(answer)
    return [
        {
            "id": item["item"],
            "fields": {
                "prompt": prompt_text(item["prompt"]),
                **_numbered(_FIELD, list(map(completion_text, item["completions"]))),
            },
            "metadata": {
                "prompt_key": item["prompt_key"],
                **_numbered("system_", item["systems"]),
                **({} if item["gold"] is None else {"gold": item["gold"]}),
            },
            "responses": by_item.get(item["item"], {}),
        }
        for item in items
    ]


def _value(row: dict[str, Any]) -> Any:
    if "rating" in row:
        return row["rating"]
    return _TIE if row["choice"] is None else f"{_FIELD}{row['choice'] + 1}"


def _numbered(name: str, values: Sequence[Any]) -> dict[str, Any]:
    return {f"{name}{number}": value for number, value in enumerate(values, 1)}


def item_of(record: dict[str, Any], at: str) -> dict[str, Any]:
    """The item of a record, for [`create`].

    Raises:
        UserError: no completions, or no text among them.
    """
    fields, metadata = record["fields"], record.get("metadata") or {}
    completions = _in_order(fields)
    if not completions:
        raise UserError(f"{at} has no field {_FIELD}1; it has: {', '.join(fields) or 'none'}.")
    number = str(record.get("id", at))
    return {
        "item": number,
        "prompt": fields.get("prompt") or "",
        "prompt_key": str(metadata.get("prompt_key", number)),
        "completions": completions,
        "systems": [str(metadata.get(f"system_{n}", n)) for n in range(1, len(completions) + 1)],
        "gold": metadata.get("gold"),
    }


def _in_order(fields: dict[str, Any]) -> list[str]:
    found: list[str] = []
    while (text := fields.get(f"{_FIELD}{len(found) + 1}")) is not None:
        found.append(text)
    return found


def rows_of(record: dict[str, Any], at: str) -> list[dict[str, Any]]:
    """The judgements of a record, as rows that [`read_judgements`] understands.

    Raises:
        UserError: a value that is no field of the record, or an answer without a person.
    """
    item = item_of(record, at)
    common = {"item": item["item"], "prompt": item["prompt_key"]}
    found: list[dict[str, Any]] = []
    for criterion, answers in (record.get("responses") or {}).items():
        for answer in answers or ():
            if answer.get("status", "submitted") != "submitted":
                continue
            if answer.get("user_id") in (None, ""):
                raise UserError(f"{at}: an answer to {criterion!r} has no user_id.")
            gold = item["gold"].get(criterion) if isinstance(item["gold"], dict) else item["gold"]
            row = {
                **common,
                **({} if gold is None else {"gold": gold}),
                "annotator": str(answer["user_id"]),
                "criterion": criterion,
            }
            value = answer.get("value")
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found.append({**row, "system": item["systems"][0], "rating": value})
            else:
                found.append({**row, "systems": item["systems"], "choice": _place(value, item, criterion, at)})
    return found


def _place(value: Any, item: dict[str, Any], criterion: str, at: str) -> int | None:
    names = [f"{_FIELD}{number}" for number in range(1, len(item["completions"]) + 1)]
    if value == _TIE:
        return None
    if value not in names:
        raise UserError(
            f"{at}: {criterion} is {value!r}, but must be a number, {_TIE!r} or one of {', '.join(names)}."
        )
    return names.index(value)
