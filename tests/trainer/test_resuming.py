"""A run that died goes on as if it had not, to the last bit, whatever it was doing and with what is left on disk."""

from __future__ import annotations

import json
import os

import pytest
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from support.resumable import assert_equal_ends, noise, trainer
from support.slow import slow_except
from trl_nlpo import UserError
from trl_nlpo.errors import RewardError
from trl_nlpo.storage.checkpoint_folder import damage
from trl_nlpo.trainer import checkpoints, guard, huggingface


@pytest.mark.slow
@pytest.mark.parametrize("logging_steps", [1, 2, 3])
def test_random_rewards_and_logs_between_two_log_events_go_on_exactly(tmp_path, logging_steps):
    settings = {"logging_steps": logging_steps, "eval_strategy": "steps", "eval_steps": 2}
    unbroken = trainer(tmp_path, **settings)
    loss = unbroken.train().training_loss
    for step in (1, 2, 3):
        resumed = trainer(tmp_path, seed_everything=False, save_strategy="no", **settings)
        output = resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert_equal_ends(unbroken, resumed)
        assert output.training_loss == loss


@pytest.mark.slow
def test_a_checkpoint_of_the_end_is_the_end(tmp_path):
    unbroken = trainer(tmp_path)
    unbroken.train()
    resumed = trainer(tmp_path, seed_everything=False)
    resumed.train(resume_from_checkpoint=True)
    assert_equal_ends(unbroken, resumed)


@pytest.mark.parametrize(
    "file", slow_except(["optimizer.pt", "model.safetensors", "value_model/value_model.safetensors"], "optimizer.pt")
)
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(tmp_path, monkeypatch, file):
    unbroken = trainer(tmp_path)
    unbroken.train()
    path = tmp_path / "checkpoint-4" / file
    path.write_bytes(path.read_bytes()[:-1])
    said = []
    monkeypatch.setattr(checkpoints.logger, "warning", said.append)
    resumed = trainer(tmp_path, seed_everything=False)
    resumed.train(resume_from_checkpoint=True)
    assert_equal_ends(unbroken, resumed)
    assert len(said) == 1
    assert f"checkpoint-4 is damaged ({file} has" in said[0]
    # the run has written a whole one in its place
    assert damage(tmp_path / "checkpoint-4") is None


def test_a_damaged_checkpoint_that_was_asked_for_is_refused_in_one_line(tmp_path):
    trainer(tmp_path, max_steps=1).train()
    (tmp_path / "checkpoint-1" / "rng_state.pth").unlink()
    with pytest.raises(UserError, match=r"checkpoint-1 is damaged \(rng_state.pth is missing\)") as caught:
        trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_last_good_checkpoint_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    real = Trainer._save_rng_state

    def fail(self, folder):
        if self.state.global_step == 2:
            raise SystemExit("killed while writing")
        real(self, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", fail)
    with pytest.raises(SystemExit):
        trainer(tmp_path, save_total_limit=1).train()
    assert [name for name in os.listdir(tmp_path) if name.startswith("checkpoint")] == ["checkpoint-1"]
    monkeypatch.undo()
    trainer(tmp_path, save_total_limit=1).train(resume_from_checkpoint=True)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "_card.json", "checkpoint-4"]


def test_leftovers_of_a_killed_run_go_when_the_next_begins(tmp_path):
    (tmp_path / "_unfinished" / "checkpoint-9").mkdir(parents=True)
    trainer(tmp_path, max_steps=1).train()
    assert sorted(os.listdir(tmp_path)) == ["README.md", "_card.json", "checkpoint-1"]


@pytest.mark.slow
def test_the_best_model_is_kept_and_found_under_its_name(tmp_path):
    rewards = iter([1.0, 3.0, 2.0, 1.0])

    def best_at_two(completions, trainer_state, **kwargs):
        return [next(rewards)] * 3 if len(completions) == 3 else [0.0] * len(completions)

    subject = trainer(
        tmp_path, best_at_two, eval_strategy="steps", eval_steps=1, save_total_limit=2, load_best_model_at_end=True,
        per_device_eval_batch_size=3,
    )  # fmt: skip
    subject.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    for step in (2, 4):
        state = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")


def test_checkpoints_of_the_model_only_are_whole_and_cannot_be_resumed(tmp_path):
    trainer(tmp_path, save_only_model=True, max_steps=1).train()
    assert not (tmp_path / "checkpoint-1" / "optimizer.pt").exists()
    with pytest.raises(UserError, match=r"it has no nlpo_state\.json"):
        trainer(tmp_path).train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_the_patience_of_early_stopping_is_not_forgotten(tmp_path):
    def fading(completions, trainer_state, **kwargs):
        return [float(-trainer_state.global_step)] * len(completions)

    settings = {
        "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "reward", "max_steps": 9,
        "load_best_model_at_end": True,
    }  # fmt: skip
    trainer(tmp_path, fading, [EarlyStoppingCallback(9)], **settings | {"max_steps": 3}).train()
    # evaluations 2 and 3 were no better than the first; the patience given now counts, and what was counted stays
    resumed = trainer(tmp_path, fading, [EarlyStoppingCallback(4)], **settings)
    assert resumed.train(resume_from_checkpoint=True).global_step == 5


@pytest.mark.slow
def test_a_callback_that_is_new_in_a_resumed_run_is_no_problem(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "reward"}
    trainer(tmp_path, max_steps=1, load_best_model_at_end=True, **settings).train()
    resumed = trainer(tmp_path, callbacks=[EarlyStoppingCallback(9)], load_best_model_at_end=True, **settings)
    assert resumed.train(resume_from_checkpoint=True).global_step == 4


