"""Checkpoints of a run: written completely or not at all, and resumed from.

A checkpoint is what `transformers.Trainer` writes (policy, optimizer, scheduler, random state), the value function,
the masking policy where it is older than the policy, and the record of the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from ..algorithm.batch_plan import BatchPlan
from ..errors import UserError
from ..launch.kinds import check_resumed_launch
from ..launch.launch import Launch
from ..launch.processes import failing_together
from ..models.adapters import ADAPTER_FILE, load_adapter_weights, save_adapter
from ..models.masking_policy import MaskingPolicy
from ..models.policy_and_value import PolicyAndValue
from ..storage.checkpoint_folder import (
    MANIFEST_NAME,
    UNFINISHED,
    damage,
    newest_complete_checkpoint,
    publish_checkpoint,
    remove_leftovers,
    remove_old_checkpoints,
    run_of,
)
from ..storage.files import explain_full_disk
from ..storage.run_folder import new_run_id
from ..storage.run_lock import lock_on
from .run_state import Run


logger = logging.get_logger(__name__)

STATE_NAME = "nlpo_state.json"
VALUE_FOLDER = "value_model"
VALUE_NAME = "value_model.safetensors"
_UNITS = "returns_scale"
"""In the file's metadata: what the value function's output is multiplied by."""
MASK_NAME = "masking_policy.safetensors"


class Checkpoints:
    """The checkpoints of one trainer, as far as `transformers.Trainer` does not know them.

    Args:
        args ([`NLPOConfig`]): `output_dir`, `save_total_limit`, `should_save`.
        launch ([`Launch`]), module ([`PolicyAndValue`]), masking_policy ([`MaskingPolicy`]), plan ([`BatchPlan`]), run
            ([`Run`]): the trainer's.
    """

    def __init__(
        self,
        args: Any,
        launch: Launch,
        module: PolicyAndValue,
        masking_policy: MaskingPolicy,
        plan: BatchPlan,
        run: Run,
    ):
        self.args, self.launch, self.module = args, launch, module
        self.masking_policy, self.plan, self.run = masking_policy, plan, run
        self.unfinished_folder: Path | None = None
        """Where a checkpoint is being written, before it gets its name."""
        self.run_id: str | None = None
        """The run that these are of, which its checkpoints name; decided when training begins, unless it is set."""

    @contextmanager
    def folder_to_itself(self) -> Iterator[None]:
        """Be the one run that writes into `output_dir`, inside.

        Raises:
            UserError: another process is writing there, or it is no folder that can be written into.
        """
        with ExitStack() as lock:
            with failing_together():
                lock.enter_context(lock_on(self.args.output_dir, self.args.should_save))
            yield

    def _begin(self, checkpoint: str | None) -> None:
        """Decide which run this is: that of the checkpoint that is resumed if it is in `output_dir`, or a new one."""
        if self.run_id is None and checkpoint is not None:
            folder = Path(checkpoint)
            if folder.parent.resolve() == self._run_dir:
                self.run_id = run_of(folder)
        if self.run_id is None:
            self.run_id = new_run_id()

    @contextmanager
    def writing(self, run_dir: Path, step: int) -> Iterator[Path]:
        """Write a checkpoint beside the others inside, and give it its name when it is complete.

        Yields:
            `Path`: the folder to write into, `checkpoint-<step>`.

        Raises:
            DiskFullError: there is no room for it.
        """
        folder = run_dir / UNFINISHED / f"checkpoint-{step}"
        try:
            with explain_full_disk(run_dir, "a checkpoint", self.run.newest_checkpoint):
                self.unfinished_folder = folder.parent
                try:
                    yield folder
                finally:
                    self.unfinished_folder = None
                self.launch.accelerator.wait_for_everyone()
                if self.args.should_save:
                    publish_checkpoint(run_dir, folder.name, self.run_id or "")
        except BaseException:
            if self.args.should_save:
                remove_leftovers(run_dir)
            raise
        self.launch.accelerator.wait_for_everyone()
        self.run.note_checkpoint(run_dir / folder.name, step)

    def save_run(self, folder: Path) -> None:
        """Write the record of the run, and the masking policy unless it equals the policy."""
        masking_policy = self.masking_policy
        if not masking_policy.is_current:
            save_file(_separate(masking_policy.state_dict()), folder / MASK_NAME, metadata={"format": "pt"})
        state = {
            "run": self.run.saved(),
            "masking_policy": {"age": masking_policy.age, "num_syncs": masking_policy.num_syncs},
            "batches": self.plan.sizes,
        }
        (folder / STATE_NAME).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def load_run(self, folder: Path, force: bool = False) -> None:
        """Restore value function, masking policy and the record of the run; the policy is loaded already.

        Args:
            folder (`Path`): the checkpoint.
            force (`bool`): resume with other batches or another number of processes too.

        Raises:
            UserError: the folder holds another kind of value function, or was written with other batches, or by an
                earlier version.
        """
        state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        if "run" not in state:
            raise UserError(f"{folder} was written by an earlier version of trl-nlpo, which has to resume it.")
        if not force:
            self.plan.check_resumed(state["batches"], folder)
        load_value_function(self.module, folder)
        self.run.restore(state["run"])
        age, num_syncs = state["masking_policy"]["age"], state["masking_policy"]["num_syncs"]
        if (folder / MASK_NAME).is_file():
            self.masking_policy.load_state_dict(load_file(folder / MASK_NAME), age, num_syncs)
        else:
            self.masking_policy.sync()
            # Without masks there is no file, but the schedule continues.
            self.masking_policy.age, self.masking_policy.num_syncs = age, num_syncs

    def check_launch(self, checkpoint: str | Path) -> None:
        """Raise a `UserError` for a checkpoint whose optimizer states this launch cannot read."""
        check_resumed_launch(self.launch, checkpoint)

    def load_adapter(self, checkpoint: str | Path) -> None:
        """The policy's adapter; PEFT writes one that is not called "default" into a folder of its name."""
        name = self.module.adapter
        folder = Path(checkpoint) / name if name != "default" else Path(checkpoint)
        load_adapter_weights(self.module.policy, name, folder)

    def remove_old(self, run_dir: Path, best: str | None) -> None:
        """Keep `save_total_limit` checkpoints of this run; the newest and the best stay in any case."""
        newest = self.run.newest_checkpoint
        protected = {path for path in (newest, None if best is None else Path(best)) if path is not None}
        remove_old_checkpoints(run_dir, self.args.save_total_limit, protected, self.run_id or "", logger.warning)

    def remove_superseded(self, best: str | None) -> None:
        """Of a run that is resumed, what it had no time to remove, or has to by another `save_total_limit`."""
        newest = self.run.newest_checkpoint
        if newest is not None and self.args.should_save and newest.parent.resolve() == self._run_dir:
            self.remove_old(newest.parent, best)

    @property
    def _run_dir(self) -> Path:
        return Path(self.args.output_dir).resolve()

    def to_resume(self, wanted: str | bool | None) -> str | None:
        """The checkpoint that is asked for: a folder, or the newest one for True.

        What a killed run left half done is removed before.

        Raises:
            UserError: there is none, or it is damaged or not one of [`NLPOTrainer`]; or another process is writing a
                run into `output_dir`.
        """
        with self.folder_to_itself():
            if self.args.should_save:
                remove_leftovers(self.args.output_dir)
        self.launch.accelerator.wait_for_everyone()
        checkpoint = self._wanted(wanted)
        self._begin(checkpoint)
        return checkpoint

    def _wanted(self, wanted: str | bool | None) -> str | None:
        if not wanted:
            return None
        if isinstance(wanted, bool):
            report = logger.warning if self.launch.accelerator.is_main_process else logger.debug
            newest = newest_complete_checkpoint(self.args.output_dir, report)
            if newest is None:
                raise UserError(f"There is no checkpoint to resume from in {self.args.output_dir}.")
            check_resumable(newest)
            return str(newest)
        check_checkpoint(wanted)
        return str(wanted)


