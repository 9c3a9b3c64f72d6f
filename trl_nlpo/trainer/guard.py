"""`Guard`: what happens to a run that fails or is asked to stop. Progress is saved, and a line says how to resume."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from transformers.utils import logging

from ..errors import (
    DiskFullError,
    Interrupted,
    OutOfMemoryError,
    RewardError,
    StoppedAtOnce,
    Terminated,
    TrainingStoppedError,
)
from ..launch.launch import Launch
from ..launch.signals import StopRequest, stop_request
from .run_state import Run


logger = logging.get_logger(__name__)

_ON_ALL_PROCESSES = (RewardError, TrainingStoppedError)
"""Errors that every process raises at the same place, so that all can write a checkpoint together."""


class Guarded(Protocol):
    """What the guard needs of a trainer: where it is, and its checkpoints."""

    args: Any
    state: Any
    control: Any
    checkpoints: Any

    def save_checkpoint(self, tell_callbacks: bool = True) -> None:
        """Write a checkpoint of the last update."""


class Guard:
    """Saves progress when a run fails, and ends it when it is asked to or cannot continue.

    Args:
        trainer ([`Guarded`]), launch ([`Launch`]), run ([`Run`]): what is guarded.
    """

    def __init__(self, trainer: Guarded, launch: Launch, run: Run):
        self.trainer, self.launch, self.run = trainer, launch, run
        self.stop_request: StopRequest | None = None

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Have the folder to itself, finish the update when asked to stop, and save progress when the run fails."""
        self.run.is_updating = False
        checkpoints = self.trainer.checkpoints
        with checkpoints.folder_to_itself(), stop_request() as self.stop_request:
            checkpoints.remove_superseded(self.trainer.state.best_model_checkpoint)
            try:
                yield
            except (Interrupted, StoppedAtOnce, DiskFullError):
                raise
            except (Exception, KeyboardInterrupt) as error:
                self._save_after_failure(error)
                if is_out_of_memory(error):
                    raise OutOfMemoryError(self._out_of_memory()) from error
                raise

    def _save_after_failure(self, error: BaseException) -> None:
        """A checkpoint of the last update, unless it has one. Fails in one line, as there is an error to raise."""
        run, step = self.run, self.trainer.state.global_step
        if step == 0 or self.trainer.args.save_strategy == "no":
            return
        if self.launch.accelerator.num_processes > 1 and not isinstance(error, _ON_ALL_PROCESSES):
            return
        run.in_update = run.is_updating or run.num_updates != step
        if run.checkpoint_step == step and not events_to_come(self.trainer.control):
            return
        if not run.in_update:
            run.restore_random_state()
        try:
            self.trainer.save_checkpoint(tell_callbacks=False)
        except Exception as failure:
            logger.warning(f"No checkpoint could be written: {failure}")
        else:
            logger.warning(f"Progress up to update {step} was saved in {run.newest_checkpoint}.")

    def check_signals(self) -> None:
        """End the run after an update if a signal on any process has asked for it.

        Raises:
            Interrupted: Ctrl-C.
            Terminated: SIGTERM.
        """
        number = self.agreed_signal()
        if number is None:
            return
        self._save_if_unsaved()
        message = f"stopped after update {self.trainer.state.global_step}; {self._resume_hint()}"
        raise Interrupted(message) if number == signal.SIGINT else Terminated(message)

    def check_skipped_steps(self) -> None:
        """End the run, with a checkpoint, when too many optimizer steps in a row were skipped.

        Raises:
            TrainingStoppedError: they were.
        """
        count, limit = self.run.skipped_steps_in_a_row, self.trainer.args.max_skipped_steps
        if limit is None or count < limit:
            return
        self._save_if_unsaved()
        raise TrainingStoppedError(
            f"The last {count} optimizer steps were skipped (max_skipped_steps), because loss or gradient was not "
            "finite or no completion had a reward (nlpo/skipped_completions counts these): lower learning_rate, or "
            f"look at the reward functions, or at the precision; {self._resume_hint()}"
        )

    def agreed_signal(self) -> int | None:
        """The signal that any process was sent, the same on all; Ctrl-C before SIGTERM."""
        own = None if self.stop_request is None else self.stop_request.signal
        accelerator = self.launch.accelerator
        if accelerator.num_processes == 1:
            return own
        numbers = (signal.SIGINT, signal.SIGTERM)
        counts = torch.tensor([int(own == number) for number in numbers], device=accelerator.device)
        counted = zip(numbers, self.launch.all_sum(counts).tolist(), strict=True)
        return next((number for number, count in counted if count), None)

    def _save_if_unsaved(self) -> None:
        if self.run.checkpoint_step != self.trainer.state.global_step and self.trainer.args.save_strategy != "no":
            self.trainer.save_checkpoint()

    def _resume_hint(self) -> str:
        if self.run.newest_checkpoint is None:
            return "there is no checkpoint to resume from."
        return f"resume from {self.run.newest_checkpoint} with --resume (resume_from_checkpoint=True in a script)."

    def _out_of_memory(self) -> str:
        args = self.trainer.args
        return (
            f"Out of memory in update {self.trainer.state.global_step + 1}: lower per_device_train_batch_size "
            f"({args.per_device_train_batch_size}; raise gradient_accumulation_steps instead) or "
            f"local_rollout_forward_batch_size ({args.local_rollout_forward_batch_size}), set gradient_checkpointing, "
            f"or lower response_length ({args.response_length}); {self._resume_hint()}"
        )


def events_to_come(control: Any) -> list[str]:
    """What of the last update has not happened yet: names of `TrainerControl`."""
    events = [name for name in ("should_log", "should_evaluate") if getattr(control, name)]
    return [*events, "should_save"] if events and control.should_save else events


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch could not get memory, on a device or on the CPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)
