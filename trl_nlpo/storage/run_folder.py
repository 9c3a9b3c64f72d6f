"""What a run leaves behind: one folder, written as the run goes, so that a failure loses nothing that was earned."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .files import explain_full_disk, replace_file


class RunFolder:
    """The files of a run.

    - `recipe.yaml`: the resolved recipe;
    - `metrics.jsonl`: every log line of training and evaluation, with its stage;
    - `results.json`: the metrics of every finished stage on the test split;
    - `samples.jsonl`: a row per test prompt with the completion and scores of every finished stage;
    - `supervised/`: the supervised model; the final model (or adapter) lies in the folder itself.

    Args:
        path (`str` or `Path`): created if need be.
        resume (`bool`): go on with the results that are there instead of starting afresh. What a killed run had half
            done is dropped: half a line of `metrics.jsonl`, and the log of an evaluation whose result was not kept.
        writes (`bool`): False on all processes but the first.
    """

    def __init__(self, path: str | Path, resume: bool = False, writes: bool = True):
        self.path = Path(path)
        self.writes = writes
        self.results: dict[str, dict[str, Any]] = {}
        self.started = time.time()
        """When this run was started for the first time: checkpoints that are older are another run's."""
        self._samples: list[dict[str, Any]] = []
        num_kept = 0
        if resume and (self.path / "results.json").is_file():
            kept = json.loads((self.path / "results.json").read_text(encoding="utf-8"))
            self.results, num_kept = kept["stages"], kept.get("metrics_lines", 0)
            self.started = kept.get("started", 0.0)
            self._samples = [json.loads(line) for line in self._lines("samples.jsonl")]
        if writes:
            self.path.mkdir(parents=True, exist_ok=True)
            if resume:
                self._keep_lines(lambda number, line: number < num_kept or not _is_result(line))
            else:
                for name in ("metrics.jsonl", "results.json", "samples.jsonl"):
                    (self.path / name).unlink(missing_ok=True)
                self._keep_results()

    @property
    def supervised_model(self) -> Path:
        """Where the supervised stage saves its model."""
        return self.path / "supervised"

    def log(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`, on disk when this returns."""
        if not self.writes:
            return
        line = {"stage": stage, "step": step, "time": round(time.time(), 3), **_plain(metrics)}
        path = self.path / "metrics.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        with explain_full_disk(self.path, "a line of metrics.jsonl"):
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)
                raise

    def begin_stage(self, stage: str, step: int) -> None:
        """Drop what a run that did not get to its end has logged of a stage after `step`, which is done again.

        Args:
            stage (`str`): a stage that trains.
            step (`int`): of the checkpoint that it goes on from; 0: it begins.
        """
        if self.writes:

            def is_before(_: int, line: dict[str, Any]) -> bool:
                return line["stage"] != stage or (0 < step >= line["step"] and not _is_result(line))

            self._keep_lines(is_before)

    def add_result(self, stage: str, metrics: dict[str, Any], samples: list[dict[str, Any]], seconds: float) -> None:
        """Keep the evaluation of a stage; a second one of the same stage takes the place of the first."""
        self.results[stage] = {**_plain(metrics), "seconds": round(seconds, 1)}
        if len(self._samples) != len(samples):
            self._samples = [{"prompt": sample["prompt"]} for sample in samples]
        for row, sample in zip(self._samples, samples, strict=True):
            row[stage] = _plain({key: value for key, value in sample.items() if key != "prompt"})
        self.log(stage, 0, {f"test_{key}": value for key, value in metrics.items()})
        if self.writes:
            replace_file(
                self.path / "samples.jsonl",
                # Reward functions may have logged anything.
                "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in self._samples),
            )
            # A stage is finished when it is in this file, which therefore comes last.
            self._keep_results()

    def _keep_results(self) -> None:
        lines = len(self._lines("metrics.jsonl"))
        kept = {"stages": self.results, "metrics_lines": lines, "started": self.started}
        replace_file(self.path / "results.json", json.dumps(kept, indent=2) + "\n")

    def _lines(self, name: str) -> list[str]:
        path = self.path / name
        return path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []

    def _keep_lines(self, wanted: Callable[[int, dict[str, Any]], bool]) -> None:
        """Cut `metrics.jsonl` before the first line that is not whole or not wanted, by its number and content."""
        path = self.path / "metrics.jsonl"
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
    """Values that JSON has: infinity and NaN become None, inside of mappings too."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values