class Failing:
    """Noise, with a failure at the n-th call after the random generators were used."""

    __name__ = "noise"

    def __init__(self, at):
        self.calls_left = at

    def __call__(self, completions, **kwargs):
        values = noise(completions)
        self.calls_left -= 1
        if self.calls_left == 0:
            raise RuntimeError("the service is gone")
        return values


# Calls: updates 1, 2, evaluation at 2, updates 3, 4, evaluation at 4.
@pytest.mark.parametrize(("call", "step"), slow_except([(2, 1), (3, 2), (4, 2), (5, 3), (6, 4)], (4, 2)))
def test_a_failed_reward_leaves_a_checkpoint_that_goes_on_exactly(tmp_path, call, step):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 50, "logging_steps": 3}
    unbroken = trainer(tmp_path / "unbroken", **settings)
    unbroken.train()
    broken = trainer(tmp_path / "broken", Failing(call), **settings)
    with pytest.raises(RewardError, match="the service is gone"):
        broken.train()
    assert (tmp_path / "broken" / f"checkpoint-{step}").is_dir()
    resumed = trainer(tmp_path / "broken", seed_everything=False, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_equal_ends(unbroken, resumed)


@pytest.mark.slow
def test_an_evaluation_that_failed_before_a_save_is_made_up_for_and_saved(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    with pytest.raises(RewardError):
        trainer(tmp_path, Failing(3), **settings).train()
    resumed = trainer(tmp_path, seed_everything=False, **settings)
    resumed.train(resume_from_checkpoint=True)
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"]] == [1, 2, 2]


def test_any_error_leaves_a_checkpoint_of_the_progress_and_says_where(tmp_path, monkeypatch):
    class Bug(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise ZeroDivisionError

    said = []
    monkeypatch.setattr(guard.logger, "warning", said.append)
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callbacks=[Bug()], save_steps=50).train()
    assert said == [f"Progress up to update 2 was saved in {tmp_path / 'checkpoint-2'}."]


@pytest.mark.slow
def test_a_checkpoint_from_the_middle_of_an_update_says_so_when_it_is_resumed(tmp_path, monkeypatch):
    subject = trainer(tmp_path, save_steps=50)
    step, calls = subject.optimizer.step, []

    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError
        return step(*args, **kwargs)

    monkeypatch.setattr(subject.optimizer, "step", fail)
    with pytest.raises(ZeroDivisionError):
        subject.train()
    said = []
    monkeypatch.setattr(huggingface.logger, "warning", said.append)
    assert trainer(tmp_path).train(resume_from_checkpoint=True).global_step == 4
    assert len(said) == 1
    assert "failed half-way" in said[0]
    said.clear()
    trainer(tmp_path).train(resume_from_checkpoint=True)
    assert not said


def test_a_folder_that_is_no_checkpoint_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty cannot be resumed: it has no nlpo_state\.json") as caught:
        trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_schedule_of_syncs_goes_on_where_nothing_is_masked(tmp_path):
    def ages(subject):
        return [entry["nlpo/mask_age"] for entry in subject.state.log_history if "nlpo/mask_age" in entry]

    settings = {"mask_strategy": "none", "mask_sync_steps": 3, "max_steps": 6}
    unbroken = trainer(tmp_path, **settings)
    unbroken.train()
    resumed = trainer(tmp_path, seed_everything=False, save_strategy="no", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert ages(resumed) == ages(unbroken) == [0, 1, 2, 0, 1, 2]
    assert_equal_ends(unbroken, resumed)


@pytest.mark.slow
def test_a_reward_that_fails_while_samples_are_printed_costs_no_random_number(tmp_path):
    calls = []

    def fails_at(call):
        def reward(completions, **kwargs):
            calls.append(len(completions))
            if len(calls) == call:
                raise ZeroDivisionError("tired")
            return noise(completions) if len(completions) == 4 else [0.0] * len(completions)

        return reward

    settings = {"num_sample_generations": 4, "eval_strategy": "steps", "eval_steps": 100, "save_steps": 100}
    unbroken = trainer(tmp_path / "unbroken", fails_at(0), **settings)
    unbroken.train()
    assert calls[:4] == [4, 3] * 2
    calls.clear()
    with pytest.raises(RewardError):
        trainer(tmp_path / "broken", fails_at(4), **settings).train()
    resumed = trainer(tmp_path / "broken", fails_at(0), seed_everything=False, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_equal_ends(unbroken, resumed)


def test_what_is_logged_in_some_updates_only_is_averaged_over_these(tmp_path):
    calls = []

    def reward(completions, log_metric, **kwargs):
        calls.append(1)
        if len(calls) % 2:
            log_metric("rare", len(calls))
        return [0.0] * len(completions)

    subject = trainer(tmp_path, reward, logging_steps=4, save_strategy="no")
    subject.train()
    assert [entry["rare"] for entry in subject.state.log_history if "rare" in entry] == [2.0]


@pytest.mark.slow
def test_a_second_training_begins_with_the_learning_rate_of_the_first(tmp_path):
    subject = trainer(tmp_path, save_strategy="no")
    rates = []
    for _ in range(2):
        subject.train()
        rates.append([entry["lr"] for entry in subject.state.log_history if "lr" in entry])
    assert rates[0] == rates[1]
    assert rates[0][0] == 1e-3
    assert len(set(rates[0])) == 4
