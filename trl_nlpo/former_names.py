"""Modules under the names that they had before they went into folders: imported with a warning, until 0.2."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


MOVED = {
    "advantages": "algorithm.advantages",
    "batch_plan": "algorithm.batch_plan",
    "environment": "launch.environment",
    "from_scratch": "models.from_scratch",
    "generation": "algorithm.generation",
    "leaderboard": "grid.leaderboard",
    "masking_policy": "models.masking_policy",
    "metric_suite": "metrics.suite",
    "presets": "recipes.presets",
    "processes": "launch.processes",
    "recipe_arguments": "recipes.arguments",
    "reward_calls": "algorithm.reward_calls",
    "rollout": "algorithm.rollout",
    "run_folder": "storage.run_folder",
    "sampling": "algorithm.distribution",
    "scoring": "algorithm.scoring",
    "signals": "errors",
    "significance": "grid.significance",
    "supervised": "experiment.supervised",
    "update": "algorithm.update",
}
"""Former name -> where it is."""


class _FormerNames(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __package__ and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        package, _, name = module.__name__.rpartition(".")
        where = f"{package}.{MOVED[name]}"
        warnings.warn(f"{module.__name__} is now {where}; this name goes with 0.2.", FutureWarning, stacklevel=2)
        moved = importlib.import_module(where)
        vars(module)["__getattr__"] = lambda attribute: getattr(moved, attribute)


def know_former_names() -> None:
    """Let imports find modules under their former names, after everything that is there."""
    sys.meta_path.append(_FormerNames())
