"""Adapters on a quantized base learn, also after sampling in evaluation mode."""

from __future__ import annotations

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from support import tiny
from support.slow import slow_except
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo.models.adapters import adapter_parameters


pytest.importorskip("bitsandbytes")

BITS = {
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "8bit": {"load_in_8bit": True},
}


def quantized(tmp_path, family, bits):
    shape = tiny.CONFIGS[family]()
    # Layers of whole blocks of 64, as real models have.
    shape.hidden_size = shape.intermediate_size = 128
    shape.head_dim = 32
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path / "base")
    config = BitsAndBytesConfig(**BITS[bits])
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=config, device_map={"": "cpu"})


def trainer(tmp_path, model, peft_config, **settings):
    return NLPOTrainer(
        args=NLPOConfig(
            output_dir=str(tmp_path / "out"), per_device_train_batch_size=8, num_ppo_epochs=1, response_length=6,
            stop_token="eos", learning_rate=1e-2, total_episodes=24, report_to="none", save_strategy="no",
            disable_tqdm=True, num_sample_generations=0, use_cpu=True, mask_sync_steps=2, **settings,
        ),
        processing_class=tiny.tokenizer(),
        model=model,
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
        eval_dataset=tiny.prompts(2),
        peft_config=peft_config,
    )  # fmt: skip


LORA = {"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.mark.parametrize("sampled_before", slow_except([False, True], True))
@pytest.mark.parametrize("bits", slow_except(BITS, "4bit"))
@pytest.mark.parametrize(
    "family", slow_except(["llama", "qwen2"], "qwen2")
)  # without and with biases, which fail in different ways
def test_every_adapter_weight_gets_a_gradient_after_sampling(tmp_path, family, bits, sampled_before):
    model = quantized(tmp_path, family, bits)
    if sampled_before:
        tokens = torch.arange(3, 9)[None]
        model.eval().generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3)
    subject = trainer(tmp_path, model, peft.LoraConfig(**LORA), max_steps=3)
    seen = {}
    step = subject.optimizer.optimizer.step

    def noted_step(*args, **kwargs):
        for adapter in ("default", "value"):
            for name, parameter in adapter_parameters(subject.policy_model, adapter).items():
                seen[name] = parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())
        return step(*args, **kwargs)

    subject.optimizer.optimizer.step = noted_step
    subject.generate_completions()
    subject.train()
    assert len(seen) == 2 * 2 * 2 * 3  # two adapters, two layers, A and B, three modules
    assert all(seen.values())
    learned = adapter_parameters(subject.policy_model, "default")
    assert all(weight.abs().sum() > 0 for name, weight in learned.items() if "lora_B" in name)


@pytest.mark.parametrize("optimizer", slow_except(["adamw_bnb_8bit", "paged_adamw_8bit"], "paged_adamw_8bit"))
def test_eight_bit_and_paged_optimizers_train(tmp_path, optimizer):
    subject = trainer(tmp_path, tiny.policy("llama"), peft.LoraConfig(**LORA), optim=optimizer)
    before = {name: weight.clone() for name, weight in adapter_parameters(subject.policy_model, "default").items()}
    subject.train()
    after = adapter_parameters(subject.policy_model, "default")
    assert any(not torch.equal(before[name], weight) for name, weight in after.items())


def test_quantized_weights_alone_are_refused(tmp_path):
    with pytest.raises(UserError, match="quantized weights cannot be trained"):
        trainer(tmp_path, quantized(tmp_path, "llama", "4bit"), None)
