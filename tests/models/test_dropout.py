"""No dropout, as a guarantee: two training-mode passes are identical, whatever the family keeps its rates in."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers
from torch import nn

from support.slow import slow_except
from trl_nlpo import UserError
from trl_nlpo.models.dropout import disable_dropout, has_dropout


SMALL = {"vocab_size": 31, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
LLAMA_LIKE = {
    **SMALL, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 24, "attention_dropout": 0.5,
}  # fmt: skip
CONFIGS = {
    "GPT2": {
        **SMALL, "n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5,
    },
    "Llama": LLAMA_LIKE,
    "Mistral": LLAMA_LIKE,
    "Qwen2": LLAMA_LIKE,
    "Gemma2": {**LLAMA_LIKE, "head_dim": 8},
    "Phi3": {**LLAMA_LIKE, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "Mixtral": {**LLAMA_LIKE, "num_local_experts": 2, "router_jitter_noise": 0.5},
    "OPT": {
        **SMALL, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24,
        "word_embed_proj_dim": 16, "max_position_embeddings": 32, "dropout": 0.5, "attention_dropout": 0.5,
        "layerdrop": 0.5,
    },
    "GPTNeoX": {**LLAMA_LIKE, "hidden_dropout": 0.5},
    "Bloom": {
        **SMALL, "hidden_size": 16, "n_layer": 2, "n_head": 2, "hidden_dropout": 0.5, "attention_dropout": 0.5,
    },
    "T5": {
        **SMALL, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.5,
        "decoder_start_token_id": 0,
    },
    "Bart": {
        **SMALL, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
        "dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5, "encoder_layerdrop": 0.5,
        "decoder_layerdrop": 0.5,
    },
}  # fmt: skip


def model(family: str) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**CONFIGS[family])
    auto_model = transformers.AutoModelForCausalLM
    if config.is_encoder_decoder:
        auto_model = transformers.AutoModelForSeq2SeqLM
    return auto_model.from_config(config)


def passes_differ(subject: nn.Module) -> bool:
    """Over eight training-mode passes, as a dropped layer is rare."""
    tokens = torch.arange(2, 14).view(2, 6)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if subject.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    subject.train()
    outputs = [subject(**inputs).logits for _ in range(8)]
    return not all(torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("family", slow_except(CONFIGS, *list(CONFIGS)[:4]))
def test_training_mode_passes_are_identical_afterwards_and_were_not_before(family):
    subject = model(family)
    assert passes_differ(subject)
    disable_dropout(subject)
    assert not passes_differ(subject)


def test_the_dropout_of_an_adapter_is_off_too():
    config = peft.LoraConfig(r=2, lora_dropout=0.5, target_modules="all-linear")
    subject = peft.get_peft_model(model("Llama"), config)
    with torch.no_grad():
        for parameter in subject.parameters():
            parameter.add_(0.01)
    assert passes_differ(subject)
    disable_dropout(subject)
    assert not passes_differ(subject)


def test_setting_the_rates_of_modules_alone_is_not_enough():
    subject = model("T5")
    for module in subject.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert passes_differ(subject)


@pytest.mark.parametrize("family", ["T5", "Llama", "Bart"])
def test_the_helper_of_trl_is_not_enough(family):
    utils = pytest.importorskip("trl.trainer.utils")
    subject = model(family)
    utils.disable_dropout_in_model(subject)
    assert passes_differ(subject)


@pytest.mark.parametrize("family", slow_except(CONFIGS, *list(CONFIGS)[:4]))
def test_a_model_has_dropout_until_it_is_off(family):
    subject = model(family)
    assert has_dropout(subject)
    disable_dropout(subject)
    assert not has_dropout(subject)


def test_a_rate_is_found_where_a_model_cannot_be_asked():
    assert has_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))
    assert not has_dropout(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)))


def test_what_is_random_without_a_rate_is_found():
    subject = model("GPT2")
    disable_dropout(subject)
    subject.transformer.ln_f.register_forward_hook(lambda module, inputs, output: output + torch.rand_like(output))
    assert has_dropout(subject)


def test_the_saved_configuration_keeps_its_rates():
    subject = model("Llama")
    disable_dropout(subject)
    assert subject.config.attention_dropout == 0.5


def test_a_model_that_stays_random_is_refused():
    subject = model("GPT2")
    subject.transformer.ln_f.register_forward_hook(lambda module, inputs, output: output + torch.rand_like(output))
    with pytest.raises(UserError, match="find what is random"):
        disable_dropout(subject)


def test_the_mode_of_the_model_is_left_as_it_was():
    subject = model("GPT2").eval()
    disable_dropout(subject)
    assert not subject.training
