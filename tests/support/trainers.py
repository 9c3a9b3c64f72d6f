"""One update of a tiny trainer, and what to look at in it."""

from __future__ import annotations

import torch

from trl_nlpo import NLPOTrainer


DEFAULTS = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_mini_batches": 2, "num_ppo_epochs": 2,
    "response_length": 8, "stop_token": "eos", "temperature": 0.8, "mask_top_p": 0.6, "mask_sync_steps": 2,
    "learning_rate": 1e-3, "total_episodes": 24, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    "num_sample_generations": 0, "use_cpu": True, "logging_strategy": "no",
}  # fmt: skip


def one_update(subject: NLPOTrainer, batch=None):
    """A whole update; returns the rollout and what the update said."""
    batch = batch or next(iter(subject.get_train_dataloader()))
    rollout = subject.collect_rollout(batch)
    estimates = subject.estimate_advantages(rollout, subject.score_rollout(rollout))
    return rollout, subject.update_policy(rollout, estimates)


def reference_top_p(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest sets of mass above `top_p`, by a full sort."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    probabilities = logits.softmax(-1).gather(-1, order)
    before = probabilities.cumsum(-1) - probabilities
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before <= top_p)


class count_calls:
    """Counts the calls of a method."""

    def __init__(self, owner, name):
        self.calls = 0
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            self.calls += 1
            return original(*args, **kwargs)

        setattr(owner, name, counted)
