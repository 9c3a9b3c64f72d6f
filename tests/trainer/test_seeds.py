"""What a trainer starts from is decided by its seed, not by what ran before it in the process."""

from __future__ import annotations

import copy
import random

import numpy as np
import peft
import pytest
import torch

from support import tiny
from support.trainers import DEFAULTS
from trl_nlpo import NLPOConfig, NLPOTrainer


LORA = {"r": 2, "target_modules": "all-linear"}
KINDS = {
    "head": {},
    "fresh adapter": {"peft_config": peft.LoraConfig(**LORA)},
    "adapter without a name for zero": {"peft_config": peft.LoraConfig(**LORA, init_lora_weights=False)},
    "another kind of adapter": {"peft_config": peft.LoHaConfig(r=2, target_modules=r".*\.(q_proj|q|c_attn)")},
    "value adapter of a warm model": {"is_warm": True},
    "value model": {"has_value_model": True},
}


def built(tmp_path, family, state, is_warm=False, has_value_model=False, seed=5, **options):
    """All parameters of a trainer that is built under one of many global random states."""
    model = tiny.policy(family)
    if is_warm:
        torch.manual_seed(1)
        model = peft.get_peft_model(model, peft.LoraConfig(**LORA, init_lora_weights=False))
    value_model = tiny.classifier() if has_value_model else None
    torch.manual_seed(state)
    random.seed(state)
    np.random.seed(state)
    subject = NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, "seed": seed}),
        processing_class=tiny.tokenizer(),
        model=model,
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
        value_model=value_model,
        **copy.deepcopy(options),
    )
    return dict(subject.policy_and_value.named_parameters())


def differing(first, second):
    assert first.keys() == second.keys()
    return [name for name, weight in first.items() if not torch.equal(weight, second[name])]


# An encoder-decoder policy takes no value model.
@pytest.mark.parametrize(
    ("family", "kind"),
    [*(("llama", kind) for kind in KINDS), *(("t5", kind) for kind in KINDS if kind != "value model")],
)
def test_two_global_random_states_give_the_same_start(tmp_path, family, kind):
    first, second = (built(tmp_path, family, state, **KINDS[kind]) for state in (11, 12))
    assert not differing(first, second)


def test_another_seed_gives_another_start(tmp_path):
    first, second = (built(tmp_path, "llama", 11, seed=seed, peft_config=peft.LoraConfig(**LORA)) for seed in (5, 6))
    different = differing(first, second)
    assert any("lora_A.default" in name for name in different)
    assert any("value_model" in name for name in different)


def test_a_trainer_leaves_the_same_global_random_state_whatever_it_draws_itself(tmp_path):
    states = []
    for kind in ("head", "fresh adapter", "value adapter of a warm model"):
        built(tmp_path, "llama", 3, **KINDS[kind])
        states.append(torch.get_rng_state())
    # That state is the one that `transformers.Trainer` sets.
    assert all(torch.equal(state, torch.Generator().manual_seed(5).get_state()) for state in states)


def test_ppo_and_nlpo_start_from_the_same_value_head(tmp_path):
    def head(state, **settings):
        torch.manual_seed(state)
        return NLPOTrainer(
            args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, **settings}),
            processing_class=tiny.tokenizer(),
            model=tiny.policy(),
            reward_funcs=tiny.length_reward,
            train_dataset=tiny.prompts(),
        ).value_model.weight

    expected = head(0, mask_top_p=0.6)
    assert torch.equal(head(1, mask_strategy="none"), expected)
    assert torch.equal(head(2, mask_top_p=1.0), expected)
