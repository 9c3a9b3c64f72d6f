"""Small runs that one process or several do alike, and write down: `torchrun ... processes.py FOLDER`."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch

from support import tiny
from support.launching import leave_together
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.algorithm.batch_plan import BatchPlan


torch.set_num_threads(1)

GLOBAL_BATCH = 8
SETTINGS = {
    "gradient_accumulation_steps": 1, "num_ppo_epochs": 2, "response_length": 12, "stop_token": "eos",
    "temperature": 0.9, "mask_top_p": 0.8, "mask_sync_steps": 2, "learning_rate": 1e-3, "max_steps": 3,
    "whiten_rewards": True, "kl_target": 0.5, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    "num_sample_generations": 0, "use_cpu": True, "eval_strategy": "steps", "eval_steps": 2,
    "per_device_eval_batch_size": 2,
}  # fmt: skip


def lora():
    return peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear")


SCENARIOS = {
    "value head": {"log_completions": True},
    "value model": {"family": "llama", "value_model": True},
    "adapters": {"family": "llama", "adapter": True},
    "adapters, checkpointing": {"family": "llama", "adapter": True, "gradient_checkpointing": True},
    "encoder-decoder": {"family": "t5"},
    "microbatches": {"microbatches": 2},
    "minibatches": {"num_mini_batches": 2},
    "critic apart": {
        "family": "llama", "adapter": True, "critic_warmup_steps": 1, "critic_updates_per_step": 2,
        "critic_max_grad_norm": 0.05, "mask_anchor_coef": 1.0, "normalize_returns": True, "normalize_rewards": True,
        "bootstrap_at_length_limit": True, "positive_nll_coef": 0.1, "positive_nll_threshold": 3.0,
        # Adam makes whole steps of gradients that are nothing but rounding, as an adapter's first are.
        "optim": "sgd", "learning_rate": 0.05,
    },
    "trust region": {"policy_update": "trust_region", "value_trains_backbone": False},
    "clipped microbatches": {"microbatches": 2, "max_grad_norm": 0.05},
}  # fmt: skip
"""What every scenario changes. `microbatches`: how many a process cuts its rows into."""


class Noting(NLPOTrainer):
    """Keeps every rollout with its advantages, and every log line."""

    def __init__(self, *args, **kwargs):
        self.noted, self.lines = [], []
        super().__init__(*args, **kwargs)

    def estimate_advantages(self, rollout, scores):
        estimates = super().estimate_advantages(rollout, scores)
        for row, length in enumerate(rollout.completion_mask.sum(-1).tolist()):
            allowed = rollout.token_sets[row, :length].mask()
            self.noted.append(
                {
                    "update": self.num_updates_done,
                    "number": rollout.batch.columns["number"][row],
                    "completion_ids": rollout.completion_ids[row, :length],
                    "allowed": allowed,
                    "old_logprobs": rollout.old_logprobs[row, :length],
                    "values": rollout.values[row, :length],
                    "rewards": estimates.rewards[row, :length],
                    "advantages": estimates.advantages[row, :length],
                    "returns": estimates.returns[row, :length],
                }
            )
        return estimates

    def log(self, logs, *args, **kwargs):
        self.lines.append(dict(logs))
        super().log(logs, *args, **kwargs)


class AsTwoProcesses(BatchPlan):
    """Minibatches as two processes cut them, each its own half of the rows."""

    def minibatches(self, num_rows, generator, lengths=None):
        for microbatches in super().minibatches(num_rows // 2, generator):
            rows = torch.cat(microbatches)
            yield [torch.cat([rows, rows + num_rows // 2])]


def reward(completions, log_metric, number, **kwargs):
    """Words in the completion; the function does not apply to every third prompt."""
    log_metric("mean_number", sum(number) / len(number))
    words = [float(len(completion.split())) for completion in completions]
    return [None if n % 3 == 0 else count for n, count in zip(number, words, strict=True)]


def trainer(folder, num_processes, rank, reward_funcs=reward, model=None, **settings):
    family, adapter = settings.pop("family", "gpt2"), settings.pop("adapter", False)
    value_model, microbatches = settings.pop("value_model", False), settings.pop("microbatches", 1)
    model = tiny.policy(family) if model is None else model
    value_model = tiny.classifier(family) if value_model else None
    # Every process has other random weights, as it may in a script: the first one's count.
    torch.manual_seed(1000 * rank)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(rank * 0.1 * torch.randn_like(weight))
    return Noting(
        args=NLPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=GLOBAL_BATCH // num_processes // microbatches,
            **{**SETTINGS, "gradient_accumulation_steps": microbatches, **settings},
        ),
        processing_class=tiny.tokenizer(),
        model=model,
        reward_funcs=reward_funcs,
        # Two and a half batches: the second pass over the data begins in the middle of one.
        train_dataset=tiny.prompts(20),
        eval_dataset={"five": tiny.prompts(5, seed=3), "one": tiny.prompts(1, seed=4)},
        value_model=value_model,
        peft_config=lora() if adapter else None,
    )


def weights_of(subject):
    with subject.launch.gathered(subject.model_wrapped):
        return {key: value.detach().clone() for key, value in subject.policy_and_value.state_dict().items()}


def run(name, folder, num_processes, rank):
    """Train a scenario; returns what there is to compare."""
    subject = trainer(folder / name.replace(" ", "_"), num_processes, rank, **SCENARIOS[name])
    if num_processes == 1 and subject.plan.num_mini_batches == 2:
        subject.plan = AsTwoProcesses(**vars(subject.plan))
    with warnings.catch_warnings():
        # The reward does not apply to every third prompt.
        warnings.filterwarnings("ignore", "Every reward function returned None")
        subject.train()
    return {
        "kind": str(subject.accelerator.distributed_type),
        "num_processes": subject.accelerator.num_processes,
        "wrapped": type(subject.model_wrapped).__name__,
        "rows": subject.noted,
        "lines": subject.lines,
        "weights": weights_of(subject),
        "mask": subject.masking_policy.state_dict(),
        "mask_syncs": subject.masking_policy.num_syncs,
        "kl_coef": subject.kl_coef,
    }


def policy_that_ends_after(token_id):
    """A policy that surely ends a completion after one token, and hardly ever after any other."""
    model = tiny.policy("gpt2", scale=1.0)
    with torch.no_grad():
        for layer in model.transformer.h:
            layer.attn.c_proj.weight.zero_()
            layer.mlp.c_proj.weight.zero_()
        model.transformer.wpe.weight.zero_()
        # The first feature is this token's alone, and what the end token looks at.
        model.transformer.wte.weight[:, 0] = 0.0
        model.transformer.wte.weight[token_id] = torch.eye(model.config.n_embd)[0]
        model.lm_head.weight[1] = 4 * torch.eye(model.config.n_embd)[0]
    return model


def lengths_apart(folder, num_processes, rank):
    """Updates in which the first process samples one token a row and the others many: lengths of each update."""
    subject = trainer(
        folder / "lengths", num_processes, rank, tiny.length_reward, policy_that_ends_after(3), response_length=40
    )
    lengths = []
    for _ in range(3):
        rollout = subject.collect_rollout(["w0"] * 4 if rank == 0 else ["w5", "w9 w8 w7 w6", "w4", "w11"])
        scores = subject.score_rollout(rollout)
        estimates = NLPOTrainer.estimate_advantages(subject, rollout, scores)
        subject.update_policy(rollout, estimates)
        subject.sync_masking_policy()
        lengths.append(rollout.completion_mask.sum(-1).tolist())
    return {"lengths": lengths, "weights": weights_of(subject)}


def main(folder):
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found = {name: run(name, folder, num_processes, rank) for name in SCENARIOS}
    found["lengths"] = lengths_apart(folder, num_processes, rank)
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_together()
