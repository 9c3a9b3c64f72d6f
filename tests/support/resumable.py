"""Runs that can be broken off and resumed, and how to tell that two of them ended alike."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer


QUICK = {
    "per_device_train_batch_size": 4, "num_ppo_epochs": 2, "num_mini_batches": 2, "response_length": 5,
    "learning_rate": 1e-3, "max_steps": 4, "report_to": "none", "save_strategy": "steps", "save_steps": 1,
    "disable_tqdm": True, "num_sample_generations": 0, "use_cpu": True, "mask_sync_steps": 2, "kl_target": 1.0,
}  # fmt: skip


def noise(completions, **kwargs):
    """A reward from all three random generators."""
    return [random.random() + np.random.rand() + float(torch.rand(())) for _ in completions]


def trainer(folder, reward=noise, callbacks=None, seed_everything=True, **settings) -> NLPOTrainer:
    evaluation = {"eval_dataset": tiny.prompts(3)} if "eval_strategy" in settings else {}
    subject = NLPOTrainer(
        args=NLPOConfig(output_dir=str(folder), **{**QUICK, **settings}),
        processing_class=tiny.tokenizer(),
        model=tiny.policy(),
        train_dataset=tiny.prompts(),
        reward_funcs=reward,
        callbacks=callbacks,
        **evaluation,
    )
    # What a new process would not know.
    random.seed(os.urandom(8))
    np.random.seed(random.randrange(2**32))
    torch.manual_seed(random.randrange(2**32))
    if seed_everything:
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
    return subject


def history(subject):
    times = ("eps", "eval_runtime")
    return [{key: value for key, value in entry.items() if key not in times} for entry in subject.state.log_history]


def assert_equal_ends(first, second):
    ours, theirs = (subject.policy_and_value.state_dict() for subject in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert history(first) == history(second)
    assert first.kl_coef == second.kl_coef
