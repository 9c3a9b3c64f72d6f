"""A policy is tried at the start: padded as alone, step by step as in one pass, or it is refused or goes slower."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers
from datasets import Dataset

from support import tiny
from support.trainers import DEFAULTS, one_update, reference_top_p
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo.algorithm.self_test import can_use_cache, trial_rows
from trl_nlpo.functional.logprobs import scaled_logits


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
SHARED = {"vocab_size": tiny.VOCAB_SIZE, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
SSM = {**SHARED, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
MAMBA2 = {**SSM, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}
BART = {
    **SHARED, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}  # fmt: skip
GPT1 = {**SHARED, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def causal(family, options):
    """A random model, sharpened, as an untrained one hardly tells prompts apart."""
    torch.manual_seed(0)
    model = getattr(transformers, family)(getattr(transformers, options[0])(**options[1]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model.eval()


def trainer(tmp_path, model, **options):
    return NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **DEFAULTS),
        model=model,
        reward_funcs=tiny.length_reward,
        **{"processing_class": tiny.tokenizer(), "train_dataset": tiny.prompts(), **options},
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_usual_families_may_use_their_cache(family):
    model = tiny.policy(family).eval()
    assert can_use_cache(model, trial_rows(PROMPTS, model))


def test_an_adapted_model_may_use_its_cache():
    model = peft.get_peft_model(
        tiny.policy("llama"), peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    assert can_use_cache(model, trial_rows(PROMPTS, model))


UNUSUAL = {"Mamba2ForCausalLM": ("Mamba2Config", MAMBA2), "OpenAIGPTLMHeadModel": ("OpenAIGPTConfig", GPT1)}


def test_a_family_without_a_cache_that_fits_goes_slower_and_says_so(tmp_path, caplog):
    trainer(tmp_path, causal("OpenAIGPTLMHeadModel", UNUSUAL["OpenAIGPTLMHeadModel"]))
    assert "every step is computed from the whole row" in caplog.text


@pytest.mark.parametrize("family", list(UNUSUAL))
def test_whatever_the_cache_an_old_mask_is_the_masking_policys_set(tmp_path, family):
    subject = trainer(tmp_path, causal(family, UNUSUAL[family]))
    one_update(subject)
    batch = next(iter(subject.get_train_dataloader()))
    rollout = subject.collect_rollout(batch)
    with subject.masking_policy.model() as masking, torch.no_grad():
        for row, completion in enumerate(rollout.completion_token_ids):
            ids = torch.tensor([batch.prompt_ids[row] + completion])[:, :-1]
            logits = scaled_logits(masking(input_ids=ids).logits[0, -len(completion) :].float(), 0.8)
            expected = reference_top_p(logits, 0.6)
            expected[:, 1] = True
            found = rollout.token_mask[row, : len(completion)]
            assert (expected == found).float().mean() > 0.999


def test_a_decoder_that_counts_columns_is_refused_in_a_line(tmp_path):
    with pytest.raises(
        UserError, match="BartForCausalLM computes other logits for a prompt in a padded batch"
    ) as caught:
        trainer(tmp_path, causal("BartForCausalLM", ("BartConfig", BART)))
    assert "\n" not in str(caught.value)


def test_the_same_decoder_is_fine_where_nothing_is_padded():
    model = causal("BartForCausalLM", ("BartConfig", BART))
    assert can_use_cache(model, trial_rows([[5, 6, 7], [8, 9, 10]], model))


def test_a_policy_that_cannot_be_computed_at_all_is_refused_in_a_line():
    model = tiny.policy().eval()
    model.transformer.h[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(UserError, match="cannot read a few tokens of the prompts: division by zero"):
        can_use_cache(model, trial_rows(PROMPTS, model))


@pytest.mark.parametrize("initialization", ["pissa", "olora"])
def test_an_adapter_that_takes_weights_from_the_base_starts_as_the_model_and_can_be_loaded_again(
    tmp_path, initialization
):
    ids = torch.arange(4, 14)[None]
    tiny.policy("llama").save_pretrained(tmp_path / "base")

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()

    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=initialization)
    subject = trainer(tmp_path, base(), peft_config=lora)
    with torch.no_grad():
        expected = base()(ids).logits
        torch.testing.assert_close(subject.policy_model.eval()(ids).logits, expected, atol=1e-4, rtol=1e-4)
        with subject.null_ref_context():
            torch.testing.assert_close(subject.policy_model(ids).logits, expected, atol=1e-4, rtol=1e-4)
    one_update(subject)
    subject.save_model(str(tmp_path / "saved"))
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, subject.policy_model.eval()(ids).logits, atol=1e-4, rtol=1e-4)


def test_generation_settings_that_cannot_be_written_lose_no_run(tmp_path):
    model = tiny.policy()
    model.generation_config.temperature = 0.7
    subject = trainer(tmp_path, model)
    model.generation_config.do_sample, model.generation_config.top_p = False, 0.5  # while it is trained
    subject.save_model(str(tmp_path / "saved"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert (loaded.generation_config.temperature, loaded.generation_config.do_sample) == (0.7, True)


def test_prompts_that_all_end_with_the_end_token_are_refused_for_a_decoder_but_not_for_an_encoder(tmp_path):
    rows = Dataset.from_list([{"input_ids": [5, 6, 1]}, {"input_ids": [7, 1]}] * 8)
    with pytest.raises(UserError, match="every prompt of train_dataset ends with the EOS token 1"):
        trainer(tmp_path, tiny.policy(), train_dataset=rows)
    trainer(tmp_path, tiny.policy("t5"), train_dataset=rows)


def test_the_models_own_end_tokens_end_a_completion_too(tmp_path):
    model = tiny.policy()
    model.generation_config.eos_token_id = [1, 7, 50256]  # the last is a default that this model does not have
    subject = trainer(tmp_path, model)
    assert subject.sampling.stop_token_ids == (1, 7)
    rollout = subject.collect_rollout(["w1 w2"] * 16)
    assert all(7 not in row[:-1] for row in rollout.completion_token_ids)


def test_prompts_that_all_begin_twice_are_refused_in_a_line(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.bos_token = "w9"
    begin = tokenizer.bos_token_id
    rows = Dataset.from_list([{"input_ids": [begin, begin, 5]}, {"input_ids": [begin, begin, 6, 7]}] * 8)
    with pytest.raises(UserError, match=r"begins with the BOS token .* twice"):
        trainer(tmp_path, tiny.policy(), processing_class=tokenizer, train_dataset=rows)
