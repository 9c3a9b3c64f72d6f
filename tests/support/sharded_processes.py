"""Small runs under DeepSpeed ZeRO or FSDP2 on a CPU: `torchrun ... sharded_processes.py FOLDER SCENARIO ...`.

Which of them the environment says, as under `accelerate launch`. accelerate runs FSDP on accelerators only, and trains
with DDP on a CPU without a word. PyTorch's FSDP2 itself runs on a CPU, so accelerate is made to go its way to it here;
nothing else is changed. After the word `run` come the words of the command line: `... run my.yaml`.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from support import processes, tiny
from support.launching import leave_together
from support.processes import weights_of
from trl_nlpo import NLPOTrainer, cli
from trl_nlpo.algorithm import objective
from trl_nlpo.launch import fsdp


# `accelerate` ignores DeepSpeed under use_cpu, and without a GPU it has to be told of gloo.
ZERO_ON_CPU = {"use_cpu": False, "bf16": False, "ddp_backend": "gloo"}


def allow_fsdp_on_a_cpu():
    start = AcceleratorState.__init__

    def started(self, *args, fsdp_plugin=None, **kwargs):
        start(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)

    AcceleratorState.__init__ = started
    fsdp.is_on_accelerators = lambda: True


def held_share(subject):
    """Which part of the weights this process holds between updates."""
    held = sum(
        (parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel()
        for parameter in subject.policy_and_value.parameters()
    )
    return held / sum(weight.numel() for weight in weights_of(subject).values())


def updated(subject, spoil_loss=False, spoil_advantages=False):
    """One update, with a loss or advantages of this process that are not finite; what it did, and the weights."""
    rollout = subject.collect_rollout(["w1", "w2", "w3 w4", "w5"])
    estimates = NLPOTrainer.estimate_advantages(subject, rollout, subject.score_rollout(rollout))
    if spoil_advantages:
        estimates.advantages[0, 0] = math.nan
    loss = objective.Microbatch.loss
    if spoil_loss:
        # Its gradient is finite all the same.
        objective.Microbatch.loss = lambda *args, **kwargs: loss(*args, **kwargs) + math.inf
    try:
        stats = subject.update_policy(rollout, estimates)
    finally:
        objective.Microbatch.loss = loss
    return {"steps": stats.num_optimizer_steps, "skipped": stats.num_skipped_steps, "weights": weights_of(subject)}


def spoiled(folder, rank):
    """Updates in which only the second process meets something that is not finite, and one that is well."""
    subject = processes.trainer(folder / "spoiled", 2, rank, tiny.length_reward, microbatches=2)
    with subject.gathered_weights():
        subject.save_model(str(folder / "inside"))
        rollout = subject.collect_rollout(["w1", "w2", "w3 w4", "w5"])
    subject.accelerator.wait_for_everyone()
    return {
        "held": held_share(subject),
        "inside": load_file(folder / "inside" / "model.safetensors"),
        "logprobs inside": rollout.old_logprobs,
        "start": weights_of(subject),
        "advantages": updated(subject, spoil_advantages=rank == 1),
        "loss": updated(subject, spoil_loss=rank == 1),
        "well": updated(subject),
    }


def resumed(folder, rank, **settings):
    """A run, the same run from its second checkpoint, and weights after an update that moves nothing."""
    settings |= {"save_strategy": "steps", "save_steps": 1, "mask_sync_steps": 5, "max_steps": 3}
    whole = processes.trainer(folder, 2, rank, tiny.length_reward, **settings)
    whole.train()
    again = processes.trainer(folder, 2, rank, tiny.length_reward, **settings)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    checkpoint = folder / "checkpoint-2"
    found = {
        "whole": weights_of(whole),
        "again": weights_of(again),
        "masks": (whole.masking_policy.state_dict(), again.masking_policy.state_dict()),
        "files": [str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()],
    }
    again.state.best_model_checkpoint = str(folder / "checkpoint-1")
    again._load_best_model()
    found["best"] = weights_of(again)
    for group in again.optimizer.param_groups:
        group["lr"] = 0.0
    found["after best"] = updated(again)["weights"]
    return found


def half_precision(folder, rank, **settings):
    """Updates in bf16: the first KL, the largest first deviation of the ratio from 1, and the types of the weights."""
    subject = processes.trainer(folder, 2, rank, tiny.length_reward, bf16=True, **settings)
    subject.train()
    with subject.gathered_weights() as module:
        subject.save_model(str(folder / "inside"))
        computing = {str(weight.dtype) for weight in module.parameters()}
    subject.accelerator.wait_for_everyone()
    saved = load_file(next((folder / "inside").glob("*model.safetensors")))
    logs = [line for line in subject.lines if "objective/kl" in line]
    return {
        "kl": logs[0]["objective/kl"],
        "first_ratio_deviation": max(line["nlpo/first_ratio_deviation"] for line in logs),
        "computing": computing,
        "saved": {str(weight.dtype) for weight in saved.values()},
        "weights": {str(weight.dtype) for weight in weights_of(subject).values()},
    }


def main(folder, names):
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found = {name: processes.run(name, folder, num_processes, rank) for name in names}
    found["lengths"] = processes.lengths_apart(folder, num_processes, rank)
    found["spoiled"] = spoiled(folder, rank)
    found["resumed"] = resumed(folder / "resumed", rank, family="llama", value_model=True)
    found["resumed adapter"] = resumed(folder / "resumed_adapter", rank, family="llama", adapter=True)
    if "ACCELERATE_USE_FSDP" in os.environ:
        # DeepSpeed would keep this precision for the trainers of other tests.
        found["half"] = half_precision(folder / "half", rank)
        found["half adapter"] = half_precision(folder / "half_adapter", rank, family="llama", adapter=True)
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    if "ACCELERATE_USE_FSDP" in os.environ:
        allow_fsdp_on_a_cpu()
    if sys.argv[1] == "run":
        cli.main()
    else:
        if "ACCELERATE_USE_DEEPSPEED" in os.environ:
            processes.SETTINGS.update(ZERO_ON_CPU)
        main(Path(sys.argv[1]), sys.argv[2:])
        leave_together()
