"""Scripts of other trainers: what their names are here, in one line."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from support import tiny
from support.trainers import DEFAULTS
from trl_nlpo import NLPOConfig, NLPOTrainer, UserError
from trl_nlpo.config.names_elsewhere import ARGUMENTS, SETTINGS


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ppo_epochs", "NLPOConfig has no 'ppo_epochs': use num_ppo_epochs."),
        ("max_completion_length", "use response_length"),
        ("beta", "use kl_coef"),
        ("num_generations", "one completion of each prompt"),
        ("mask_topp", "did you mean 'mask_top_p'?"),
    ],
)
def test_a_setting_of_another_configuration_is_one_line_with_ours(tmp_path, name, says):
    with pytest.raises(UserError) as caught:
        NLPOConfig(output_dir=str(tmp_path), **{name: 4})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [("tokenizer", "NLPOTrainer has no 'tokenizer': use processing_class."), ("config", "use args"),
     ("model_init", "build a trainer for each trial"), ("rewards_func", "did you mean 'reward_funcs'?")],
)  # fmt: skip
def test_an_argument_of_another_trainer_is_one_line_with_ours(name, says):
    with pytest.raises(UserError) as caught:
        NLPOTrainer(**{name: None})
    assert says in str(caught.value)


def test_hints_are_for_names_that_are_not_ours_and_the_signatures_stay():
    assert not set(SETTINGS) & {field.name for field in dataclasses.fields(NLPOConfig)}
    assert not set(ARGUMENTS) & set(inspect.signature(NLPOTrainer).parameters)
    assert "mask_top_p" in inspect.signature(NLPOConfig).parameters


def trainer(tmp_path, **changes):
    arguments = {
        "args": NLPOConfig(output_dir=str(tmp_path), **DEFAULTS),
        "processing_class": tiny.tokenizer(),
        "model": tiny.policy(),
        "reward_funcs": tiny.length_reward,
        "train_dataset": tiny.prompts(),
        **changes,
    }
    return NLPOTrainer(**arguments)


def test_prediction_completes_every_prompt_and_scores_it_as_evaluation_does(tmp_path):
    subject, held_out = trainer(tmp_path), tiny.prompts(5, seed=3)
    said = subject.predict(held_out)
    assert [float(len(text.split())) for text in said.predictions] == tiny.length_reward(said.predictions)
    rewards = tiny.length_reward(said.predictions)
    assert said.metrics["test_reward"] == pytest.approx(sum(rewards) / 5)
    assert (len(rewards), said.label_ids, subject.state.log_history) == (5, None, [])
    assert subject.evaluate(held_out)["eval_reward"] == said.metrics["test_reward"]


def test_what_cannot_be_is_one_line_that_says_what_can(tmp_path):
    subject = trainer(tmp_path)
    with pytest.raises(UserError, match="build a model and a trainer in each trial"):
        subject.hyperparameter_search(n_trials=2)
    with pytest.raises(UserError, match=r"call train\(\), or collect_rollout"):
        subject.step([], [], [])


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_model_may_be_given_by_its_path(tmp_path, family):
    folder = tiny.saved(tiny.policy(family).half(), tiny.tokenizer(), tmp_path / "model")
    subject = trainer(tmp_path, model=folder, processing_class=None)
    assert {parameter.dtype.itemsize for parameter in subject.policy_model.parameters()} == {4}
    assert subject.policy_model.config.is_encoder_decoder == (family == "t5")
    assert subject.processing_class.padding_side == "left"


def test_a_path_without_a_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"model '.*nothing' cannot be loaded: "):
        trainer(tmp_path, model=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="model must be a model or the path of one, not NoneType"):
        trainer(tmp_path, model=None)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="is an adapter: load it"):
        trainer(tmp_path, model=tmp_path)
