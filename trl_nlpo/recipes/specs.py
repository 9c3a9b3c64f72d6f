"""Rewards as a recipe names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class RewardSpec:
    """One entry of `rewards`: a name, a weight and the function's own options."""

    name: str
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)


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
    options = {str(option): value for option, value in entry.items() if option not in ("name", "weight")}
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise UserError(f"{key}: the weight of {entry['name']!r} is {weight!r}, but must be a number.")
    return RewardSpec(entry["name"], float(weight), options)
