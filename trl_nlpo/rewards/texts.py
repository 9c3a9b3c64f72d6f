"""What reward functions are given, as plain text."""

from __future__ import annotations

from typing import Any

from ..errors import UserError


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a completion: itself, or the content of the last message of a conversational one."""
    if isinstance(completion, str):
        return completion
    return str(completion[-1]["content"]) if completion else ""


def require_column(columns: dict[str, Any], column: str, reward: str) -> list[Any]:
    """A column that a reward function cannot do without.

    Raises:
        UserError: the data set has no such column; the message lists those it has.
    """
    if column not in columns:
        have = ", ".join(name for name, values in sorted(columns.items()) if isinstance(values, list)) or "none"
        raise UserError(f"reward {reward!r} needs a column {column!r} in the data set; it has: {have}.")
    return columns[column]


def as_list(value: Any) -> list[str]:
    """Several texts, however the row holds them: a list, one string, or nothing."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]
