"""What a run needs to go on beside the policy, optimizer and scheduler, which `transformers.Trainer` saves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..errors import UserError
from ..models.adapters import ADAPTER_FILE, load_adapter_weights, save_adapter
from ..models.policy_and_value import PolicyAndValue
from ..storage.checkpoint_folder import MANIFEST_NAME


STATE_NAME = "nlpo_state.json"
VALUE_FOLDER = "value_model"
VALUE_NAME = "value_model.safetensors"
MASK_NAME = "masking_policy.safetensors"


@dataclass
class Progress:
    """What a run counts and remembers from one update to the next, beside `TrainerState`.

    Attributes:
        pending_logs (`list` of `dict`): metrics of the updates since the last log.
        policy_loss_sum (`float`), num_updates (`int`): for the mean loss of the whole run.
        unfinished (`list` of `str`): events of the last update that were still to come when the checkpoint was
            written, as a failure in an evaluation leaves it: names of `TrainerControl`, such as `"should_evaluate"`.
        in_update (`bool`): the weights were in the middle of an update; such a run goes on, but not bit for bit.
        skipped_steps_in_a_row (`int`): optimizer steps that were skipped since the last that was taken.
        warned_of (`list` of `str`): what is said once and has been said.
    """

    pending_logs: list[dict[str, float]] = field(default_factory=list)
    policy_loss_sum: float = 0.0
    num_updates: int = 0
    unfinished: list[str] = field(default_factory=list)
    in_update: bool = False
    skipped_steps_in_a_row: int = 0
    warned_of: list[str] = field(default_factory=list)


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
    save_file(_separate(module.value_model.state_dict()), target / VALUE_NAME, metadata={"format": "pt"})


def load_value_function(module: PolicyAndValue, folder: str | Path) -> None:
    """Restore what `save_value_function` wrote."""
    source = Path(folder) / VALUE_FOLDER
    saved, own = load_file(source / VALUE_NAME), module.value_model.state_dict()
    has_adapter = (source / ADAPTER_FILE).is_file()
    if not set(saved) <= set(own) or has_adapter != (module.value_adapter is not None):
        raise UserError(
            f"{source} holds another kind of value function than this run has: pass the same value_model and "
            "peft_config as the run that is resumed."
        )
    if module.value_adapter is not None:
        load_adapter_weights(module.policy, module.value_adapter, source)
    # Tied weights were saved under one of their names.
    module.value_model.load_state_dict(saved, strict=False)


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


def save_run_state(folder: str | Path, trainer: Any) -> None:
    """Write masking policy, its age, the KL coefficient and the progress of an [`NLPOTrainer`]."""
    folder = Path(folder)
    masking_policy = trainer.masking_policy
    if not masking_policy.is_current:
        save_file(_separate(masking_policy.state_dict()), folder / MASK_NAME, metadata={"format": "pt"})
    state = {
        "kl_coef": trainer.kl_coef,
        "mask_age": masking_policy.age,
        "mask_num_syncs": masking_policy.num_syncs,
        "batches": trainer.plan.sizes,
        "progress": asdict(trainer.progress),
    }
    (folder / STATE_NAME).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_run_state(folder: str | Path, trainer: Any) -> None:
    """Restore value function, masking policy, its age, KL coefficient and progress; the policy is loaded already.

    Raises:
        UserError: the folder holds another kind of value function, or was written with other batches.
    """
    folder = Path(folder)
    state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
    if not trainer.resumes_by_force:
        trainer.plan.check_resumed(state.get("batches", {}), folder)
    load_value_function(trainer.policy_and_value, folder)
    trainer.kl_coef = state["kl_coef"]
    trainer.progress = Progress(**state.get("progress", {}))
    if (folder / MASK_NAME).is_file():
        weights = load_file(folder / MASK_NAME)
        trainer.masking_policy.load_state_dict(weights, state["mask_age"], state["mask_num_syncs"])
    else:
        trainer.masking_policy.sync()
        # Without masks there is no file, but the schedule goes on.
        trainer.masking_policy.age = state["mask_age"]
        trainer.masking_policy.num_syncs = state["mask_num_syncs"]


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
