"""Training with logits computed together with their softmax is training with logits in full."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers

from support import tiny
from support.slow import slow_except
from support.trainers import DEFAULTS, one_update
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.algorithm.self_test import can_fuse_output_layer, trial_rows
from trl_nlpo.functional import token_sets
from trl_nlpo.functional.output_layer import OutputStates


def trainer(tmp_path, family="llama", model=None, with_lora=False, **settings) -> NLPOTrainer:
    return NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, **settings}),
        processing_class=tiny.tokenizer(),
        model=tiny.policy(family) if model is None else model,
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
        peft_config=peft.LoraConfig(r=2, target_modules="all-linear") if with_lora else None,
    )


SETTINGS = {
    "nlpo": {},
    "ppo": {"mask_strategy": "none"},
    "entropy": {"entropy_coef": 0.1, "mask_anchor_coef": 0.0},
    "penalty": {"generation_kwargs": {"repetition_penalty": 1.3}},
}


@pytest.mark.parametrize("settings", list(SETTINGS))
@pytest.mark.parametrize("with_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", slow_except(["llama", "t5", "gpt2"], "llama", "t5"))
@pytest.mark.parametrize("share", [tiny.VOCAB_SIZE, 5], ids=["over the vocabulary", "token by token"])
def test_updates_are_those_of_logits_in_full(tmp_path, family, with_lora, settings, share, monkeypatch):
    monkeypatch.setattr(token_sets, "IDS_UP_TO", share)
    rollouts, weights = [], []
    for fuses in (True, False):
        # In float64, as what is compared has to be more exact than one rounding of float32 after several updates.
        subject = trainer(
            tmp_path, family, tiny.policy(family).double(), with_lora, fuse_output_layer=fuses, **SETTINGS[settings]
        )
        assert subject.policy_and_value.fuses_output_layer is fuses
        assert subject.reference.fuses_output_layer is fuses
        batch = next(iter(subject.get_train_dataloader()))
        for _ in range(2):  # with a fresh mask, and with an old one
            rollout, _ = one_update(subject, batch)
        rollouts.append(rollout)
        weights.append({name: p.detach().clone() for name, p in subject.policy_and_value.named_parameters()})
    assert torch.equal(rollouts[0].completion_ids, rollouts[1].completion_ids)
    for name in ("old_logprobs", "raw_logprobs", "ref_logprobs", "values", "anchor_log_mass"):
        found, expected = (getattr(rollout, name) for rollout in rollouts)
        if expected is not None:
            torch.testing.assert_close(found.float(), expected.float(), rtol=1e-4, atol=1e-4)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("with_lora", [False, True], ids=["full", "lora"])
def test_in_lower_precision_too_the_ratio_is_as_near_to_one_as_with_logits_in_full(tmp_path, family, with_lora):
    # In bfloat16 some processors compute a row a little differently beside other rows.
    deviations = []
    for fuses in (True, False):
        subject = trainer(tmp_path, family, with_lora=with_lora, bf16=True, fuse_output_layer=fuses)
        assert subject.policy_and_value.fuses_output_layer is fuses
        deviations.append([one_update(subject)[1].first_ratio_deviation for _ in range(2)])
    assert max(deviations[0]) < max(1e-4, 1.5 * max(deviations[1]))
    assert max(deviations[0]) < 0.03


def test_an_update_never_has_the_logits_of_a_microbatch(tmp_path, monkeypatch):
    subject = trainer(tmp_path)
    monkeypatch.setattr(OutputStates, "logits", lambda self: pytest.fail("logits in full"))
    for _ in range(2):
        one_update(subject)


def capped() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    model = transformers.Gemma2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return model.eval()


def test_a_model_that_caps_its_logits_computes_them_itself():
    model = capped()
    assert not can_fuse_output_layer(model, trial_rows([[5, 6, 7], [8, 9]], model))
    model.config.final_logit_softcapping = None
    assert can_fuse_output_layer(model, trial_rows([[5, 6, 7], [8, 9]], model))


def test_an_adapter_on_the_output_layer_is_not_left_out():
    model = tiny.policy("llama").eval()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    assert not can_fuse_output_layer(adapted, trial_rows([[5, 6, 7], [8, 9]], adapted))


@pytest.mark.parametrize("settings", [{"fuse_output_layer": False}, {"policy_update": "trust_region"}], ids=str)
def test_who_needs_logits_gets_them(tmp_path, settings):
    settings = {**settings, **({"value_trains_backbone": False} if "policy_update" in settings else {})}
    subject = trainer(tmp_path, **settings)
    assert not subject.policy_and_value.fuses_output_layer
    one_update(subject)
