"""The writer of a run's folder, which is kept up to date during the run, so that a failure loses no finished result.

[`RunResults`] reads it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .checkpoint_folder import checkpoints_by_age, run_of
from .files import check_folder, explain_full_disk, replace_file
from .json_lines import json_line, write_json_lines
from .results import LOG_NAME, RESULTS_NAME, SAMPLES_NAME, read_results, read_samples


_MODEL_FILES = (
    "model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin", "adapter_model.*",
    "adapter_config.json", "config.json",
)  # fmt: skip
_OF_A_RUN = (
    *_MODEL_FILES, "generation_config.json", "value_model", "completions", "supervised", "training_args.bin",
    "learning_curve.png", "_card.json",
)  # fmt: skip
"""Names that a run writes besides its logs and checkpoints, as patterns."""


def new_run_id() -> str:
    """An id that no other run has."""
    return uuid.uuid4().hex[:12]


def contents(path: str | Path) -> list[str]:
    """What in a folder would be lost if a run were started there anew, in words; nothing where there is nothing.

    Args:
        path (`str` or `Path`): need not exist.
    """
    folder = Path(path)
    results, log = folder / RESULTS_NAME, folder / LOG_NAME
    found = []
    if results.is_file():
        try:
            found += [f"results of {', '.join(stages)}"] if (stages := read_results(folder)["stages"]) else []
        except UserError:
            found.append(f"a damaged {RESULTS_NAME}")
    if log.is_file() and log.stat().st_size:
        found.append(LOG_NAME)
    if checkpoints := checkpoints_by_age(folder):
        found.append(checkpoints[-1].name if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints")
    if any(next(folder.glob(pattern), None) for pattern in _MODEL_FILES):
        found.append("a model")
    return found


def check_free(path: str | Path, resume: bool, overwrite: bool) -> None:
    """Refuse to start a run where there is another, unless it is resumed or replaced on purpose.

    Args:
        path (`str` or `Path`): `output_dir`; need not exist.
        resume, overwrite (`bool`): as [`RunFolder`] takes them.

    Raises:
        UserError: the folder holds results, a log, checkpoints or a model; or it cannot be written into.
    """
    check_folder(path, "output_dir")
    if resume or overwrite or not (found := contents(path)):
        return
    raise UserError(
        f"{path} holds an earlier run ({', '.join(found)}): resume it with --resume, replace it with --overwrite, or "
        "give another --output_dir."
    )


class RunFolder:
    """The files of a run.

    - `recipe.yaml`: the resolved recipe;
    - `metrics.jsonl`: every log line of training and evaluation, with its stage;
    - `results.json`: the metrics of every finished stage on the test split, and of each whether higher or lower is
      better;
    - `samples.jsonl`: a row per test prompt with the completion and scores of every finished stage;
    - `supervised/`: the supervised model; the final model (or adapter) is in the folder itself.

    Args:
        path (`str` or `Path`): created if necessary.
        resume (`bool`): continue with the results in the folder instead of starting again. What a killed run left
            half done is dropped: an incomplete line of `metrics.jsonl`, and the log of an evaluation whose result was
            not kept.
        writes (`bool`): False on all processes but the first.
        overwrite (`bool`): remove what an earlier run left there: its results, logs, checkpoints and models.

    Raises:
        UserError: the results to resume with are damaged, or there is an earlier run that is neither resumed nor
            replaced.
    """

    def __init__(self, path: str | Path, resume: bool = False, writes: bool = True, overwrite: bool = False):
        self.path = Path(path)
        self.writes = writes
        self.results: dict[str, dict[str, Any]] = {}
        self.better: dict[str, str | None] = {}
        self.started = time.time()
        """When this run was started for the first time."""
        self.run = new_run_id()
        """Its id, which its checkpoints have too."""
        self._samples: list[dict[str, Any]] = []
        num_kept = self._continue() if resume else 0
        check_free(path, resume, overwrite or not writes)
        if writes:
            self.path.mkdir(parents=True, exist_ok=True)
            if resume:
                self._keep_lines(lambda number, line: number < num_kept or not _is_result(line))
            else:
                self._remove_earlier_run(overwrite)
                self._keep_results()

    @property
    def samples(self) -> list[dict[str, Any]]:
        """A row per test prompt: `prompt`, and by stage its completion and scores."""
        return self._samples

    def replace_metrics(
        self, judged: Mapping[str, tuple[dict[str, Any], list[dict[str, Any]], Mapping[str, str | None]]]
    ) -> None:
        """Put other numbers of the task's metrics in the place of those that are there.

        Args:
            judged (`dict`): by stage its columns, a row of scores (`metrics`) per test prompt, and of each column
                which way it is better.
        """
        for stage, (metrics, rows, better) in judged.items():
            self.results[stage] = _plain(metrics)
            self.better.update(better)
            for row, scores in zip(self._samples, rows, strict=True):
                row[stage]["metrics"] = _plain(scores)
        write_json_lines(self.path / SAMPLES_NAME, self._samples, default=str)
        self._keep_results()

    @property
    def supervised_model(self) -> Path:
        """Where the supervised stage saves its model."""
        return self.path / "supervised"

    def _continue(self) -> int:
        """Take over what a run to be resumed has kept; returns the lines of its log when it did so last."""
        if not (self.path / RESULTS_NAME).is_file():
            if checkpoints := checkpoints_by_age(self.path):
                self.run = run_of(checkpoints[-1]) or ""
            return 0
        kept = read_results(self.path)
        self.results, self.better, self.started = kept["stages"], kept["better"], kept["started"]
        self.run = kept["run"]
        self._samples = list(read_samples(self.path))
        return kept["log_lines"]

    def _remove_earlier_run(self, with_its_work: bool) -> None:
        """Remove the logs and results of an earlier run; what they are about goes only on purpose."""
        for name in (LOG_NAME, RESULTS_NAME, SAMPLES_NAME):
            (self.path / name).unlink(missing_ok=True)
        if not with_its_work:
            return
        ours = [path for path in checkpoints_by_age(self.path) if run_of(path) is not None]
        for path in [*ours, *(path for pattern in _OF_A_RUN for path in self.path.glob(pattern))]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def log(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`, on disk when this returns."""
        if not self.writes:
            return
        line = {"stage": stage, "step": step, "time": round(time.time(), 3), **_plain(metrics)}
        path = self.path / LOG_NAME
        size = path.stat().st_size if path.is_file() else 0
        with explain_full_disk(self.path, f"a line of {LOG_NAME}"):
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json_line(line))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)
                raise

    def begin_stage(self, stage: str, step: int) -> None:
        """Drop what an unfinished run has logged of a stage after `step`, as it is done again.

        Args:
            stage (`str`): a stage that trains.
            step (`int`): of the checkpoint that it resumes from; 0: it begins.
        """
        if self.writes:

            def is_before(_: int, line: dict[str, Any]) -> bool:
                return line["stage"] != stage or (0 < step >= line["step"] and not _is_result(line))

            self._keep_lines(is_before)

    def add_result(
        self,
        stage: str,
        metrics: dict[str, Any],
        samples: list[dict[str, Any]],
        seconds: float,
        better: Mapping[str, str | None] | None = None,
        first: bool = False,
    ) -> None:
        """Keep the evaluation of a stage; a second one of the same stage replaces the first.

        Args:
            stage (`str`)
            metrics (`dict`): the numbers, by column.
            samples (`list[dict]`): a row per test prompt.
            seconds (`float`): that the stage trained.
            better (`dict`, *optional*): of each column, `"higher"`, `"lower"` or, where neither is better, None.
            first (`bool`): the stage comes before those that are there.
        """
        self.results[stage] = {**_plain(metrics), "seconds": round(seconds, 1)}
        self.better.update(better or {})
        if len(self._samples) != len(samples):
            self._samples = [{"prompt": sample["prompt"]} for sample in samples]
        for row, sample in zip(self._samples, samples, strict=True):
            row[stage] = _plain({key: value for key, value in sample.items() if key != "prompt"})
        if first:
            self.results = {stage: self.results[stage], **self.results}
            self._samples = [{"prompt": row["prompt"], stage: row[stage], **row} for row in self._samples]
        self.log(stage, 0, {f"test_{key}": value for key, value in metrics.items()})
        if self.writes:
            # Reward functions may have logged anything.
            write_json_lines(self.path / SAMPLES_NAME, self._samples, default=str)
            # A stage is finished when it is in this file, which therefore comes last.
            self._keep_results()

    def _keep_results(self) -> None:
        path = self.path / LOG_NAME
        kept = {
            "stages": self.results,
            "better": self.better,
            "metrics_lines": path.read_bytes().count(b"\n") if path.is_file() else 0,
            "started": self.started,
            "run": self.run,
        }
        replace_file(self.path / RESULTS_NAME, json.dumps(kept, indent=2) + "\n")

    def _keep_lines(self, wanted: Callable[[int, dict[str, Any]], bool]) -> None:
        """Truncate `metrics.jsonl` before the first line that is damaged or not wanted, by its number and content."""
        path = self.path / LOG_NAME
        if not path.is_file():
            return
        lines = path.read_bytes().split(b"\n")[:-1]
        size = 0
        for number, line in enumerate(lines):
            try:
                is_wanted = wanted(number, json.loads(line))
            except ValueError:
                is_wanted = False
            if not is_wanted:
                break
            size += len(line) + 1
        os.truncate(path, size)


def _is_result(line: dict[str, Any]) -> bool:
    """Whether a log line is the evaluation at the end of a stage."""
    return any(key.startswith("test_") for key in line)


def _plain(values: Any) -> Any:
    """Values that JSON has: infinity and NaN become None, inside mappings too."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values
