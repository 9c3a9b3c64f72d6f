"""Tokenizers trained in memory and models with random weights."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from trl_nlpo.errors import UserError
from trl_nlpo.models.dropout import has_dropout
from trl_nlpo.models.from_scratch import build_model, train_tokenizer


TEXTS = ["the dog sat on the mat.", "the cat sat on the dog."] * 3


@pytest.mark.parametrize("text", ["the dog sat.", " the  cat\n", "Grüße, 猫! <b>", "", "a <unk> b"])
def test_any_text_comes_back_unchanged(text):
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_frequent_words_become_one_token_with_their_space():
    tokens = train_tokenizer(TEXTS, 300).tokenize("the dog sat")
    assert tokens == ["the", "Ġdog", "Ġsat"]


def test_special_tokens_are_there_and_are_skipped_in_text():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == ("<pad>", "<bos>", "<eos>")
    ids = tokenizer("the dog<eos><pad>")["input_ids"]
    assert ids[-2:] == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the dog"
    assert tokenizer.padding_side == "left"


def test_the_vocabulary_is_no_larger_than_asked_for():
    assert len(train_tokenizer(TEXTS, 270)) == 270
    with pytest.raises(UserError, match="vocab_size is 259, but must be more than 259"):
        train_tokenizer(TEXTS, 259)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_model_has_the_sizes_asked_for_and_no_dropout(model_type):
    tokenizer = train_tokenizer(TEXTS, 270)
    model = build_model(tokenizer, model_type, 16, 2, 4, 32)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 4)
    assert config.max_position_embeddings == 32
    assert config.eos_token_id == tokenizer.eos_token_id
    ids = torch.tensor([tokenizer("the dog sat")["input_ids"]])
    model.train()
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "t5"])
def test_a_model_has_the_dropout_asked_for_also_when_it_was_saved(model_type, tmp_path):
    build_model(train_tokenizer(TEXTS, 270), model_type, 16, 2, 4, 32, dropout=0.25).save_pretrained(tmp_path)
    auto_model = AutoModelForSeq2SeqLM if model_type == "t5" else AutoModelForCausalLM
    model = auto_model.from_pretrained(tmp_path)
    assert has_dropout(model)
    rates = [value for key, value in model.config.to_dict().items() if "drop" in key and isinstance(value, float)]
    assert 0.25 in rates


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="hidden_size is 18"):
        build_model(train_tokenizer(TEXTS, 270), "gpt2", 18, 1, 4, 32)
