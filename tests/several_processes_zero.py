"""Small runs under DeepSpeed ZeRO on a CPU: `torchrun ... several_processes_zero.py FOLDER`."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import torch

import several_processes
import tiny
from trl_nlpo import NLPOTrainer, update


SCENARIOS_OF_STAGE = {
    1: ["clipped microbatches"],
    2: [
        "value head", "value model", "adapters, checkpointing", "encoder-decoder", "minibatches",
        "clipped microbatches",
    ],
}  # fmt: skip
# `accelerate` ignores DeepSpeed under use_cpu, and without a GPU it has to be told of gloo.
ON_CPU = {"use_cpu": False, "bf16": False, "ddp_backend": "gloo"}


def updated(subject, spoil_loss=False, spoil_advantages=False):
    """One update, with a loss or advantages of this process that are not finite; what it did, and the weights."""
    rollout = subject.collect_rollout(["w1", "w2", "w3 w4", "w5"])
    estimates = NLPOTrainer.estimate_advantages(subject, rollout, subject.score_rollout(rollout))
    if spoil_advantages:
        estimates.advantages[0, 0] = math.nan
    loss = update._Microbatch.loss
    if spoil_loss:
        # Its gradient is finite all the same.
        update._Microbatch.loss = lambda *args, **kwargs: loss(*args, **kwargs) + math.inf
    try:
        stats = subject.update_policy(rollout, estimates)
    finally:
        update._Microbatch.loss = loss
    return {"steps": stats.num_optimizer_steps, "skipped": stats.num_skipped_steps, "weights": several_processes.weights_of(subject)}


def spoiled(folder, rank):
    """Updates in which only the second process meets something that is not finite, and one that is well."""
    subject = several_processes.trainer(folder / "spoiled", 2, rank, tiny.length_reward, microbatches=2)
    return {
        "start": several_processes.weights_of(subject),
        "advantages": updated(subject, spoil_advantages=rank == 1),
        "loss": updated(subject, spoil_loss=rank == 1),
        "well": updated(subject),
    }


def resumed(folder, rank, **settings):
    """A run, the same run from its second checkpoint, and weights after an update that moves nothing."""
    settings |= {"save_strategy": "steps", "save_steps": 1, "mask_sync_steps": 5, "max_steps": 3}
    whole = several_processes.trainer(folder, 2, rank, tiny.length_reward, **settings)
    whole.train()
    again = several_processes.trainer(folder, 2, rank, tiny.length_reward, **settings)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    found = {
        "whole": several_processes.weights_of(whole),
        "again": several_processes.weights_of(again),
        "masks": (whole.masking_policy.state_dict(), again.masking_policy.state_dict()),
        "files": {path.name: path.stat().st_size for path in (folder / "checkpoint-2").rglob("*") if path.is_file()},
    }
    again.state.best_model_checkpoint = str(folder / "checkpoint-1")
    again._load_best_model()
    found["best"] = several_processes.weights_of(again)
    for group in again.optimizer.param_groups:
        group["lr"] = 0.0
    found["after best"] = updated(again)["weights"]
    return found


def main(folder):
    several_processes.SETTINGS.update(ON_CPU)
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    names = sys.argv[2:]
    found = {name: several_processes.run(name, folder, num_processes, rank) for name in names}
    found["spoiled"] = spoiled(folder, rank)
    found["resumed"] = resumed(folder / "resumed", rank, family="llama", value_model=True)
    found["resumed adapter"] = resumed(folder / "resumed_adapter", rank, family="llama", adapter=True)
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
