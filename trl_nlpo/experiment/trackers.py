"""Trackers (TensorBoard, Weights & Biases, trackio) of a recipe's run: all its stages are one run there."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import WandbCallback, get_reporting_integration_callbacks


_SHARED = ("TensorBoardCallback", "WandbCallback", "TrackioCallback")
"""Callbacks that several trainers can share. Others of transformers are left to the reinforcement stage's trainer."""


class Trackers:
    """The callbacks of transformers that `report_to` names, made once and shared by the trainers of all stages.

    The supervised stage's metrics are called `train/supervised/*` there, what the reinforcement stage logs is called
    as a trainer of its own has it, and results on the test split are `test/<stage>/*`.

    Args:
        args ([`NLPOConfig`]): `report_to` and what trackers read besides. Without a `run_name` it is given one, by
            which trackio knows the run again.
        folder (`Path`): of the run.
        run (`str`): the run's id. Resumed runs have it too.
    """

    def __init__(self, args: Any, folder: Path, run: str):
        self.args = args
        classes = get_reporting_integration_callbacks(args.report_to)
        self._replaced = [cls for cls in classes if cls.__name__ in _SHARED]
        self.callbacks: list[Any] = [_WandbCallback(run) if cls is WandbCallback else cls() for cls in self._replaced]
        # One that a script has begun goes on after this run.
        self._ends_wandb = "wandb" in args.report_to and sys.modules["wandb"].run is None
        if self.callbacks:
            args.run_name = args.run_name or f"{folder.name}-{run}"
        for callback in self.callbacks:
            # Where transformers leaves it to the callback, it would be another folder each time.
            if getattr(callback, "logging_dir", "") is None and not getattr(args, "logging_dir", None):
                callback.logging_dir = str(folder / "runs" / run)

    def of_stage(self, stage: str) -> TrainerCallback:
        """For a trainer that has no trackers of its own: its log goes to these, under the name of the stage."""
        return _StageTracker(self, stage)

    def attach(self, trainer: Any) -> None:
        """Put these in the place of a trainer's own."""
        for cls, callback in zip(self._replaced, self.callbacks, strict=True):
            trainer.remove_callback(cls)
            trainer.add_callback(callback)

    def log_results(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Log what the stages gave on the test split.

        Args:
            results (`dict`): by stage its metrics, as `results.json` has them; what is no finite number is left out.
        """
        if not self.callbacks:
            return
        logs = {
            f"test_{stage}/{name}": float(value)
            for stage, metrics in results.items()
            for name, value in metrics.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        for callback in self.callbacks:
            callback.on_log(self.args, self._state, TrainerControl(), logs=dict(logs))

    @property
    def _state(self) -> TrainerState:
        """That of no trainer."""
        return TrainerState(is_world_process_zero=self.args.process_index == 0)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """On the way out, end the run there, so that another run of this process is another one there."""
        failed = True
        try:
            yield
            failed = False
        finally:
            for callback in self.callbacks:
                if not isinstance(callback, WandbCallback):
                    callback.on_train_end(self.args, self._state, TrainerControl())
            if self._ends_wandb:
                sys.modules["wandb"].finish(exit_code=int(failed))


class _WandbCallback(WandbCallback):
    """Weights & Biases knows a resumed run by its id alone, and transformers lets it make up another each time.

    TensorBoard knows it by its folder, trackio by its name.

    Args:
        run (`str`): the run's id.
    """

    def __init__(self, run: str):
        super().__init__()
        self.run = run

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Begin the run there, or go on with it."""
        wandb = sys.modules["wandb"]
        if state.is_world_process_zero and wandb.run is None:
            wandb.init(
                project=os.environ.get("WANDB_PROJECT", "huggingface"),
                name=args.run_name,
                id=os.environ.get("WANDB_RUN_ID", self.run),
                resume=os.environ.get("WANDB_RESUME", "allow"),
            )
        super().setup(args, state, model, **kwargs)


class _StageTracker(TrainerCallback):
    """Hands a trainer's events to shared trackers, with the run's arguments in the place of the trainer's."""

    def __init__(self, trackers: Trackers, stage: str):
        self.trackers, self.stage = trackers, stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for callback in self.trackers.callbacks:
            callback.on_train_begin(self.trackers.args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        renamed = {f"{self.stage}/{name}": value for name, value in (logs or {}).items()}
        for callback in self.trackers.callbacks:
            callback.on_log(self.trackers.args, state, control, logs=dict(renamed), **kwargs)
