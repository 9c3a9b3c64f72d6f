"""A trainer whose rollouts come from vLLM; skipped without it."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig

from support import tiny
from support.trainers import DEFAULTS
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.algorithm.engines.generate import TransformersEngine
from trl_nlpo.errors import UserError


# On a CPU vLLM takes a share of all memory for its cache, which other processes of a test run leave none of.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


pytestmark = pytest.mark.filterwarnings("ignore")


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tiny.VOCAB_SIZE, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=96, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def trained(folder, engine, lora, resume=False, **settings):
    args = NLPOConfig(str(folder), rollout_engine=engine, **{**DEFAULTS, "logging_strategy": "steps", **settings})
    subject = NLPOTrainer(
        args, tiny.tokenizer(), llama(), reward_funcs=tiny.length_reward, train_dataset=tiny.prompts(),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
    )  # fmt: skip
    subject.train(resume_from_checkpoint=resume)
    return subject


@pytest.mark.slow
@pytest.mark.parametrize(("lora", "sync_steps"), [(False, 1), (True, 20)], ids=["whole", "LoRA, old mask"])
def test_a_run_on_vllm_is_the_run_on_transformers(tmp_path, lora, sync_steps):
    pytest.importorskip("vllm")
    ours = trained(tmp_path / "ours", "transformers", lora, mask_sync_steps=sync_steps)
    theirs = trained(tmp_path / "theirs", "vllm", lora, mask_sync_steps=sync_steps)
    logs = [[row for row in subject.state.log_history if "reward" in row] for subject in (ours, theirs)]
    assert [row["reward"] for row in logs[0]] == pytest.approx([row["reward"] for row in logs[1]])
    assert all(row["nlpo/first_ratio_deviation"] < 1e-4 for row in logs[1])
    assert all(row["nlpo/engine_deviation"] < 1e-4 for row in logs[1])
    assert not any("nlpo/engine_deviation" in row for row in logs[0])


def weights_of(subject) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in subject.policy_and_value.named_parameters()}


@pytest.mark.slow
def test_an_engine_that_dies_in_a_rollout_leaves_a_whole_checkpoint_that_resumes_to_the_same_weights(
    tmp_path, monkeypatch
):
    pytest.importorskip("vllm")
    from trl_nlpo import _vllm

    settings = {"mask_sync_steps": 20, "save_strategy": "steps", "save_steps": 1}
    unbroken = weights_of(trained(tmp_path / "unbroken", "vllm", True, **settings))
    sampled, calls = _vllm.generate, []

    def dying(*args):
        calls.append(args)
        # The first is the trial at the start.
        if len(calls) == 3:
            raise RuntimeError("the engine is gone\nand this is a second line")
        return sampled(*args)

    monkeypatch.setattr(_vllm, "generate", dying)
    with pytest.raises(UserError, match="resume the run") as raised:
        trained(tmp_path / "broken", "vllm", True, **settings)
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(_vllm, "generate", sampled)
    resumed = trained(tmp_path / "broken", "vllm", True, resume=True, **settings)
    assert len(calls) == 3
    for name, weight in weights_of(resumed).items():
        torch.testing.assert_close(weight, unbroken[name], rtol=0, atol=0)


def test_an_old_mask_without_lora_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="mask_sync_steps"):
        trained(tmp_path, "vllm", False)


class Foreign(TransformersEngine):
    """Samples as transformers does, and says of every token that its log-probability was -1."""

    def sample(self, *args):
        for sample in super().sample(*args):
            said = torch.full(sample.sequences.completion_ids.shape, -1.0)
            yield dataclasses.replace(sample, engine_logprobs=said.masked_fill(~sample.sequences.completion_mask, 0.0))


def test_the_log_says_how_far_a_foreign_engine_is_from_the_trainer(tmp_path):
    subject = NLPOTrainer(
        args=NLPOConfig(
            output_dir=str(tmp_path),
            **{**DEFAULTS, "total_episodes": 8, "logging_strategy": "steps", "logging_steps": 1},
        ),
        processing_class=tiny.tokenizer(),
        model=tiny.policy(),
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
    )
    subject.rollout_engine = Foreign()
    rollouts, collect = [], subject.collect_rollout
    subject.collect_rollout = lambda batch: rollouts.append(collect(batch)) or rollouts[-1]
    subject.train()
    real = rollouts[0].completion_mask
    expected = (rollouts[0].old_logprobs[real] + 1.0).abs().mean().item()
    logged = [row["nlpo/engine_deviation"] for row in subject.state.log_history if "nlpo/engine_deviation" in row]
    assert logged[0] == pytest.approx(expected, rel=1e-4)
