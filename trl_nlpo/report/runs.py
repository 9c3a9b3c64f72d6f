"""What a report is about: runs by task and group, read from their folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..recipes.algorithms import ALGORITHMS
from ..storage.files import read_json
from ..storage.results import CELL_NAME, LOG_NAME, RECIPE_NAME, RESULTS_NAME, RunResults


BOARD_NAME = "leaderboard.json"
ABLATION_NAME = "ablation.json"
_GRID_NAME = "grid.json"
_AGAIN = "run the command that wrote it again"

_OF_ONE_RUN = {
    "seed", "data_seed", "output_dir", "run_name", "logging_dir", "logging_steps", "report_to", "hub_model_id",
}  # fmt: skip
"""Keys of a recipe that do not make it another one."""

_LONGEST_LABEL = 60


@dataclass(frozen=True)
class ReportedRun:
    """A run under the names that the page has for it.

    Attributes:
        name (`str`): its folder, as far as it differs from the others'.
        task (`str`)
        group (`str`): what it shares with the runs that differ from it by their seed only.
        seed: of its recipe, or of its cell; None: unknown.
        results ([`RunResults`])
        versions (`str`): of the packages that it ran with, in words; empty: unknown.
    """

    name: str
    task: str
    group: str
    seed: Any
    results: RunResults
    versions: str


@dataclass(frozen=True)
class Reported:
    """What a report is about.

    Attributes:
        title (`str`)
        runs (`tuple[ReportedRun, ...]`)
        board (`dict`, *optional*): the leaderboard of a grid, as [`grid.leaderboard`] writes it in JSON.
        ablation (`dict`, *optional*): the report of an ablation, as [`grid.ablation`] writes it in JSON.
        is_grid (`bool`)
    """

    title: str
    runs: tuple[ReportedRun, ...]
    board: dict[str, Any] | None = None
    ablation: dict[str, Any] | None = None
    is_grid: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the leaderboard, or of the runs."""
        return tuple(dict.fromkeys([*(self.board or {}).get("tasks", {}), *(run.task for run in self.runs)]))

    def groups(self, task: str) -> dict[str, list[ReportedRun]]:
        """The runs of a task by group, in the order of the leaderboard, or of the runs."""
        runs = [run for run in self.runs if run.task == task]
        order = [*(self.board or {}).get("tasks", {}).get(task, {}), *(run.group for run in runs)]
        found = {group: [run for run in runs if run.group == group] for group in dict.fromkeys(order)}
        return {group: members for group, members in found.items() if members}


def read_reported(folders: Sequence[str | Path]) -> Reported:
    """Runs, or one grid of `trl-nlpo grue` or `ablate`.

    Args:
        folders: of runs, or of one grid.

    Raises:
        UserError: a folder that is neither, a run without a log, a grid beside something else, or a damaged file.
    """
    paths = list(dict.fromkeys(Path(folder) for folder in folders))
    if not paths:
        raise UserError("nothing to report: give the output_dir of a run, of several, or the folder of a grid.")
    grids = [path for path in paths if _is_grid(path)]
    if grids and len(paths) > 1:
        raise UserError(f"{grids[0]} is a grid: report it alone, or give single runs (its cells are runs as well).")
    return _read_grid(grids[0]) if grids else _read_runs(paths)


def _is_grid(path: Path) -> bool:
    return any((path / name).is_file() for name in (BOARD_NAME, _GRID_NAME))


