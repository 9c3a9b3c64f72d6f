"""What a trainer's model card says of its settings, and how it lets the model be asked."""

from __future__ import annotations

from support import tiny
from support.trainers import DEFAULTS
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.hub.card import CardFacts
from trl_nlpo.trainer.card_settings import method_of, settings_of


def config(tmp_path, **keys):
    return NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, **keys})


def facts_of(tmp_path, **keys):
    trainer = NLPOTrainer(
        args=config(tmp_path, **keys), processing_class=tiny.tokenizer(), model=tiny.policy(),
        reward_funcs=tiny.length_reward, train_dataset=tiny.prompts(),
    )  # fmt: skip
    trainer.create_model_card(dataset_name=str(tmp_path))
    return CardFacts.read(tmp_path)


def test_settings_of_a_mask_are_there_where_there_is_one(tmp_path):
    masked = settings_of(config(tmp_path, mask_top_p=0.5, mask_sync_steps=None))
    assert (masked["mask_top_p"], masked["mask_sync_steps"]) == (0.5, "never")
    assert "mask_top_k" not in masked
    unmasked = config(tmp_path, mask_strategy="none")
    assert not [name for name in settings_of(unmasked) if name.startswith("mask_") and name != "mask_strategy"]
    assert (method_of(unmasked, "NLPO"), method_of(config(tmp_path), "NLPO")) == ("PPO", "NLPO")


def test_a_setting_that_is_not_as_usual_is_there_and_a_path_is_not(tmp_path):
    found = settings_of(config(tmp_path, dual_clip=3.0, value_model="/home/me/critic"))
    assert found["dual_clip"] == 3.0
    assert "critic" not in str(found)
    assert "dual_clip" not in settings_of(config(tmp_path))


def test_the_code_samples_as_the_evaluation_does(tmp_path):
    facts = facts_of(
        tmp_path, temperature=0.5, eval_generation_kwargs={"top_p": 0.9, "min_new_tokens": 2}, stop_token="eos",
        max_prompt_length=9, prompt_truncation_side="left",
    )  # fmt: skip
    wanted = {"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 0.9, "min_new_tokens": 2}
    assert wanted.items() <= facts.reading.generation.items()
    assert facts.reading.generation["eos_token_id"] == [1]
    assert (facts.reading.max_length, facts.reading.truncation_side) == (9, "left")
    # No row of a script's data is published, and no folder named.
    assert facts.reading.example == {"prompt": "Write here what the model reads."}
    assert facts.dataset_name is None
    assert facts.rewards == [["length_reward", 1.0]]
