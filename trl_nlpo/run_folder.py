"""What a run leaves behind: one folder, written as the run goes, so that a failure loses nothing that was earned."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


class RunFolder:
    """The files of a run.

    - `recipe.yaml`: the resolved recipe;
    - `metrics.jsonl`: every log line of training and evaluation, with its stage;
    - `results.json`: the metrics of every finished stage on the test split;
    - `samples.jsonl`: a row per test prompt with the completion and scores of every finished stage;
    - `supervised/`: the supervised model; the final model (or adapter) lies in the folder itself.

    Args:
        path (`str` or `Path`): created if need be.
        resume (`bool`): go on with the results that are there instead of starting afresh.
        writes (`bool`): False on all processes but the first.
    """

    def __init__(self, path: str | Path, resume: bool = False, writes: bool = True):
        self.path = Path(path)
        self.writes = writes
        self.results: dict[str, dict[str, Any]] = {}
        self._samples: list[dict[str, Any]] = []
        if resume and (self.path / "results.json").is_file():
            self.results = json.loads((self.path / "results.json").read_text(encoding="utf-8"))["stages"]
            self._samples = [json.loads(line) for line in self._lines("samples.jsonl")]
        if writes:
            self.path.mkdir(parents=True, exist_ok=True)
            if not resume:
                for name in ("metrics.jsonl", "results.json", "samples.jsonl"):
                    (self.path / name).unlink(missing_ok=True)

    @property
    def supervised_model(self) -> Path:
        """Where the supervised stage saves its model."""
        return self.path / "supervised"

    def log(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`, on disk when this returns."""
        if not self.writes:
            return
        line = {"stage": stage, "step": step, "time": round(time.time(), 3), **_plain(metrics)}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def add_result(self, stage: str, metrics: dict[str, Any], samples: list[dict[str, Any]], seconds: float) -> None:
        """Keep the evaluation of a stage; a second one of the same stage takes the place of the first."""
        self.results[stage] = {**_plain(metrics), "seconds": round(seconds, 1)}
        if len(self._samples) != len(samples):
            self._samples = [{"prompt": sample["prompt"]} for sample in samples]
        for row, sample in zip(self._samples, samples, strict=True):
            row[stage] = _plain({key: value for key, value in sample.items() if key != "prompt"})
        self.log(stage, 0, {f"test_{key}": value for key, value in metrics.items()})
        if self.writes:
            self._replace("results.json", json.dumps({"stages": self.results}, indent=2) + "\n")
            self._replace("samples.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in self._samples))

    def _lines(self, name: str) -> list[str]:
        path = self.path / name
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []

    def _replace(self, name: str, text: str) -> None:
        """Write beside and rename, so that a reader never sees half a file."""
        temporary = self.path / f".{name}.part"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path / name)


class MetricsLog(TrainerCallback):
    """Every log line of a trainer into the run folder's `metrics.jsonl`."""

    def __init__(self, folder: RunFolder, stage: str):
        self.folder, self.stage = folder, stage

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.log(self.stage, state.global_step, logs or {})


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values that JSON has: infinity and NaN become None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
