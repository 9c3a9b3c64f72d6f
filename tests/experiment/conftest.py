"""A folder for every test, and small pretrained models."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
)

from trl_nlpo.models.from_scratch import build_model, train_tokenizer


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def t5(tmp_path):
    tokenizer = train_tokenizer(["On Sunday the dog went to the river"], 300)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    ids = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    return str(tmp_path / "t5")


@pytest.fixture
def llama(working_directory):
    """A small model of whole blocks of 64, as quantization wants them, with its tokenizer."""
    tokenizer = train_tokenizer(["On Sunday my aunt went to the river and met a dog."] * 2, 300)
    torch.manual_seed(0)
    build_model(tokenizer, "llama", 128, 1, 4, 192).save_pretrained("base")
    tokenizer.save_pretrained("base")
    return "base"
