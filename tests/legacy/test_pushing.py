"""A model with a value head on a Hub on this machine: pushed, and loaded from there."""

from __future__ import annotations

import os

import pytest
import torch

from support import tiny
from support.loopback_hub import TOKEN
from trl_nlpo.legacy import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:trl_nlpo.legacy.PPOTrainer is for scripts:FutureWarning")
def test_what_is_pushed_is_the_model_its_head_and_its_tokenizer(loopback_hub, tmp_path):
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy())
    trainer = PPOTrainer(PPOConfig(batch_size=1, mini_batch_size=1), model, None, tiny.tokenizer())
    address = trainer.push_to_hub("me/old", token=TOKEN)
    assert address == f"{loopback_hub.endpoint}/me/old"
    files = loopback_hub.files("me/old")
    assert {"config.json", "model.safetensors", "v_head.safetensors", "tokenizer.json"} <= set(files)
    for name, content in files.items():
        path = tmp_path / "again" / name
        os.makedirs(path.parent, exist_ok=True)
        path.write_bytes(content)
    again = AutoModelForCausalLMWithValueHead.from_pretrained(str(tmp_path / "again"))
    assert torch.equal(again.v_head.weight, model.v_head.weight)
