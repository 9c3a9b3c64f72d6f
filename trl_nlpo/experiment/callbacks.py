"""The callback that keeps a log of a recipe's run."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ..storage.run_folder import RunFolder


class MetricsLog(TrainerCallback):
    """Writes every log line of a trainer to `metrics.jsonl` in the run folder.

    Args:
        folder ([`RunFolder`])
        stage (`str`): the name under which the lines are written.
    """

    def __init__(self, folder: RunFolder, stage: str):
        self.folder, self.stage = folder, stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.folder.begin_stage(self.stage, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.log(self.stage, state.global_step, logs or {})
