"""The samples of a grid's finished cells, scored again by the metrics that the recipes have now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ..data.splits import load_splits
from ..errors import UserError
from ..metrics.directions import direction
from ..metrics.suite import judge_samples
from ..recipes.recipe import Recipe, load_recipe
from ..storage.files import replace_file
from ..storage.results import RECIPE_NAME, RunResults
from ..storage.run_folder import RunFolder
from ..storage.run_lock import FolderTakenError, lock_on
from .cells import Cell, Grid, keys_of, paths_of, scoring_of
from .grid import check_earlier, who_has, write_cell


def rescore_grid(grid: Grid, say: Callable[[str], None]) -> list[Cell]:
    """Score every finished cell's samples again, each stage's, without running anything; rewards stay as they are.

    A metric that cannot be computed now leaves what is known of it. What models have scored before is remembered
    ([`metrics.score_cache`]).

    Args:
        grid ([`Grid`])
        say: prints a line.

    Returns:
        `list[Cell]`: finished cells whose samples could not be scored; their earlier numbers stay.

    Raises:
        UserError: no cell is finished, a metric's name or option is not known, or the folder has a grid with other
            settings or an edited recipe.
    """
    done = [cell for cell in grid.cells() if cell.status == "done"]
    if not done:
        raise UserError(
            f"{grid.folder} has no finished cell of these tasks, algorithms and seeds to score: run the grid first, "
            "without --rescore."
        )
    check_earlier(grid)
    for cell in done:
        # A misspelt metric is no gap of a table.
        _recipe_of(grid, cell).arguments.check_functions()
    tests, failed, reported = _Tests(), [], set[str]()
    for number, cell in enumerate(done, 1):
        place = f"[{number}/{len(done)}] {cell.task}, {cell.variant.label}, seed {cell.seed}"
        try:
            with lock_on(cell.folder):
                unavailable = _rescore(grid, cell, tests)
        except FolderTakenError:
            say(f"{place}: {who_has(cell.folder)}.")
            continue
        except UserError as error:
            failed.append(cell)
            say(f"{place}: not scored: {error}")
            continue
        say(f"{place}: scored.")
        for metric, reason in unavailable.items():
            if metric not in reported:
                reported.add(metric)
                say(f"  without {metric}: {reason}")
    return failed


class _Tests:
    """Test splits by what decides them, so that the cells of a task share one."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def of(self, recipe: Recipe) -> Any:
        """The test split of a recipe.

        Raises:
            UserError: it is not there any more.
        """
        beginnings = ("dataset_", "prompt_", "references_", "completion_", "max_", "supervised_", "lowercase")
        of_data = {key: value for key, value in recipe.resolved.items() if key.startswith(beginnings)}
        key = json.dumps([recipe.arguments.task, recipe.training.seed, of_data], sort_keys=True, default=str)
        if key not in self._known:
            # One at a time: rows of every seed would fill the memory.
            self._known = {key: load_splits(recipe.arguments, recipe.training.seed).test}
        return self._known[key]


def _recipe_of(grid: Grid, cell: Cell) -> Recipe:
    return load_recipe(cell.recipe, [*keys_of(grid, cell), *paths_of(grid, cell)])


def _rescore(grid: Grid, cell: Cell, tests: _Tests) -> dict[str, str]:
    """Score the samples of a cell; returns the metrics that could not be computed, and why."""
    recipe = _recipe_of(grid, cell)
    run, test = RunResults.read(cell.folder), tests.of(recipe)
    if not run.samples:
        raise UserError(f"{cell.folder} has no samples.jsonl: restore it, or delete the folder to run the cell again.")
    if [row.get("prompt") for row in run.samples] != list(test["prompt"]):
        raise UserError(
            f"{cell.folder} has samples of other prompts than the test split has now ({len(run.samples)} and "
            f"{len(test)} rows): restore the data, or delete the folder to run the cell again."
        )
    judged: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    for stage, before in run.stages.items():
        found = judge_samples(recipe.arguments.metric_specs, [row[stage] for row in run.samples], test)
        unavailable |= found.unavailable
        kept = {name: value for name, value in before.items() if not name.startswith("metrics/")}
        old = {name: value for name, value in before.items() if name.startswith("metrics/")}
        rows = [sample.get("metrics", {}) for sample in found.samples]
        if found.unavailable:
            # What cannot be computed here, where a model may be missing, was earned elsewhere.
            kept |= old
            rows = [{**row[stage].get("metrics", {}), **new} for row, new in zip(run.samples, rows, strict=True)]
        better = {name: run.better.get(name, direction(name)) for name in kept} | found.better
        judged[stage] = ({**kept, **found.metrics}, rows, better)
    _keep(grid, cell, recipe, judged)
    return unavailable


def _keep(grid: Grid, cell: Cell, recipe: Recipe, judged: dict[str, Any]) -> None:
    RunFolder(cell.folder, resume=True).replace_metrics(judged)
    _write_metrics_into(cell.folder / RECIPE_NAME, recipe.resolved.get("metrics"))
    stages = RunResults.read(cell.folder).stages
    write_cell(cell, {**cell.result(), "scoring": scoring_of(grid, cell), "metrics": stages[cell.stage]})


def _write_metrics_into(path: Path, metrics: Any) -> None:
    """Change the metrics of a resolved recipe, and leave the versions that it ran under."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        comment = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        values = {**yaml.safe_load(text), "metrics": metrics}
        replace_file(path, comment + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=119))
