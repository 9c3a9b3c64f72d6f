"""What the trainer does with its arguments: it copies them, fills in the copy, and leaves the caller's alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from support import tiny
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo._trl import PPOConfig
from trl_nlpo.trainer.setup import as_nlpo_config


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


def test_the_deprecated_module_of_signals_gives_the_errors_of_today():
    from trl_nlpo import errors, signals

    with pytest.warns(FutureWarning, match=r"trl_nlpo\.errors\.Interrupted"):
        assert signals.Interrupted is errors.Interrupted
    with pytest.raises(AttributeError):
        signals.Nothing  # noqa: B018


def test_the_kl_coefficient_can_be_set_from_outside(tmp_path):
    subject = trainer(NLPOConfig(output_dir=str(tmp_path), **SETTINGS), 8)
    subject.kl_coef = 0.5
    rollout = subject.collect_rollout(["w1 w2", "w3"])
    estimates = subject.estimate_advantages(rollout, subject.score_rollout(rollout))
    assert estimates.kl_coef == 0.5
    assert torch.isfinite(estimates.advantages).all()
