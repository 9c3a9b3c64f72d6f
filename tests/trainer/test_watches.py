"""Runs that go wrong in ways that everybody knows, made by hand; and healthy ones, which give nothing."""

from __future__ import annotations

import dataclasses
import math

import pytest

from support import tiny
from support.resumable import trainer
from trl_nlpo.evaluation.summary import Evaluation
from trl_nlpo.trainer import watches
from trl_nlpo.trainer.watches import collapse_signs


HEALTHY = {
    "objective/kl": (0.0, 8.0), "completions/mean_length": (20.0, 20.0), "reward": (0.1, 0.9),
    "perplexity": (20.0, 30.0), "policy/entropy_avg": (2.0, 1.0),
}  # fmt: skip


def series(length=40, **changes):
    """Metrics that go in a straight line from a first value to a last."""
    ranges = {**HEALTHY, **{name.replace("__", "/"): span for name, span in changes.items()}}
    return [
        {name: start + (end - start) * step / (length - 1) for name, (start, end) in ranges.items()}
        for step in range(length)
    ]


def test_a_healthy_run_gives_nothing():
    assert collapse_signs(series()) == {}


@pytest.mark.parametrize(
    ("changes", "kind", "knobs"),
    [
        ({"perplexity": (20.0, 200.0)}, "perplexity", ["kl_coef", "mask_top_p", "gamma"]),
        ({"perplexity": (20.0, math.inf)}, "perplexity", ["kl_coef", "mask_top_p", "gamma"]),
        ({"objective__kl": (0.0, 40.0)}, "kl", ["kl_coef", "kl_target", "learning_rate"]),
        ({"policy__entropy_avg": (2.0, 0.001)}, "entropy", ["mask_top_p", "kl_coef", "entropy_coef"]),
    ],
)
def test_each_way_to_collapse_is_seen_and_names_what_to_change(changes, kind, knobs):
    history = series(**changes)
    if changes.get("perplexity", (0, 0))[1] == math.inf:
        history = [{**entry, "perplexity": 20.0 if step < 20 else math.inf} for step, entry in enumerate(series())]
    if kind == "entropy":
        # gone for good by the last ten
        history = [{**entry, "policy/entropy_avg": 2.0 if step < 20 else 0.01} for step, entry in enumerate(series())]
    signs = collapse_signs(history)
    assert list(signs) == [kind]
    assert all(knob in signs[kind] for knob in knobs)
    assert "\n" not in signs[kind]


def test_what_was_seen_is_said_in_numbers():
    # medians of the first and last ten of 40 on a line: entries 4.5 and 34.5 of 39
    sign = collapse_signs(series(perplexity=(39.0, 429.0), reward=(0.0, 3.9)))["perplexity"]
    assert "from 0.45 to 3.45" in sign
    assert "from 84 to 384" in sign


def test_perplexity_that_explodes_without_a_better_reward_is_no_hacking():
    assert collapse_signs(series(perplexity=(20.0, 200.0), reward=(0.5, 0.4))) == {}


def test_the_bound_on_kl_is_per_token():
    assert collapse_signs(series(objective__kl=(40.0, 40.0), completions__mean_length=(50.0, 50.0))) == {}
    assert list(collapse_signs(series(objective__kl=(40.0, 40.0), completions__mean_length=(30.0, 30.0)))) == ["kl"]


def test_a_policy_that_never_had_a_choice_has_lost_none():
    assert collapse_signs(series(policy__entropy_avg=(0.01, 0.009))) == {}


def test_one_bad_batch_is_no_sign():
    history = series()
    history[-1] |= {"perplexity": 1e9, "objective/kl": 1e9, "policy/entropy_avg": 0.0}
    assert collapse_signs(history) == {}


@pytest.mark.parametrize(("length", "kinds"), [(0, []), (1, []), (10, []), (19, []), (20, ["kl"])])
def test_a_run_says_nothing_before_its_first_and_last_events_are_others(length, kinds):
    assert list(collapse_signs(series(40, objective__kl=(1e3, 1e3))[:length])) == kinds


def test_evaluations_and_what_was_not_measured_are_passed_over():
    history = [row for entry in series(perplexity=(20.0, 200.0)) for row in (entry, {"eval_perplexity": 1.0})]
    history[0]["perplexity"] = history[-2]["reward"] = math.nan
    assert list(collapse_signs(history)) == ["perplexity"]


SLOW = {"learning_rate": 1e-5}
"""So that no mask leaks in four updates."""


