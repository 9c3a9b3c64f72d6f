"""Models with a value head: what they compute, and every form in which they are saved."""

from __future__ import annotations

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from support import tiny
from trl_nlpo.errors import UserError
from trl_nlpo.legacy import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    create_reference_model,
    respond_to_batch,
)


TOKENS = torch.tensor([[5, 6, 7, 8]])


def outputs(model, **inputs):
    with torch.no_grad():
        logits, _, values = model.eval()(TOKENS, **inputs)
    return logits, values


def test_values_are_the_heads_of_the_last_hidden_states():
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy()).eval()
    logits, loss, values = model(TOKENS, labels=TOKENS)
    plain = model.pretrained_model(TOKENS, labels=TOKENS, output_hidden_states=True)
    assert torch.equal(logits, plain.logits)
    assert torch.equal(loss, plain.loss)
    torch.testing.assert_close(values, model.v_head(plain.hidden_states[-1]).squeeze(-1))


@pytest.mark.parametrize(
    ("family", "kind", "plain"),
    [
        ("gpt2", AutoModelForCausalLMWithValueHead, AutoModelForCausalLM),
        ("t5", AutoModelForSeq2SeqLMWithValueHead, AutoModelForSeq2SeqLM),
    ],
)
def test_a_saved_model_is_the_same_with_its_head_and_loads_without(tmp_path, family, kind, plain):
    model = kind.from_pretrained(tiny.policy(family))
    inputs = {"decoder_input_ids": TOKENS} if family == "t5" else {}
    model.save_pretrained(tmp_path)
    for one, other in zip(
        outputs(model, **inputs), outputs(kind.from_pretrained(str(tmp_path)), **inputs), strict=True
    ):
        assert torch.equal(one, other)
    again = plain.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(TOKENS, **inputs).logits, outputs(model, **inputs)[0])


@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_a_head_among_the_models_weights_as_the_old_library_saved_it_is_read(tmp_path, filename):
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy())
    model.pretrained_model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.tensor([0.5])}
    if filename.endswith(".bin"):
        (tmp_path / "model.safetensors").unlink()
        torch.save(tensors, tmp_path / filename)
    else:
        save_file(tensors, tmp_path / filename, metadata={"format": "pt"})
    again = AutoModelForCausalLMWithValueHead.from_pretrained(str(tmp_path))
    assert again.v_head.weight.tolist() == [[1.0] * 32]
    assert again.v_head.bias.tolist() == [0.5]
    assert torch.equal(outputs(again)[0], outputs(model)[0])


def test_an_adapter_is_saved_with_the_head_and_trained_on(tmp_path):
    base = tiny.saved(tiny.policy(), tiny.tokenizer(), tmp_path / "base")
    config = peft.LoraConfig(r=2, init_lora_weights=False, fan_in_fan_out=True)
    model = AutoModelForCausalLMWithValueHead.from_pretrained(base, peft_config=config)
    assert model.is_peft_model
    model.save_pretrained(tmp_path / "adapter")
    again = AutoModelForCausalLMWithValueHead.from_pretrained(str(tmp_path / "adapter"))
    for one, other in zip(outputs(model), outputs(again), strict=True):
        torch.testing.assert_close(one, other)
    trained = [name for name, weight in again.named_parameters() if weight.requires_grad]
    assert all("lora" in name or "v_head" in name for name in trained)
    assert any("lora" in name for name in trained)


def test_a_head_of_another_size_is_refused(tmp_path):
    AutoModelForCausalLMWithValueHead.from_pretrained(tiny.wide_policy()).save_pretrained(tmp_path)
    tiny.policy().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has a value head of another size"):
        AutoModelForCausalLMWithValueHead.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"load_in_8bit": True}, "quantization_config"),
        ({"summary_dropout_prob": 0.1}, "has no dropout"),
        ({"device_map": "auto"}, "has no effect on a loaded model"),
    ],
)
def test_what_has_no_counterpart_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy(), **arguments)


def test_a_folder_that_is_no_model_is_refused_in_a_line(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        AutoModelForCausalLMWithValueHead.from_pretrained(str(tmp_path))


def test_generate_gives_prompts_and_completions():
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy())
    rows = model.generate(TOKENS.repeat(2, 1), max_new_tokens=3, do_sample=True, eos_token_id=-1)
    assert rows.shape == (2, 7)
    assert torch.equal(rows[:, :4], TOKENS.repeat(2, 1))
    assert respond_to_batch(model, TOKENS, txt_len=6).shape == (1, 6)


def test_a_reference_is_a_frozen_copy_and_shares_no_layers():
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tiny.policy())
    reference = create_reference_model(model)
    assert not any(weight.requires_grad for weight in reference.parameters())
    assert all(weight.requires_grad for weight in model.parameters())
    with pytest.raises(UserError, match="shares no layers"):
        create_reference_model(model, num_shared_layers=2)
