"""vLLM as the engine, on a CPU; skipped without it."""

from __future__ import annotations

import os

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from support import tiny
from trl_nlpo import _vllm
from trl_nlpo.algorithm.distribution import MaskSettings, SamplingSettings
from trl_nlpo.algorithm.draws import row_draws
from trl_nlpo.algorithm.engines.generate import TransformersEngine
from trl_nlpo.algorithm.engines.vllm import VLLMEngine, check_engine
from trl_nlpo.errors import UserError
from trl_nlpo.functional.masking import top_p_mask
from trl_nlpo.models.masking_policy import MaskingPolicy


# On a CPU vLLM takes a share of all memory for its cache, which other processes of a test run leave none of.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


# vLLM and what it loads warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPTS = [[5, 6, 7], [8], [9, 10], [3, 4, 5, 6, 7, 8]]
SAMPLING = SamplingSettings(8, 0.9, stop_token_ids=(1,))
TOP_P = MaskSettings("top_p", 0.8, always_allowed=(1,))
NO_MASK = MaskSettings("none")


def llama(seed: int = 0, tied: bool = False) -> torch.nn.Module:
    """A random Llama whose heads are as wide as the engine's attention on a CPU needs them."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tiny.VOCAB_SIZE, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=96, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=1,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    return model


def move(model, seed: int = 1, size: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def with_lora():
    return get_peft_model(llama(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).eval()


@pytest.fixture(scope="module")
def whole():
    pytest.importorskip("vllm")
    policy = llama()
    return policy, _engine(policy, "")


@pytest.fixture(scope="module")
def adapted():
    pytest.importorskip("vllm")
    policy = with_lora()
    return policy, _engine(policy, "default")


def _engine(policy, adapter):
    return VLLMEngine(
        policy, adapter, max_model_length=64, max_num_seqs=4, dtype=torch.float32, gpu_memory_utilization=0.3
    )


def assert_equal_samples(engine, policy, masking_policy, mask, sampling=SAMPLING, seed=3):
    draws = row_draws(seed, range(len(PROMPTS)), sampling.max_new_tokens)
    own = TransformersEngine()
    found = []
    for subject in (own, engine):
        subject.sync(policy, masking_policy)
        with torch.no_grad():
            found.append(list(subject.sample(PROMPTS, draws, sampling, mask, 3)))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours.sequences.completion_mask, theirs.sequences.completion_mask)
        real = ours.sequences.completion_mask
        assert torch.equal(ours.sequences.completion_ids[real], theirs.sequences.completion_ids[real])
        assert torch.equal(ours.ended, theirs.ended)
        assert (ours.sequences.token_sets is None) == (theirs.sequences.token_sets is None)
        if ours.sequences.token_sets is not None:
            assert torch.equal(ours.sequences.token_sets.mask(), theirs.sequences.token_sets.mask())
    return found[1]


@pytest.mark.slow
@pytest.mark.parametrize("mask", [TOP_P, NO_MASK, MaskSettings("top_k", top_k=5)], ids=["top-p", "none", "top-k"])
def test_whole_weights_give_the_tokens_and_sets_of_the_transformers_engine(whole, mask):
    policy, engine = whole
    assert_equal_samples(engine, policy, MaskingPolicy(policy, 1, mask.is_active), mask)


@pytest.mark.slow
def test_the_very_next_rollout_sees_weights_that_moved(whole):
    policy, engine = whole
    before = assert_equal_samples(engine, policy, MaskingPolicy(policy, 1), TOP_P)
    move(policy)
    after = assert_equal_samples(engine, policy, MaskingPolicy(policy, 1), TOP_P)
    assert before[0].sequences.completion_ids.tolist() != after[0].sequences.completion_ids.tolist()


@pytest.mark.slow
def test_repetition_penalty_and_warpers_are_ours(whole):
    policy, engine = whole
    sampling = SamplingSettings(8, repetition_penalty=1.3, warpers={"min_p": 0.02})
    assert_equal_samples(engine, policy, MaskingPolicy(policy, 1, False), NO_MASK, sampling)


@pytest.mark.slow
def test_an_old_mask_gives_the_tokens_and_sets_of_the_transformers_engine(adapted):
    policy, engine = adapted
    masking_policy = MaskingPolicy(policy, 2)
    for seed in (1, 2):
        move(policy, seed)
        masking_policy.policy_moved()
        assert_equal_samples(engine, policy, masking_policy, TOP_P, seed=seed)
    masking_policy.sync()
    assert_equal_samples(engine, policy, masking_policy, TOP_P)


@pytest.mark.slow
def test_frequencies_of_the_engine_follow_the_distribution_under_an_old_mask(adapted):
    # 3,000 rows with the same prompt: chi-squared with at most 40 degrees of freedom, 99.99 % below 82.1.
    policy, engine = adapted
    masking_policy = MaskingPolicy(policy, None)
    move(policy, 5)
    masking_policy.policy_moved()
    with masking_policy.model() as masking_model, torch.no_grad():
        masks = masking_model(input_ids=torch.tensor([[5, 6]])).logits[0, -1] / 0.9
    with torch.no_grad():
        scaled = policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1] / 0.9
    allowed = top_p_mask(masks, 0.8)
    allowed[1] = True
    expected = scaled.masked_fill(~allowed, float("-inf")).softmax(-1) * 3000
    sampling = SamplingSettings(1, 0.9, stop_token_ids=(1,))
    engine.sync(policy, masking_policy)
    samples = engine.sample([[5, 6]] * 3000, row_draws(0, range(3000), 1), sampling, TOP_P, 3000)
    found = torch.cat([sample.sequences.completion_ids for sample in samples]).flatten().bincount(minlength=41)
    inside = expected > 0
    assert found[~inside].sum() == 0
    assert 1 < int(inside.sum()) < 41
    assert ((found - expected)[inside].square() / expected[inside]).sum() < 82.1


@pytest.mark.slow
def test_pairs_that_the_engine_splits_for_want_of_memory_are_sampled_again(monkeypatch):
    pytest.importorskip("vllm")
    start, groups = _vllm.start, []
    # A cache for a few tokens: rows are thrown out in mid-completion and computed again later.
    monkeypatch.setattr(_vllm, "start", lambda *args, **settings: start(*args, **settings, num_gpu_blocks_override=4))
    policy = with_lora()
    engine, generate = _engine(policy, "default"), VLLMEngine._generate
    monkeypatch.setattr(VLLMEngine, "_generate", lambda self, rows: groups.append(rows) or generate(self, rows))
    masking_policy = MaskingPolicy(policy, None)
    move(policy)
    masking_policy.policy_moved()
    assert_equal_samples(engine, policy, masking_policy, TOP_P)
    assert len(groups) > 1


@pytest.mark.slow
def test_a_tied_output_layer_moves_with_the_embedding():
    pytest.importorskip("vllm")
    policy = llama(tied=True)
    engine = _engine(policy, "")
    move(policy)
    assert_equal_samples(engine, policy, MaskingPolicy(policy, 1), TOP_P)


@pytest.mark.slow
def test_an_engine_that_computes_something_else_is_refused_at_its_start(monkeypatch):
    pytest.importorskip("vllm")
    # As of an architecture whose weights it does not take over.
    monkeypatch.setattr("trl_nlpo._vllm.load_weights", lambda llm, weights: None)
    with pytest.raises(UserError, match="another distribution"):
        _engine(llama(), "")


REFUSED = {
    "an encoder-decoder": (lambda: tiny.policy("t5"), SAMPLING, NO_MASK, 1, 1, "encoder-decoder"),
    "several processes": (llama, SAMPLING, NO_MASK, 1, 2, "one process"),
    "a restriction": (
        llama, SamplingSettings(4, generation_fields={"min_length": 3}), NO_MASK, 1, 1, "min_length",
    ),
    "an old mask without LoRA": (llama, SAMPLING, TOP_P, 20, 1, "mask_sync_steps"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_the_engine_cannot_do_is_refused_in_one_line(what):
    make, sampling, mask, sync_steps, processes, words = REFUSED[what]
    with pytest.raises(UserError, match=words) as raised:
        check_engine(make(), sampling, mask, sync_steps, processes)
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(UserError, match=r"trl-nlpo\[vllm\]"):
        check_engine(llama(), SAMPLING, NO_MASK, 1)
