"""What is handed over is looked at once: vocabularies, contexts, weights that are shared, frozen or too coarse."""

from __future__ import annotations

import copy
import logging

import peft
import pytest
import torch
import transformers
from datasets import Dataset

from support import tiny
from support.trainers import DEFAULTS, one_update
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo.models.inputs import context_length, longest_prompt


def trainer(tmp_path, **given):
    settings = given.pop("settings", {})
    keywords = {
        "processing_class": tiny.tokenizer(),
        "model": tiny.policy(),
        "reward_funcs": tiny.length_reward,
        "train_dataset": tiny.prompts(),
        **given,
    }
    return NLPOTrainer(args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, **settings}), **keywords)


def refused(tmp_path, message, **given):
    with pytest.raises(UserError, match=message) as caught:
        trainer(tmp_path, **given)
    assert "\n" not in str(caught.value)


def with_token(**token):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens(token)
    return tokenizer


def short(make):
    """A model with a context of 8 tokens."""
    config = tiny.CONFIGS["gpt2"]()
    config.n_positions, config.num_labels = 8, 1
    return make.from_config(config)


def of_old_vocabulary():
    policy = tiny.policy()
    policy.resize_token_embeddings(tiny.VOCAB_SIZE + 8)
    return policy


TOKENS = {
    "a token in prompts": (
        "row 0 has the token 41 .'<sum>'.*resize_token_embeddings",
        {
            "processing_class": with_token(additional_special_tokens=["<sum>"]),
            "train_dataset": Dataset.from_list([{"prompt": "<sum> w1"}] * 16),
        },
    ),
    "ids of another tokenizer": (
        "row 3 has the token 50000, but the model knows 41 tokens: it is not in the tokenizer either",
        {"train_dataset": Dataset.from_list([{"input_ids": [5, 6, 7 if row < 3 else 50000]} for row in range(16)])},
    ),
    "the EOS token": ("The EOS token is 41 .'<end>'.", {"processing_class": with_token(eos_token="<end>")}),
    "the EOS token without a mask": (
        "The EOS token is 41",
        {"processing_class": with_token(eos_token="<end>"), "settings": {"mask_strategy": "none"}},
    ),
    "a stop token": ("A stop token is 77", {"settings": {"stop_token": None, "stop_token_id": 77}}),
    "a forced token": (
        "suppress_tokens in generation_kwargs is 99",
        {"settings": {"generation_kwargs": {"suppress_tokens": [5, 99]}}},
    ),
}


@pytest.mark.parametrize("case", list(TOKENS))
def test_tokens_that_the_model_does_not_have_are_refused(tmp_path, case):
    message, given = TOKENS[case]
    refused(tmp_path, message, **given)


def test_a_pad_token_beyond_the_vocabulary_is_fine_as_no_model_sees_it(tmp_path):
    _, stats = one_update(trainer(tmp_path, processing_class=with_token(pad_token="<empty>")))
    assert stats.first_ratio_deviation < 1e-5


COMPANIONS = {
    "reference, context": (
        "ref_model has a context of 8",
        lambda: {"ref_model": short(transformers.AutoModelForCausalLM)},
    ),
    "value model, context": (
        "value_model has a context of 8",
        lambda: {"value_model": short(transformers.AutoModelForSequenceClassification)},
    ),
    "reward model, context": (
        "reward model 'GPT2For.*has a context of 8",
        lambda: {"reward_funcs": short(transformers.AutoModelForSequenceClassification)},
    ),
    "reference, vocabulary": (
        "ref_model knows 41 tokens, but the policy's tokens are up to 49",
        lambda: {"model": of_old_vocabulary(), "ref_model": tiny.policy()},
    ),
    "value model, vocabulary": (
        "value_model knows 41 tokens and the policy 49",
        lambda: {"model": of_old_vocabulary(), "value_model": tiny.classifier()},
    ),
}


@pytest.mark.parametrize("case", list(COMPANIONS))
def test_models_that_cannot_read_the_policys_rows_are_refused(tmp_path, case):
    message, given = COMPANIONS[case]
    refused(tmp_path, message, **given())


def on_the_backbone_of(model):
    other = tiny.classifier()
    other.transformer = model.transformer
    return other


