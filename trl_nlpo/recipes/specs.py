"""Rewards as a recipe names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class RewardSpec:
    """One entry of `rewards` or `metrics`.

    Attributes:
        name (`str`): of the function or metric.
        weight (`float`): in the sum of rewards.
        options (`dict`): the function's own.
        label (`str`, *optional*): of a metric, the name of its column, which a recipe gives as `as`.
        by (`str`, *optional*): of a metric, a column of the data for each of whose values there are numbers too.
    """

    name: str
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    by: str | None = None


def parse_rewards(rewards: list | dict | str | None, key: str = "rewards") -> list[RewardSpec]:
    """The entries of the key `rewards` (or `metrics`): one or a list of names and mappings.

    Raises:
        UserError: an entry that is neither, or that has no name or no number for a weight.
    """
    entries = rewards if isinstance(rewards, list) else [] if rewards is None else [rewards]
    return [_parse_reward(entry, key) for entry in entries]


def _parse_reward(entry: Any, key: str) -> RewardSpec:
    if isinstance(entry, str) and entry.strip():
        return RewardSpec(entry.strip())
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise UserError(f"{key} has the entry {entry!r}: write a name, or {{name: rougeL, weight: 2.0}}.")
    ours = ("name", "weight", *(_OF_METRICS if key == "metrics" else ()))
    options = {str(option): value for option, value in entry.items() if option not in ours}
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise UserError(f"{key}: the weight of {entry['name']!r} is {weight!r}, but must be a number.")
    if key != "metrics":
        return RewardSpec(entry["name"], float(weight), options)
    for option in _OF_METRICS:
        if not isinstance(entry.get(option, "x"), str) or not entry.get(option, "x").strip():
            raise UserError(f"metrics: {option!r} of {entry['name']!r} is {entry[option]!r}, but must be a name.")
    return RewardSpec(entry["name"], float(weight), options, entry.get("as"), entry.get("by"))


_OF_METRICS = ("as", "by")
"""What an entry of `metrics` may say besides the metric's own options."""
