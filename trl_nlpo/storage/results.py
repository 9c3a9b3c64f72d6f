"""The reader of a run's folder: what [`RunFolder`] and a grid wrote, as one frozen record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError, one_line
from .files import read_json
from .json_lines import read_json_lines


RESULTS_NAME = "results.json"
SAMPLES_NAME = "samples.jsonl"
LOG_NAME = "metrics.jsonl"
RECIPE_NAME = "recipe.yaml"
CELL_NAME = "cell.json"

_RESTORE = "restore it, or run the recipe again into another output_dir"


def check_is_run(folder: Path) -> None:
    """Raise a [`UserError`] where a folder is not a run's `output_dir`."""
    if not (folder / RECIPE_NAME).is_file():
        what = f"is no run (it has no {RECIPE_NAME})" if folder.is_dir() else "is not there"
        raise UserError(f"{folder} {what}: give the output_dir of a run.")


@dataclass(frozen=True)
class RunResults:
    """What a run left in its folder.

    Attributes:
        folder (`Path`)
        stages (`dict[str, dict]`): the metrics of every finished stage on the test split, by the stage's name.
        better (`dict[str, str | None]`): of those metrics, whether `"higher"` or `"lower"` is better; None: neither.
            Runs of earlier versions recorded none.
        samples (`tuple[dict, ...]`): a row per test prompt: `prompt`, and by stage its completion and scores.
        log (`tuple[dict, ...]`): the log lines of training and evaluation, each with `stage`, `step` and `time`.
        started (`float`): when the run was started for the first time, in seconds since the epoch; 0: unknown.
        run (`str`): the run's id, which its checkpoints have too; empty for runs of earlier versions.
        log_lines (`int`): lines of the log when the last stage was finished.
        recipe (`dict`, *optional*): the resolved recipe, where it is there.
        cell (`dict`, *optional*): what a grid recorded of the run: `status`, `metrics` or `error`.
    """

    folder: Path
    stages: dict[str, dict[str, Any]]
    better: dict[str, str | None]
    samples: tuple[dict[str, Any], ...]
    log: tuple[dict[str, Any], ...]
    started: float = 0.0
    run: str = ""
    log_lines: int = 0
    recipe: dict[str, Any] | None = None
    cell: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: str | Path) -> RunResults:
        """The results in a run's folder. Samples and log may be missing, results may not.

        Raises:
            UserError: there are no results, or a file is damaged; the message names the file and what to do.
        """
        folder = Path(folder)
        if not (folder / RESULTS_NAME).is_file():
            raise UserError(
                f"{folder} has no {RESULTS_NAME}: give the output_dir of a run (or of a grid's cell) that has begun."
            )
        kept = read_results(folder)
        return cls(
            folder,
            **kept,
            samples=read_samples(folder),
            log=_rows(folder / LOG_NAME, growing=True),
            recipe=read_recipe(folder),
            cell=read_cell(folder),
        )


def read_results(folder: Path) -> dict[str, Any]:
    """What `results.json` holds, by the names that [`RunResults`] has for it.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / RESULTS_NAME
    kept = read_json(path, _RESTORE)
    stages = kept.get("stages")
    if not isinstance(stages, dict) or not all(isinstance(metrics, dict) for metrics in stages.values()):
        raise UserError(f"{path} is damaged (it has no metrics under 'stages'): {_RESTORE}.")
    return {
        "stages": stages,
        "better": kept.get("better", {}),
        "started": kept.get("started", 0.0),
        "run": str(kept.get("run", "")),
        "log_lines": kept.get("metrics_lines", 0),
    }


def read_samples(folder: Path) -> tuple[dict[str, Any], ...]:
    """The rows of `samples.jsonl`; none where it is not there.

    Raises:
        UserError: a line is damaged.
    """
    return _rows(folder / SAMPLES_NAME)


def read_cell(folder: Path) -> dict[str, Any] | None:
    """What a grid recorded of the run in its cell; None where it recorded nothing.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CELL_NAME
    return read_json(path, f"delete {folder} to run the cell again") if path.is_file() else None


def _rows(path: Path, growing: bool = False) -> tuple[dict[str, Any], ...]:
    if not path.is_file():
        return ()
    rows = tuple(read_json_lines(path, growing))
    for number, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: a row must be a JSON object, not {type(row).__name__}.")
    return tuple(row for _, row in rows)


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """The resolved recipe of a run; None where it is not there.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / RECIPE_NAME
    if not path.is_file():
        return None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({one_line(error, 200)}): {_RESTORE}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds no keys): {_RESTORE}.")
    return values
