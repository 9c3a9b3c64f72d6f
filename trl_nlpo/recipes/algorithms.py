"""The algorithms that a recipe's key `algorithm` may name, and what follows from each."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..naming import did_you_mean


@dataclass(frozen=True)
class Algorithm:
    """Which stages a run has, and how it reinforces.

    Attributes:
        name (`str`): as recipes write it.
        supervised (`bool`): whether the run trains on references first.
        objective (`str`, *optional*): what reinforcement optimizes, a key of [`_SETTINGS`]; None for a run that does
            not reinforce.
        masks (`bool`): whether a masking policy limits what reinforcement samples.
    """

    name: str
    supervised: bool = False
    objective: str | None = None
    masks: bool = False

    @classmethod
    def parse(cls, name: str) -> Algorithm:
        """The algorithm of this name.

        Raises:
            UserError: there is none; the message suggests the nearest name and lists all.
        """
        if name not in ALGORITHMS:
            hint = did_you_mean(name, ALGORITHMS) or "."
            raise UserError(f"unknown algorithm {name!r}{hint} Take one of {', '.join(ALGORITHMS)}.")
        return ALGORITHMS[name]

    @property
    def reinforces(self) -> bool:
        """Whether the run has a stage of reinforcement learning."""
        return self.objective is not None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in their order, as `results.json` and the tables write them."""
        stages = ["zero-shot"]
        if self.supervised:
            stages.append("supervised")
        if self.reinforces:
            stages.append(self.name)
        return tuple(stages)

    @property
    def last_stage(self) -> str:
        """The stage whose model the run is about."""
        return self.stages[-1]

    @property
    def trains(self) -> bool:
        """Whether the run leaves a model."""
        return len(self.stages) > 1

    @property
    def settings(self) -> dict[str, Any]:
        """Keys of the recipe that the algorithm decides, whatever the recipe's file says."""
        if self.objective is None:
            return {}
        return {**_SETTINGS[self.objective], **({} if self.masks else {"mask_strategy": "none"})}

    @property
    def start(self) -> Algorithm:
        """The run that reinforcement starts from: zero-shot or supervised."""
        return SUPERVISED if self.supervised else ZERO_SHOT

    @property
    def baseline(self) -> Algorithm:
        """PPO after the same stages, which the others are compared with; itself for one that does not reinforce."""
        if not self.reinforces:
            return self
        return ALGORITHMS["supervised+ppo" if self.supervised else "ppo"]


_SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {},
    # One pass over the batch, at whose start every ratio is 1: the clip has nothing to act on.
    "a2c": {"num_ppo_epochs": 1, "num_mini_batches": 1, "cliprange_value": math.inf},
    "trpo": {"policy_update": "trust_region", "value_trains_backbone": False},
}
"""Keys of a recipe that each objective decides."""

ZERO_SHOT = Algorithm("zero_shot")
SUPERVISED = Algorithm("supervised", supervised=True)

_REINFORCING = (
    Algorithm("ppo", objective="ppo"),
    Algorithm("nlpo", objective="ppo", masks=True),
    Algorithm("a2c", objective="a2c"),
    Algorithm("trpo", objective="trpo"),
)
"""Each can also follow a supervised stage, as `supervised+<name>`."""

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        ZERO_SHOT,
        SUPERVISED,
        *_REINFORCING,
        *(dataclasses.replace(one, name=f"supervised+{one.name}", supervised=True) for one in _REINFORCING),
    )
}
"""Every algorithm by its name, in the order in which messages list them."""
