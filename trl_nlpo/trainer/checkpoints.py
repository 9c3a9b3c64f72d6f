"""Checkpoints of a run: written whole or not at all, and gone on from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from .._trl import TrainerBase
from ..algorithm.batch_plan import BatchPlan
from ..errors import UserError
from ..launch.fsdp import is_fsdp, save_fsdp_optimizer
from ..launch.launch import check_resumed_launch, whole_to_hold
from ..launch.zero import load_zero, weights_were_set
from ..models.adapters import is_adapter_model, load_adapter_weights, saving_only
from ..models.masking_policy import MaskingPolicy
from ..storage.checkpoint_folder import (
    UNFINISHED,
    damage,
    newest_whole_checkpoint,
    publish_checkpoint,
    remove_old_checkpoints,
)
from .guard import FaultHandling
from .run_state import (
    VALUE_FOLDER,
    check_resumable,
    is_checkpoint,
    load_run_state,
    load_value_function,
    save_run_state,
    save_value_function,
)


logger = logging.get_logger(__name__)


@dataclass
class NLPOTrainerState(TrainerState):
    """`TrainerState` with the number of completions sampled so far, as TRL's PPO has it."""

    episode: int = 0


class CheckpointHandling(FaultHandling, TrainerBase):
    """The part of [`NLPOTrainer`] that saves and resumes."""

    # Set by `transformers.Trainer` and `NLPOTrainer`.
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool
    model_wrapped: Any
    optimizer: Any
    lr_scheduler: Any
    plan: BatchPlan
    masking_policy: MaskingPolicy
    trained_adapter: str
    resumes_by_force: bool = False
    """Whether to go on from a checkpoint that was written with other batches or another number of processes."""

    _unfinished_folder: Path | None = None
    """Where a checkpoint is being written, before it gets its name."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save policy (a plain model or PEFT adapter) and tokenizer; the value function goes into `value_model/`."""
        output_dir = output_dir or self.args.output_dir
        policy = self.policy_and_value.policy
        with whole_to_hold(self.model_wrapped, self.accelerator):
            with self._as_plain_trainer(), saving_only(policy, self.trained_adapter):
                super().save_model(output_dir, _internal_call)
            if self.args.should_save:
                save_value_function(self.policy_and_value, output_dir)

    @contextlib.contextmanager
    def _as_plain_trainer(self) -> Iterator[None]:
        """Let `transformers.Trainer` see the policy alone, which is what it saves, loads, describes and pushes."""
        own = self.model, self.is_deepspeed_enabled, self.is_fsdp_enabled
        # DeepSpeed and FSDP would save and load the value function with it, in formats of their own.
        self.model, self.is_deepspeed_enabled, self.is_fsdp_enabled = self.policy_and_value.policy, False, False
        try:
            yield
        finally:
            self.model, self.is_deepspeed_enabled, self.is_fsdp_enabled = own

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if is_fsdp(self.accelerator):
            # `transformers` would write the weights a second time.
            save_fsdp_optimizer(self.accelerator, self.optimizer, self.model, output_dir)
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))
            return
        own, self.model = self.model, self.policy_and_value.policy
        try:
            # By the policy `transformers` sees whether there are frozen weights, which DeepSpeed need not write.
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            self.model = own

    def _save_now(self) -> None:
        self._save_checkpoint(self.model, trial=None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others and give it its name when it is whole; then remove old ones."""
        run_dir = Path(self._get_output_dir(trial=trial))
        folder = run_dir / UNFINISHED / f"checkpoint-{self.state.global_step}"
        checkpoint = run_dir / folder.name
        with self._explained_when_the_disk_is_full(run_dir):
            name = self.args.hub_model_id.split("/")[-1] if self.args.hub_model_id else run_dir.name
            self.create_model_card(model_name=name)
            self._write_checkpoint(model, trial, folder, checkpoint)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish_checkpoint(run_dir, folder.name)
        self.accelerator.wait_for_everyone()
        self._note_checkpoint(checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save and not self.progress.in_update:
            best = self.state.best_model_checkpoint
            protected = {checkpoint} if best is None else {checkpoint, Path(best)}
            remove_old_checkpoints(run_dir, self.args.save_total_limit, protected)

    def _write_checkpoint(self, model: Any, trial: Any, folder: Path, checkpoint: Path) -> None:
        """All files of a checkpoint into `folder`, which is going to be `checkpoint`."""
        best = self.state.best_model_checkpoint
        self._unfinished_folder = folder.parent
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint != best:
                # `transformers` noticed the best model at the place where it is written.
                best = str(checkpoint)
        finally:
            self._unfinished_folder = None
            self.state.best_model_checkpoint = best
        if self.args.should_save:
            self.state.save_to_json(str(folder / "trainer_state.json"))
            if not self.args.save_only_model:
                self.progress.unfinished = self._events_to_come()
                save_run_state(folder, self)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._unfinished_folder or super()._get_output_dir(trial))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The upload runs beside the training, from a folder that must stay: the checkpoint under its final name.
        if self._unfinished_folder is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card (`README.md`) into `output_dir`; arguments as in TRL."""
        with self._as_plain_trainer():
            super().create_model_card(*args, **kwargs)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        with whole_to_hold(self.model_wrapped, self.accelerator, write_back=True):
            if is_adapter_model(self.policy_and_value.policy):
                self._load_adapter(best)
            else:
                with self._as_plain_trainer():
                    super()._load_best_model()
            # A policy is saved with the value function of its own time.
            if (Path(best) / VALUE_FOLDER).is_dir():
                load_value_function(self.policy_and_value, best)
        weights_were_set(self.accelerator, self.optimizer)
        self.masking_policy.policy_moved()

    def _load_adapter(self, checkpoint: str) -> None:
        """The policy's adapter; PEFT writes one that is not called "default" into a folder of its name."""
        policy, name = self.policy_and_value.policy, self.trained_adapter
        load_adapter_weights(policy, name, Path(checkpoint) / name if name != "default" else Path(checkpoint))

    def _checkpoint_to_resume(self, resume_from_checkpoint: str | bool | None) -> str | None:
        if not resume_from_checkpoint:
            return None
        if isinstance(resume_from_checkpoint, bool):
            report = logger.warning if self.is_world_process_zero() else logger.debug
            newest = newest_whole_checkpoint(self.args.output_dir, report)
            if newest is None:
                raise UserError(f"There is no checkpoint to resume from in {self.args.output_dir}.")
            check_resumable(newest)
            return str(newest)
        if not os.path.isdir(resume_from_checkpoint):
            raise UserError(
                f"The checkpoint {resume_from_checkpoint} does not exist: give a folder, or True for the newest."
            )
        found = damage(resume_from_checkpoint) if is_checkpoint(resume_from_checkpoint) else None
        if found is not None:
            raise UserError(
                f"The checkpoint {resume_from_checkpoint} is damaged ({found}): give another, or True for the newest "
                "whole one."
            )
        check_resumable(resume_from_checkpoint)
        return str(resume_from_checkpoint)

    def _resume(self, checkpoint: str) -> None:
        """Policy, value function, masking policy, optimizer, scheduler, counters and callbacks of a checkpoint."""
        check_resumed_launch(self.accelerator, checkpoint)
        with whole_to_hold(self.model_wrapped, self.accelerator, write_back=True):
            if is_adapter_model(self.policy_and_value.policy):
                self._load_adapter(checkpoint)
            else:
                with self._as_plain_trainer():
                    self._load_from_checkpoint(checkpoint)
            load_run_state(checkpoint, self)
        if self.is_deepspeed_enabled:
            load_zero(self.model_wrapped, checkpoint)
        self.state = NLPOTrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        self._load_callback_state()
        self._load_optimizer_and_scheduler(checkpoint)
        self.state.episode = self.state.global_step * self.plan.batch_size
        self.num_updates_done = self.state.global_step
        self._note_checkpoint(Path(checkpoint))
        if self.progress.in_update:
            self.progress.in_update = False
            logger.warning(
                f"{checkpoint} was written when an update failed half-way: the run goes on from there, but is not "
                "equal to an unbroken one."
            )

    def _load_callback_state(self) -> None:
        """Counters of callbacks, such as the patience of early stopping; what they were built with stays as it is."""
        if self.args.restore_callback_states_from_checkpoint:
            super()._load_callback_state()
            return
        saved = self.state.stateful_callbacks
        for name, callbacks in self._stateful_callbacks().items():
            states = saved.get(name, [])
            states = states if isinstance(states, list) else [states]
            # `transformers` adds to the list of callbacks of one class at every save; the last are the latest.
            for callback, state in zip(callbacks, states[-len(callbacks) :], strict=False):
                for attribute, value in state.get("attributes", {}).items():
                    setattr(callback, attribute, value)
        self.state.stateful_callbacks = self._new_state().stateful_callbacks

    def _stateful_callbacks(self) -> dict[str, list[Any]]:
        by_class: dict[str, list[Any]] = {}
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                by_class.setdefault(type(callback).__name__, []).append(callback)
        return by_class

    def _new_state(self) -> NLPOTrainerState:
        stateful: Any = [
            callback
            for callback in [*self.callback_handler.callbacks, self.control]
            if isinstance(callback, ExportableState)
        ]
        return NLPOTrainerState(
            is_local_process_zero=self.is_local_process_zero(),
            is_world_process_zero=self.is_world_process_zero(),
            stateful_callbacks=stateful,
        )