class TestTrainer:
    """KL past its bound: a copy of the reference that was pushed far away is trained on."""

    def run(self, tmp_path, monkeypatch, **settings):
        said = []
        monkeypatch.setattr(watches.logger, "warning", said.append)
        monkeypatch.setattr(watches, "collapse_signs", self.signs)
        subject = trainer(tmp_path, tiny.length_reward, save_steps=50, **SLOW, **settings)
        output = subject.train(resume_from_checkpoint=settings.get("resume_from_checkpoint"))
        return said, output.global_step

    def signs(self, history):
        updates = sum("objective/kl" in entry for entry in history)
        return {kind: f"{kind} is off" for kind, first in (("kl", 2), ("entropy", 3)) if updates >= first}

    def test_each_kind_is_said_once(self, tmp_path, monkeypatch):
        assert self.run(tmp_path, monkeypatch) == (["kl is off", "entropy is off"], 4)

    def test_it_stops_with_a_checkpoint_if_that_is_wanted_and_a_resumed_run_goes_on(self, tmp_path, monkeypatch):
        assert self.run(tmp_path, monkeypatch, stop_on_collapse=True) == (["kl is off"], 2)
        assert (tmp_path / "checkpoint-2").is_dir()
        said, steps = self.run(tmp_path, monkeypatch, resume_from_checkpoint=True)
        assert (said, steps) == (["entropy is off"], 4)

    @pytest.mark.slow
    @pytest.mark.parametrize("restores", [False, True])
    def test_what_was_said_is_kept_in_the_checkpoint_however_callbacks_are_restored(
        self, tmp_path, monkeypatch, restores
    ):
        self.run(tmp_path, monkeypatch, stop_on_collapse=True)
        said, steps = self.run(
            tmp_path, monkeypatch, resume_from_checkpoint=True, restore_callback_states_from_checkpoint=restores
        )
        assert (said, steps) == (["entropy is off"], 4)

    @pytest.mark.slow
    def test_a_second_training_says_it_again(self, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr(watches.logger, "warning", said.append)
        monkeypatch.setattr(watches, "collapse_signs", self.signs)
        subject = trainer(tmp_path, tiny.length_reward, save_steps=50, **SLOW)
        subject.train()
        subject.train()
        assert said == ["kl is off", "entropy is off"] * 2

    def test_it_stops_with_a_checkpoint_where_only_the_best_are_saved(self, tmp_path, monkeypatch):
        settings = {
            "save_strategy": "best",
            "eval_strategy": "steps",
            "eval_steps": 1,
            "metric_for_best_model": "reward",
        }
        worse = iter(range(100, 0, -1))
        monkeypatch.setattr(
            "trl_nlpo.trainer.evaluator.Evaluator.__call__",
            lambda self, *args, **kwargs: Evaluation({"reward": float(next(worse))}, []),
        )
        assert self.run(tmp_path, monkeypatch, stop_on_collapse=True, **settings) == (["kl is off"], 2)
        assert (tmp_path / "checkpoint-2").is_dir()

    def test_a_watch_can_be_taken_away(self, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr(watches.logger, "warning", said.append)
        monkeypatch.setattr(watches, "collapse_signs", self.signs)
        subject = trainer(tmp_path, tiny.length_reward, save_steps=50, **SLOW)
        subject.remove_callback(watches.CollapseWatch)
        subject.train()
        assert not said


def test_ratios_that_begin_far_from_1_are_said_once(tmp_path, caplog, monkeypatch):
    subject = trainer(tmp_path, total_episodes=24, logging_strategy="steps", logging_steps=1)
    update = subject.update_policy

    def disagreeing(rollout, estimates):
        return dataclasses.replace(update(rollout, estimates), first_ratio_deviation=0.7)

    monkeypatch.setattr(subject, "update_policy", disagreeing)
    subject.train()
    assert caplog.text.count("Importance ratios are up to 0.7 away from 1 before any learning") == 1


def test_a_run_whose_ratios_begin_at_1_and_whose_weights_move_is_told_nothing(tmp_path, caplog):
    trainer(tmp_path, total_episodes=24, logging_strategy="steps", logging_steps=1).train()
    assert "Importance ratios" not in caplog.text
    assert "No weight of the policy moved" not in caplog.text


def test_a_policy_that_does_not_move_is_said_once(tmp_path, caplog):
    # so small a step is rounded away in float32 too
    trainer(tmp_path, total_episodes=24, learning_rate=1e-30).train()
    assert caplog.text.count("No weight of the policy moved in the first update") == 1


def test_a_warm_up_is_no_standstill(tmp_path, caplog):
    trainer(tmp_path, total_episodes=24, warmup_steps=2, lr_scheduler_type="linear").train()
    assert "No weight of the policy moved" not in caplog.text
