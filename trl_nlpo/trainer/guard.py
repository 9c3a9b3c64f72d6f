"""What the trainer does when something fails: keep what was earned, say what happened, agree with other processes."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from ..errors import DiskFullError, OutOfMemoryError, RewardError, TrainingStoppedError
from ..launch.signals import Interrupted, StoppedAtOnce, StopRequest, Terminated, stop_request
from ..records import UpdateStats
from ..storage.checkpoint_folder import remove_leftovers
from ..storage.files import explain_full_disk
from .collapse import collapse_signs
from .run_state import Progress


logger = logging.get_logger(__name__)

_ON_ALL_PROCESSES = (RewardError, TrainingStoppedError)
"""Errors that every process raises at the same place, so that all can write a checkpoint together."""


class FaultHandling:
    """The part of [`NLPOTrainer`] that outlives failures."""

    args: Any
    model: Any
    state: Any
    control: Any
    accelerator: Any
    progress: Progress
    num_updates_done: int
    _save_checkpoint: Callable[..., None]
    _save_now: Callable[[], None]

    _is_updating = False
    """Whether `update_policy` has begun and not ended."""
    _newest_checkpoint: Path | None = None
    _checkpoint_step: int | None = None
    _stop_request: StopRequest | None = None
    _random_state: tuple[Any, ...] | None = None

    @contextlib.contextmanager
    def _kept_safe(self) -> Iterator[None]:
        """Finish the update when asked to stop, and save what a run has earned when it fails."""
        self._is_updating = False
        with stop_request() as self._stop_request:
            try:
                yield
            except (Interrupted, StoppedAtOnce, DiskFullError):
                raise
            except (Exception, KeyboardInterrupt) as error:
                self._save_what_was_earned(error)
                if is_out_of_memory(error):
                    raise OutOfMemoryError(self._out_of_memory()) from error
                raise

    def _save_what_was_earned(self, error: BaseException) -> None:
        """A checkpoint of the last update, unless it has one. Fails in one line, as there is an error to raise."""
        is_alone = self.accelerator.num_processes == 1
        if self.state.global_step == 0 or self.args.save_strategy == "no":
            return
        if not is_alone and not isinstance(error, _ON_ALL_PROCESSES):
            return
        self.progress.in_update = self._is_updating or self.num_updates_done != self.state.global_step
        if self._checkpoint_step == self.state.global_step and not self._events_to_come():
            return
        if not self.progress.in_update:
            self._restore_random_state()
        try:
            self._save_checkpoint(self.model, trial=None)
        except Exception as failure:
            logger.warning(f"No checkpoint could be written: {failure}")
        else:
            logger.warning(f"What was earned up to update {self.state.global_step} is in {self._newest_checkpoint}.")

    def _events_to_come(self) -> list[str]:
        """What of the last update has not happened yet."""
        events = [name for name in ("should_log", "should_evaluate") if getattr(self.control, name)]
        return [*events, "should_save"] if events and self.control.should_save else events

    def _note_checkpoint(self, checkpoint: Path) -> None:
        self._newest_checkpoint, self._checkpoint_step = checkpoint, self.state.global_step

    def _note_random_state(self) -> None:
        """Remember where the random numbers were, for a checkpoint that has to be written later."""
        on_device = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
        self._random_state = (random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device)

    def _restore_random_state(self) -> None:
        if self._random_state is None:
            return
        python, numpy, torch_state, on_device = self._random_state
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
        if on_device is not None:
            torch.cuda.set_rng_state_all(on_device)

    def _stop_if_asked(self) -> None:
        """End the run after an update if a signal on any process has asked for it.

        Raises:
            Interrupted: Ctrl-C.
            Terminated: SIGTERM.
        """
        number = self._agreed_signal()
        if number is None:
            return
        self._save_if_unsaved()
        message = f"stopped after update {self.state.global_step}; {self._way_on()}"
        raise Interrupted(message) if number == signal.SIGINT else Terminated(message)

    def _watch_for_collapse(self) -> None:
        """Say, once per kind, that the run looks like reward hacking; with `stop_on_collapse`, end it as it is."""
        signs = collapse_signs(self.state.log_history)
        for kind, sign in signs.items():
            if kind in self.progress.warned_of:
                continue
            self.progress.warned_of.append(kind)
            if self.state.is_world_process_zero:
                logger.warning(sign)
            if self.args.stop_on_collapse:
                self.control.should_training_stop = True
        if signs and self.control.should_training_stop:
            self._save_if_unsaved()

    def _count_steps(self, stats: UpdateStats) -> None:
        progress = self.progress
        if stats.num_optimizer_steps:
            progress.policy_loss_sum += stats.policy_loss
            progress.num_updates += 1
            progress.skipped_steps_in_a_row = 0
        progress.skipped_steps_in_a_row += stats.skipped_steps_in_a_row

    def _stop_if_hopeless(self) -> None:
        """End the run, with a checkpoint, when too many optimizer steps in a row were skipped.

        Raises:
            TrainingStoppedError: they were.
        """
        count = self.progress.skipped_steps_in_a_row
        if self.args.max_skipped_steps is None or count < self.args.max_skipped_steps:
            return
        self._save_if_unsaved()
        raise TrainingStoppedError(
            f"The last {count} optimizer steps were skipped (max_skipped_steps), because loss or gradient was not "
            "finite or no completion had a reward (nlpo/skipped_completions counts these): lower learning_rate, or "
            f"look at the reward functions, or at the precision; {self._way_on()}"
        )

    def _save_if_unsaved(self) -> None:
        if self._checkpoint_step != self.state.global_step and self.args.save_strategy != "no":
            self._save_now()

    def _agreed_signal(self) -> int | None:
        own = None if self._stop_request is None else self._stop_request.signal
        if self.accelerator.num_processes == 1:
            return own
        numbers = (signal.SIGINT, signal.SIGTERM)
        counts = torch.tensor([int(own == number) for number in numbers], device=self.accelerator.device)
        counts = self.accelerator.reduce(counts, reduction="sum").tolist()
        return next((number for number, count in zip(numbers, counts, strict=True) if count), None)

    def _way_on(self) -> str:
        if self._newest_checkpoint is None:
            return "there is no checkpoint to go on from."
        return f"go on from {self._newest_checkpoint} with --resume (resume_from_checkpoint=True in a script)."

    def _out_of_memory(self) -> str:
        args = self.args
        return (
            f"Out of memory in update {self.state.global_step + 1}: lower per_device_train_batch_size "
            f"({args.per_device_train_batch_size}; raise gradient_accumulation_steps instead) or "
            f"local_rollout_forward_batch_size ({args.local_rollout_forward_batch_size}), set gradient_checkpointing, "
            f"or lower response_length ({args.response_length}); {self._way_on()}"
        )

    @contextlib.contextmanager
    def _explained_when_the_disk_is_full(self, run_dir: Path) -> Iterator[None]:
        try:
            with explain_full_disk(run_dir, "a checkpoint", self._newest_checkpoint):
                yield
        except BaseException:
            if self.args.should_save:
                remove_leftovers(run_dir)
            raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch could not get memory, on a device or on the CPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)