def _read_runs(paths: Sequence[Path]) -> Reported:
    runs = []
    for path in paths:
        if not path.exists():
            raise UserError(f"there is no folder {path}: give the output_dir of a run, or the folder of a grid.")
        if not (path / RESULTS_NAME).is_file():
            raise UserError(
                f"{path} is neither a run (it has no {RESULTS_NAME}) nor a grid (it has no {BOARD_NAME}): give the "
                "output_dir of a run, or the --out of grue or ablate."
            )
        run = RunResults.read(path)
        if not run.log:
            raise UserError(f"{path / LOG_NAME} is not there or empty: a report needs the log of its runs.")
        runs.append(run)
    names = _names(paths)
    labels = _labels(runs, names)
    return Reported(
        ", ".join(names) if len(runs) <= 4 else f"{len(runs)} runs",
        tuple(
            ReportedRun(name, _task(run), label, (run.recipe or {}).get("seed"), run, _versions(run.folder))
            for name, label, run in zip(names, labels, runs, strict=True)
        ),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders from where they part."""
    whole = [path.resolve() for path in paths]
    if len(whole) == 1:
        return [whole[0].name]
    common = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(common).as_posix() for path in whole]


def _task(run: RunResults) -> str:
    recipe = run.recipe or {}
    return str(recipe.get("task") or recipe.get("dataset_name") or "runs")


def _labels(runs: Sequence[RunResults], names: Sequence[str]) -> list[str]:
    """Of each run what its group is called: its algorithm and the keys in which it differs, or its folder."""
    recipes = [comparable_keys(run.recipe or {"folder": name}) for run, name in zip(runs, names, strict=True)]
    decided = _decided_by_algorithm(recipes)
    differing = [key for key in differing_keys(recipes) if key not in decided]
    labels = []
    for recipe, name in zip(recipes, names, strict=True):
        words = [str(recipe["algorithm"])] if "algorithm" in recipe else []
        words += [f"{key}={as_text(recipe[key])}" for key in differing if key in recipe]
        label = ", ".join(words)
        labels.append(label if label and len(label) <= _LONGEST_LABEL else name)
    # Two groups must not be one because their labels are.
    found: dict[str, str] = {}
    for index, (label, recipe) in enumerate(zip(labels, recipes, strict=True)):
        key = as_text(recipe)
        if label in found and found[label] != key:
            labels[index] = f"{label} ({names[index]})"
        found.setdefault(labels[index], key)
    return labels


def _decided_by_algorithm(recipes: Sequence[dict[str, Any]]) -> set[str]:
    """The key `algorithm`, and those that it sets, where no recipe has another value."""
    settings = [
        ALGORITHMS[name].settings if (name := recipe.get("algorithm")) in ALGORITHMS else {} for recipe in recipes
    ]
    changed = {
        key
        for recipe in recipes
        for other in recipes
        if recipe.get("algorithm") == other.get("algorithm")
        for key in differing_keys([recipe, other])
    }
    return {"algorithm", *(key for given in settings for key in given if key not in changed)}


def comparable_keys(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what differs between two seeds of the same."""
    kept = {key: value for key, value in recipe.items() if key not in _OF_ONE_RUN}
    return {
        key: re.sub(r"seed-\d+", "seed-*", value) if isinstance(value, str) else value for key, value in kept.items()
    }


def differing_keys(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Keys that not all recipes have, or not with the same value."""
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    absent = object()
    return [key for key in keys if any(recipe.get(key, absent) != recipes[0].get(key, absent) for recipe in recipes)]


def as_text(value: Any) -> str:
    """A recipe's value in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _read_grid(folder: Path) -> Reported:
    """Finished cells (`TASK/LABEL/seed-N`), and what `grue` or `ablate` wrote of them."""
    board = read_json(folder / BOARD_NAME, _AGAIN) if (folder / BOARD_NAME).is_file() else None
    if board is not None:
        _check_board(board, folder / BOARD_NAME)
    ablation = read_json(folder / ABLATION_NAME, _AGAIN) if (folder / ABLATION_NAME).is_file() else None
    tasks = (board or {}).get("tasks", {})
    labels = {(task, label.replace("/", "_")): label for task, rows in tasks.items() for label in rows}
    runs = []
    for path in sorted(folder.glob(f"*/*/seed-*/{CELL_NAME}"), key=_place):
        run = _finished(path.parent)
        if run is not None:
            task, label, seed = path.parent.parts[-3:]
            runs.append(
                ReportedRun(
                    f"{task}/{label}/{seed}", task, labels.get((task, label), label), int(seed.partition("-")[2]),
                    run, _versions(run.folder),
                )
            )  # fmt: skip
    if not runs and not tasks:
        raise UserError(f"no cell of the grid in {folder} has finished: there is nothing to report yet.")
    return Reported(f"Grid {folder.resolve().name}", tuple(runs), board, ablation, True)


def _place(path: Path) -> tuple[str, str, int]:
    task, label, seed = path.parent.parts[-3:]
    number = seed.partition("-")[2]
    return task, label, int(number) if number.isdigit() else -1


def _finished(folder: Path) -> RunResults | None:
    is_cell = re.fullmatch(r"seed-\d+", folder.name) and (folder / RESULTS_NAME).is_file()
    run = RunResults.read(folder) if is_cell else None
    return run if run is not None and (run.cell or {}).get("status") == "done" else None


def _check_board(board: dict[str, Any], path: Path) -> None:
    parts = [board.get(name) for name in ("tasks", "better", "comparisons")]
    if not all(isinstance(part, dict) and part.keys() == parts[0].keys() for part in parts):  # type: ignore[union-attr]
        raise UserError(f"{path} is damaged (it has no tasks, directions or comparisons): {_AGAIN}.")


def _versions(folder: Path) -> str:
    """From the first line of the resolved recipe, which says what it ran with."""
    path = folder / RECIPE_NAME
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    found = re.match(r"# .*?, as it ran with (.*)$", first)
    return found[1] if found else ""
