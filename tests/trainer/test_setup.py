"""What the trainer does with its arguments: it copies them, fills in the copy, and leaves the caller's alone."""

from __future__ import annotations

import dataclasses

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo._trl import PPOConfig
from trl_nlpo.trainer.setup import as_nlpo_config, loaded


SETTINGS = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "response_length": 4, "report_to": "none",
    "save_strategy": "no", "use_cpu": True, "num_sample_generations": 0, "disable_tqdm": True, "num_ppo_epochs": 1,
}  # fmt: skip


def trainer(args, num_rows):
    return NLPOTrainer(
        args=args,
        processing_class=tiny.tokenizer(),
        model=tiny.policy(),
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(num_rows),
    )


def everything(args):
    return {name: repr(value) for name, value in vars(args).items() if not name.startswith("_")}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_training_writes_nothing_into_the_callers_arguments(tmp_path, gradient_checkpointing):
    args = NLPOConfig(
        output_dir=str(tmp_path), num_train_epochs=1, gradient_checkpointing=gradient_checkpointing, **SETTINGS
    )
    before = everything(args)
    trainer(args, 8).train()
    assert everything(args) == before


def test_a_second_trainer_with_the_same_arguments_counts_its_own_updates(tmp_path):
    args = NLPOConfig(output_dir=str(tmp_path), num_train_epochs=1, **SETTINGS)
    assert [trainer(args, num_rows).plan.num_updates for num_rows in (16, 64, 16)] == [2, 8, 2]


def test_the_trainers_own_arguments_have_the_sizes_that_scripts_of_trl_read(tmp_path):
    args = trainer(NLPOConfig(output_dir=str(tmp_path), num_train_epochs=1, **SETTINGS), 16).args
    assert (args.batch_size, args.local_batch_size, args.micro_batch_size, args.mini_batch_size) == (8, 8, 4, 8)
    assert (args.total_episodes, args.num_total_batches, args.world_size) == (16, 2, 1)


def test_a_ppo_config_gets_our_defaults_and_stays_as_it_was(tmp_path):
    ppo = PPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", bf16=False)
    before = everything(ppo)
    config = as_nlpo_config(ppo)
    assert isinstance(config, NLPOConfig)
    assert (config.mask_top_p, config.output_dir) == (0.9, str(tmp_path))
    config.total_episodes = 7
    assert everything(ppo) == before


@pytest.mark.parametrize(("rate", "times"), [(0.0, 1), (0.1, 0)])
def test_dropout_that_is_left_on_in_a_model_without_any_is_a_line(tmp_path, caplog, rate, times):
    args = NLPOConfig(output_dir=str(tmp_path), num_train_epochs=1, disable_dropout=False, **SETTINGS)
    model = tiny.policy()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
    NLPOTrainer(
        args=args, processing_class=tiny.tokenizer(), model=model, reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(8),
    )  # fmt: skip
    assert caplog.text.count("disable_dropout=False changes nothing: the model has no dropout") == times


@pytest.mark.parametrize("args", [{"output_dir": "x"}, None, dataclasses.make_dataclass("Other", ["lr"])(1)])
def test_other_arguments_are_refused_in_a_line(args):
    with pytest.raises(UserError, match="args must be an NLPOConfig"):
        as_nlpo_config(args)


def test_deprecated_names_still_work_and_say_the_new_one(tmp_path):
    subject = trainer(NLPOConfig(output_dir=str(tmp_path), **SETTINGS), 8)
    with pytest.warns(FutureWarning, match="mask_settings"):
        assert subject.mask is subject.mask_settings
    with pytest.warns(FutureWarning, match="is now run"):
        assert subject.progress is subject.run
    with pytest.warns(FutureWarning, match="gathered_weights"), subject.whole_weights() as module:
        assert module is subject.policy_and_value


def test_the_kl_coefficient_can_be_set_from_outside(tmp_path):
    subject = trainer(NLPOConfig(output_dir=str(tmp_path), **SETTINGS), 8)
    subject.kl_coef = 0.5
    rollout = subject.collect_rollout(["w1 w2", "w3"])
    estimates = subject.estimate_advantages(rollout, subject.score_rollout(rollout))
    assert estimates.kl_coef == 0.5
    assert torch.isfinite(estimates.advantages).all()


@pytest.fixture
def folder(tmp_path):
    """A model that was saved in half precision, with its tokenizer."""
    return tiny.saved(tiny.policy("llama").to(torch.bfloat16), tiny.tokenizer(), tmp_path / "model")


def test_a_policy_given_by_its_path_is_loaded_in_float32_with_its_tokenizer(folder):
    policy, tokenizer = loaded(folder, None)
    assert policy.dtype == torch.float32
    assert torch.equal(policy.lm_head.weight, tiny.policy("llama").lm_head.weight.bfloat16().float())
    assert tokenizer.padding_side == "left"


def test_a_policy_that_is_a_model_is_taken_as_it_is():
    policy, tokenizer = tiny.policy(), tiny.tokenizer()
    assert loaded(policy, tokenizer) == (policy, tokenizer)


def test_files_that_lack_weights_are_refused(folder):
    weights = load_file(f"{folder}/model.safetensors")
    save_file(
        {name: weight for name, weight in weights.items() if "layers.1" not in name}, f"{folder}/model.safetensors"
    )
    with pytest.raises(UserError, match=r"model '.*' lacks \d+ weights of a LlamaForCausalLM"):
        loaded(folder, None)


def test_weights_of_another_size_are_refused(folder):
    weights = load_file(f"{folder}/model.safetensors")
    save_file(weights | {"lm_head.weight": torch.zeros(3, 32)}, f"{folder}/model.safetensors")
    with pytest.raises(UserError, match=r"model '.*' (lacks|cannot be loaded)"):
        loaded(folder, None)


def test_an_adapter_by_its_path_is_refused_with_what_loads_it(tmp_path):
    peft.get_peft_model(tiny.policy("llama"), peft.LoraConfig(target_modules="all-linear")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is an adapter: load it"):
        loaded(tmp_path, None)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere' cannot be loaded"):
        loaded(tmp_path / "nowhere", tiny.tokenizer())


def test_the_metric_that_transformers_fills_into_a_ppo_config_becomes_the_reward(tmp_path):
    settings = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    args = as_nlpo_config(PPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings))
    assert (args.metric_for_best_model, args.greater_is_better) == ("reward", True)
