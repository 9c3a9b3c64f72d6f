"""Policy, value function, reference and masking policy on one base model."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from support import tiny
from support.slow import slow_except
from support.trainers import DEFAULTS, count_calls, one_update, reference_top_p
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo.functional.logprobs import scaled_logits
from trl_nlpo.models.adapters import adapter_parameters
from trl_nlpo.models.masking_policy import MaskingPolicy
from trl_nlpo.models.policy_and_value import completion_logits


LORA = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"}


def trainer(tmp_path, family="llama", model=None, peft_config="lora", **settings) -> NLPOTrainer:
    keywords = {name: settings.pop(name) for name in ("value_model", "ref_model") if name in settings}
    config = peft.LoraConfig(**LORA, lora_dropout=0.1) if peft_config == "lora" else peft_config
    torch.manual_seed(3)
    return NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, "learning_rate": 1e-2, **settings}),
        processing_class=tiny.tokenizer(pad_is_eos=True),
        model=tiny.policy(family) if model is None else model,
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
        peft_config=config,
        **keywords,
    )


def warm_model(family="llama"):
    """A base model with an adapter that somebody has trained already."""
    torch.manual_seed(1)
    model = peft.get_peft_model(tiny.policy(family), peft.LoraConfig(**LORA, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter in adapter_parameters(model, "default").values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def weights(subject, adapter):
    parameters = adapter_parameters(subject.policy_model, adapter)
    return {name: weight.detach().clone() for name, weight in parameters.items()}


@pytest.mark.parametrize("family", slow_except(tiny.FAMILIES, "gpt2"))
def test_the_ratio_is_one_and_both_adapters_learn_on_a_base_that_stands_still(tmp_path, family):
    subject = trainer(tmp_path, family)
    model = subject.policy_model
    adapters = {id(p) for name in ("default", "value") for p in adapter_parameters(model, name).values()}
    base = [p for p in model.parameters() if id(p) not in adapters]
    before = [parameter.detach().clone() for parameter in base]
    policy, value = weights(subject, "default"), weights(subject, "value")
    for _ in range(3):
        _, stats = one_update(subject)
        assert stats.first_ratio_deviation < 1e-4
        assert stats.approx_kl > 1e-7
        subject.sync_masking_policy()
    assert all(map(torch.equal, before, base))
    for name, old in (("default", policy), ("value", value)):
        assert any(not torch.equal(old[key], weight) for key, weight in weights(subject, name).items())


def test_every_parameter_of_both_adapters_gets_a_gradient_after_sampling_and_scoring(tmp_path):
    subject = trainer(tmp_path, num_ppo_epochs=1, num_mini_batches=1)
    with torch.no_grad():  # LoRA's A gets none as long as B is 0
        for parameter in subject.policy_model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    seen = {}
    step = subject.optimizer.optimizer.step

    def noted_step(*args, **kwargs):
        for adapter in ("default", "value"):
            for name, parameter in adapter_parameters(subject.policy_model, adapter).items():
                seen[name] = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        return step(*args, **kwargs)

    subject.optimizer.optimizer.step = noted_step
    subject.generate_completions()
    one_update(subject)
    assert len(seen) == 2 * len(adapter_parameters(subject.policy_model, "default"))
    assert all(seen.values())


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_recomputes_with_the_adapter_of_the_forward_pass(tmp_path, checkpointing):
    plain = trainer(tmp_path)
    subject = trainer(tmp_path, gradient_checkpointing=checkpointing)
    for each in (plain, subject):
        each.train()
    for adapter in ("default", "value"):
        expected = weights(plain, adapter)
        for name, weight in weights(subject, adapter).items():
            torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_reference_of_a_fresh_adapter_is_the_base_model(tmp_path):
    base = tiny.policy("llama")
    expected = copy.deepcopy(base).eval()
    subject = trainer(tmp_path, model=base)
    subject.train()
    rollout = subject.collect_rollout(["w3 w4"])
    sequences = rollout.sequences(torch.arange(1))
    with torch.no_grad():
        torch.testing.assert_close(
            subject.reference.output(sequences).logits(), completion_logits(expected, sequences)
        )
    assert subject.ref_model is None


@pytest.mark.slow
def test_the_reference_of_a_warm_adapter_is_the_model_as_it_was_given(tmp_path):
    model = warm_model()
    expected = copy.deepcopy(model).eval()
    subject = trainer(tmp_path, model=model, peft_config=None)
    subject.train()
    sequences = subject.collect_rollout(["w3 w4"]).sequences(torch.arange(1))
    with torch.no_grad():
        torch.testing.assert_close(
            subject.reference.output(sequences).logits(), completion_logits(expected, sequences)
        )


@pytest.mark.slow
def test_a_named_adapter_can_be_the_reference_and_another_the_policy(tmp_path):
    model = warm_model()
    model.add_adapter("tuned", peft.LoraConfig(**LORA, task_type="CAUSAL_LM"))
    expected = copy.deepcopy(model).eval()
    subject = trainer(tmp_path, model=model, peft_config=None, model_adapter_name="tuned", ref_adapter_name="default")
    frozen, tuned = weights(subject, "default"), weights(subject, "tuned")
    subject.train()
    assert all(torch.equal(frozen[name], weight) for name, weight in weights(subject, "default").items())
    assert any(not torch.equal(tuned[name], weight) for name, weight in weights(subject, "tuned").items())
    sequences = subject.collect_rollout(["w3 w4"]).sequences(torch.arange(1))
    with torch.no_grad():
        torch.testing.assert_close(
            subject.reference.output(sequences).logits(), completion_logits(expected, sequences)
        )
    assert subject.policy_model.active_adapter == "tuned"


def test_the_value_adapter_starts_from_the_policys_weights(tmp_path):
    subject = trainer(tmp_path, model=warm_model(), peft_config=None)
    policy, value = weights(subject, "default"), weights(subject, "value")
    assert all(map(torch.equal, policy.values(), value.values()))


@pytest.mark.slow
def test_the_masking_policy_copies_adapter_weights_only(tmp_path):
    subject = trainer(tmp_path, mask_sync_steps=2)
    assert set(subject.masking_policy.state_dict()) == set(adapter_parameters(subject.policy_model, "default"))
    before = subject.masking_policy.state_dict()
    one_update(subject)
    assert not subject.sync_masking_policy()
    assert all(torch.equal(before[name], weight) for name, weight in subject.masking_policy.state_dict().items())
    one_update(subject)
    assert subject.sync_masking_policy()
    policy = weights(subject, "default")
    assert all(torch.equal(policy[name], weight) for name, weight in subject.masking_policy.state_dict().items())


@pytest.mark.parametrize("family", slow_except(["llama", "gpt2", "t5"], "gpt2"))
def test_policy_and_mask_in_one_batch_sample_under_the_same_masks(tmp_path, family):
    subject = trainer(tmp_path, family)
    policy = subject.policy_model
    subject.masking_policy = MaskingPolicy(policy, 2, adapter="default", in_one_batch=True)
    assert subject.masking_policy.in_one_batch
    for _ in range(3):
        _, stats = one_update(subject)
        assert stats.first_ratio_deviation < 1e-4
    passes = count_calls(policy.get_base_model(), "forward")
    rollout = subject.collect_rollout(next(iter(subject.get_train_dataloader())))
    # A pass a token, one to score each chunk of rows with the policy, the value function and the reference
    assert passes.calls <= 8 + 3
    with subject.masking_policy.model() as masking_model, torch.no_grad():
        logits = completion_logits(masking_model, rollout.sequences(torch.arange(len(rollout))))
    expected = reference_top_p(scaled_logits(logits, 0.8), 0.6)
    expected[..., 1] = True
    real = rollout.completion_mask
    assert (rollout.token_mask == expected).float()[real].mean() > 0.999
    chosen = rollout.token_mask.gather(-1, rollout.completion_ids.unsqueeze(-1)).squeeze(-1)
    assert chosen[real].all()
    assert not torch.equal(rollout.completion_mask, torch.zeros_like(real))


def test_a_mask_adapter_is_synced_in_place_and_not_saved(tmp_path):
    subject = trainer(tmp_path)
    subject.masking_policy = MaskingPolicy(subject.policy_model, 1, adapter="default", in_one_batch=True)
    one_update(subject)
    assert subject.sync_masking_policy()
    mask, policy = weights(subject, "mask").values(), weights(subject, "default").values()
    assert all(map(torch.equal, mask, policy))
    assert not any(p.requires_grad for p in adapter_parameters(subject.policy_model, "mask").values())
    subject.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / "mask").exists()


def test_no_second_base_model_is_kept(tmp_path):
    base = tiny.policy("llama")
    subject = trainer(tmp_path, model=base)
    models = [subject.policy_model.get_base_model(), subject.masking_policy._model.get_base_model()]
    assert all(model is base for model in models)
    trained = sum(parameter.numel() for parameter in subject.model.parameters() if parameter.requires_grad)
    adapter = sum(parameter.numel() for parameter in adapter_parameters(subject.policy_model, "default").values())
    assert trained == 2 * adapter + 32 + 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_saved_adapter_and_its_merged_model_generate_the_same(tmp_path, family):
    subject = trainer(tmp_path, family)
    subject.train()
    subject.save_model(str(tmp_path / "final"))
    loaded = peft.PeftModel.from_pretrained(tiny.policy(family), tmp_path / "final").eval()
    assert list(loaded.peft_config) == ["default"]
    merged = copy.deepcopy(loaded).merge_and_unload()
    tokens = torch.arange(3, 9)[None]
    settings = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    settings |= {"max_new_tokens": 6, "do_sample": False}
    expected = subject.policy_model.eval().generate(**settings)
    assert torch.equal(loaded.generate(**settings), expected)
    assert torch.equal(merged.generate(**settings), expected)


@pytest.mark.slow
def test_the_value_adapter_lies_in_a_folder_of_its_own_and_loads_by_itself(tmp_path):
    subject = trainer(tmp_path)
    subject.train()
    subject.save_model(str(tmp_path / "final"))
    loaded = peft.PeftModel.from_pretrained(tiny.policy("llama"), tmp_path / "final" / "value_model")
    expected = weights(subject, "value").values()
    assert all(map(torch.equal, adapter_parameters(loaded, "default").values(), expected))


# PEFT drops position ids for prompt tuning, so that a padded row stands elsewhere than the row alone.
def test_prompt_tuning_is_refused_as_it_counts_padding(tmp_path):
    with pytest.raises(UserError, match="computes other logits for a prompt in a padded batch"):
        trainer(tmp_path, peft_config=peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


@pytest.mark.parametrize("method", ["ia3"])
def test_other_peft_methods_train_too(tmp_path, method):
    configs = {
        "ia3": peft.IA3Config(
            task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
    }
    subject = trainer(tmp_path, peft_config=configs[method], response_length=4)
    before = weights(subject, "default")
    for _ in range(2):
        _, stats = one_update(subject)
        assert stats.first_ratio_deviation < 1e-4
    assert any(not torch.equal(before[name], weight) for name, weight in weights(subject, "default").items())


@pytest.mark.slow
def test_a_value_model_of_its_own_works_beside_an_adapter(tmp_path):
    subject = trainer(tmp_path, value_model=tiny.classifier("llama"))
    assert list(subject.policy_model.peft_config) == ["default"]
    subject.train()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ref_adapter_name": "gold"}, "ref_adapter_name is 'gold', but the model has no such adapter"),
        ({"model_adapter_name": "gold"}, "model_adapter_name is 'gold'"),
        ({"peft_config": peft.LoraConfig(target_modules=["nowhere"])}, "matches no layer of LlamaForCausalLM"),
        ({"peft_config": {"r": 4}}, "must be a PEFT configuration"),
        ({"value_model": tiny.classifier("t5")}, "value_model"),
    ],
    ids=["ref", "policy", "layers", "dict", "value"],
)
def test_bad_input_is_one_line_before_training(tmp_path, settings, says):
    with pytest.raises(UserError) as caught:
        trainer(tmp_path, **settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_frozen_adapter_is_refused(tmp_path):
    model = warm_model()
    model.save_pretrained(tmp_path / "adapter")
    frozen = peft.PeftModel.from_pretrained(tiny.policy("llama"), tmp_path / "adapter")
    with pytest.raises(UserError, match="is_trainable=True"):
        trainer(tmp_path, model=frozen, peft_config=None)


def test_a_model_without_an_output_layer_is_refused(tmp_path):
    from transformers import AutoModel

    with pytest.raises(UserError, match="is no language model"):
        trainer(tmp_path, model=AutoModel.from_config(tiny.CONFIGS["llama"]()), peft_config=None)


def test_a_value_model_with_a_smaller_vocabulary_is_refused(tmp_path):
    value_model = tiny.classifier("llama")
    value_model.resize_token_embeddings(20)
    with pytest.raises(UserError, match="value_model knows 20 tokens and the policy 41"):
        trainer(tmp_path, value_model=value_model)


def test_a_notebooks_cell_can_be_run_twice_on_a_base_and_starts_anew(tmp_path):
    model = tiny.policy("llama").eval()
    ids = torch.arange(4, 14)[None]
    with torch.no_grad():
        expected = model(ids).logits
    for _ in range(2):
        subject = trainer(tmp_path, model=model, peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"]))
        with torch.no_grad():
            assert torch.equal(subject.policy_model.eval()(ids).logits, expected)
        one_update(subject)


def test_a_notebooks_cell_can_be_run_twice_on_an_adapted_model_and_goes_on(tmp_path):
    model = warm_model()
    one_update(trainer(tmp_path, model=model, peft_config=None))
    trained = {name: weight.clone() for name, weight in adapter_parameters(model, "default").items()}
    subject = trainer(tmp_path, model=model, peft_config=None)
    assert all(torch.equal(trained[name], weight) for name, weight in adapter_parameters(model, "default").items())
    assert list(model.peft_config) == ["default", "value"]
    assert one_update(subject)[1].first_ratio_deviation < 1e-4


def test_an_adapter_with_the_name_of_the_value_functions_is_refused_in_a_line(tmp_path):
    model = peft.get_peft_model(tiny.policy("llama"), peft.LoraConfig(**LORA), adapter_name="value")
    with pytest.raises(UserError, match="an adapter called 'value'"):
        trainer(tmp_path, model=model, peft_config=None)


def test_replicated_layers_are_trained_from_the_model_that_they_make(tmp_path):
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]])
    subject = trainer(tmp_path, model=tiny.policy("llama"), peft_config=lora)
    rollout, stats = one_update(subject)
    torch.testing.assert_close(rollout.raw_logprobs, rollout.ref_logprobs)
    assert stats.first_ratio_deviation < 1e-4


def test_a_second_trainer_on_the_same_base_begins_anew(tmp_path):
    base = tiny.policy("llama")
    one_update(trainer(tmp_path, model=base))
    second, fresh = (trainer(tmp_path, model=model) for model in (base, tiny.policy("llama")))
    ours, theirs = (subject.policy_and_value.state_dict() for subject in (second, fresh))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