def shared(owner, name):
    policy, classifier = tiny.policy(), tiny.classifier()
    if owner == "value_model":
        return {"value_model": classifier, name: classifier}
    other = on_the_backbone_of(policy)
    if name == "ref_model":
        other = tiny.policy()
        other.transformer = policy.transformer
    return {"model": policy, name: other}


@pytest.mark.parametrize(
    ("owner", "name"),
    [("value_model", "reward_funcs"), ("policy", "reward_funcs"), ("policy", "ref_model"), ("policy", "value_model")],
)
def test_models_that_share_trained_weights_are_refused(tmp_path, owner, name):
    refused(tmp_path, "shares weights with the", **shared(owner, name))


def test_a_frozen_base_may_be_shared_with_a_reward_model_but_not_its_adapted_layers(tmp_path):
    policy = tiny.policy()
    reward = on_the_backbone_of(copy.deepcopy(policy))
    lora = peft.LoraConfig(r=2, target_modules=["c_attn"])
    trainer(tmp_path, model=policy, peft_config=lora, reward_funcs=reward)
    policy = tiny.policy()
    refused(tmp_path, "shares weights", model=policy, peft_config=lora, reward_funcs=on_the_backbone_of(policy))


def test_a_policy_without_a_trained_weight_is_refused(tmp_path):
    refused(tmp_path, "No weight of the policy is trained", model=tiny.policy().requires_grad_(False))


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    optimizer = torch.optim.AdamW(tiny.policy().parameters())
    refused(tmp_path, "trains no weight of the policy", optimizers=(optimizer, None))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adapter", [False, True])
def test_weights_that_are_trained_are_kept_in_float32(tmp_path, dtype, adapter, caplog):
    model = tiny.policy("llama").to(dtype)
    if adapter:
        lora = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        model = peft.get_peft_model(model, lora, autocast_adapter_dtype=False).to(dtype)
    with caplog.at_level(logging.WARNING):
        subject = trainer(tmp_path, model=model, settings={"learning_rate": 3e-6})
    assert "trained weights are kept in float32" in caplog.text
    trained = {name: p for name, p in subject.policy_model.named_parameters() if p.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    before = {name: weight.detach().clone() for name, weight in trained.items() if ".value." not in name}
    one_update(subject)
    moved = sum(int((trained[name] != weight).sum()) for name, weight in before.items())
    assert moved > 0.9 * sum(weight.numel() for weight in before.values())


CONTEXTS = {
    "GPT2": ({"n_positions": 33}, 33),
    "Mpt": ({"max_seq_len": 33}, 33),
    "Llama": ({"max_position_embeddings": 33}, 33),
    "Bloom": ({"seq_length": 33}, None),
    "T5": ({"n_positions": 33}, None),
    "LED": ({"max_encoder_position_embeddings": 99, "max_decoder_position_embeddings": 33}, 33),
}


@pytest.mark.parametrize("family", list(CONTEXTS))
def test_a_context_is_found_under_the_name_that_its_family_gives_it(family):
    options, expected = CONTEXTS[family]
    model = torch.nn.Module()
    model.config = getattr(transformers, f"{family}Config")(**options)
    assert context_length(model) == expected
    if family == "LED":
        assert longest_prompt(model, 10) == 99


def test_positions_of_a_nested_configuration_and_of_roberta_are_counted_as_they_are_used():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.RobertaConfig(vocab_size=41, is_decoder=True, max_position_embeddings=64, **sizes)
    model = transformers.RobertaForCausalLM(config)
    assert context_length(model) == 62
    part = transformers.BertConfig(max_position_embeddings=20)
    both = torch.nn.Module()
    both.config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        part, transformers.BertConfig(max_position_embeddings=30)
    )
    assert (context_length(both), context_length(both, of_encoder=True)) == (30, 20)


@pytest.mark.parametrize("max_new_tokens", [64, 65])
def test_a_completion_that_fills_the_context_leaves_no_room_for_a_prompt(max_new_tokens):
    assert longest_prompt(tiny.policy("gpt2"), 63) == 1
    with pytest.raises(UserError, match=f"response_length is {max_new_tokens}, but the model's context has only 64"):
        longest_prompt(tiny.policy("gpt2"), max_new_tokens)