def check_checkpoint(folder: str | Path) -> None:
    """Raise a `UserError` for a checkpoint that is not there, is damaged, or cannot be resumed from."""
    if not os.path.isdir(folder):
        raise UserError(
            f"resume_from_checkpoint: the checkpoint {folder} is not there: give a folder, or true for the newest."
        )
    found = damage(folder) if is_checkpoint(folder) else None
    if found is not None:
        raise UserError(
            f"The checkpoint {folder} is damaged ({found}): give another, or true for the newest undamaged one."
        )
    check_resumable(folder)


def is_checkpoint(folder: str | Path) -> bool:
    """Whether [`NLPOTrainer`] wrote this folder, as far as its files tell."""
    return (Path(folder) / STATE_NAME).is_file() or (Path(folder) / MANIFEST_NAME).is_file()


def check_resumable(folder: str | Path) -> None:
    """Raise a `UserError` for a folder without a run's state, as TRL's PPO and `save_only_model` write it."""
    if not (Path(folder) / STATE_NAME).is_file():
        raise UserError(
            f"{folder} cannot be resumed: it has no {STATE_NAME}. Give a checkpoint that NLPOTrainer wrote, without "
            "save_only_model."
        )


def save_value_function(module: PolicyAndValue, folder: str | Path) -> None:
    """Write the value function into a subfolder of its own.

    A model of its own is written as such, an adapter as PEFT writes it, both to be loaded by `from_pretrained`; a head
    lies beside the adapter, or alone.
    """
    target = Path(folder) / VALUE_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    if module.value_adapter is not None:
        save_adapter(module.policy, module.value_adapter, target)
    if hasattr(module.value_model, "save_pretrained"):
        module.value_model.save_pretrained(target)
    # The module's own names restore any kind of value model.
    units = {} if module.returns_scale is None else {_UNITS: repr(module.returns_scale)}
    save_file(_separate(module.value_model.state_dict()), target / VALUE_NAME, metadata={"format": "pt", **units})


def load_value_function(module: PolicyAndValue, folder: str | Path) -> None:
    """Restore what `save_value_function` wrote."""
    source = Path(folder) / VALUE_FOLDER
    if not load_value_weights(module, source):
        raise UserError(
            f"{source} holds another kind of value function than this run has: pass the same value_model and "
            "peft_config as the run that is resumed."
        )


def load_value_weights(module: PolicyAndValue, source: Path) -> bool:
    """The value function in a folder that `save_value_function` wrote; False where it is of another kind."""
    saved, own = load_file(source / VALUE_NAME), module.value_model.state_dict()
    has_adapter = (source / ADAPTER_FILE).is_file()
    if not set(saved) <= set(own) or has_adapter != (module.value_adapter is not None):
        return False
    if module.value_adapter is not None:
        load_adapter_weights(module.policy, module.value_adapter, source)
    # Tied weights were saved under one of their names.
    module.value_model.load_state_dict(saved, strict=False)
    with safe_open(source / VALUE_NAME, framework="pt") as file:
        units = (file.metadata() or {}).get(_UNITS)
    module.returns_scale = None if units is None else float(units)
    return True


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors without shared memory, which `safetensors` refuses; of tied ones the first name stays."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        separate[name] = tensor.detach().cpu().contiguous()
    return separate
