"""Which numbers people see, and how they are written."""

from __future__ import annotations

import math
import time

import pytest

from trl_nlpo.progress.numbers import RunProgress, evaluations, numeric, short, shown_numbers


UPDATE = {
    "reward": 0.53219, "objective/kl": 1.25, "nlpo/kl_coef": 0.05, "policy/clipfrac_avg": 0.0413,
    "policy/entropy_avg": 2.5, "perplexity": 12.345, "nlpo/mask_size": 21.19, "nlpo/mask_mass": 0.9086,
    "nlpo/mask_age": 3.0, "grad_norm": 24.5, "eps": 24, "episode": 8,
}  # fmt: skip


def test_of_an_update_the_main_numbers_are_shown_and_no_others():
    progress = RunProgress("nlpo", logs=UPDATE, kl_target=6.0, has_mask=True, tokens_per_second=1234.5)
    assert shown_numbers(progress) == {
        "reward": "0.532",
        "KL": "1.25 (target 6)",
        "kl_coef": "0.050",
        "clipped": "4.1 %",
        "entropy": "2.50",
        "perplexity": "12.3",
        "mask": "21.2 tokens, mass 0.909, age 3",
        "speed": "1,234 tokens/s",
    }


def test_without_a_target_or_a_mask_neither_is_spoken_of():
    shown = shown_numbers(RunProgress("ppo", logs=UPDATE))
    assert shown["KL"] == "1.25"
    assert "mask" not in shown
    assert "speed" not in shown


def test_of_a_supervised_step_the_loss_is_shown():
    logs = numeric({"loss": "1.5", "learning_rate": "2e-05", "note": "text", "nothing": None})
    assert shown_numbers(RunProgress("supervised", logs=logs)) == {"loss": "1.50", "learning rate": "2e-05"}


def test_evaluations_are_found_by_their_data_set():
    logs = {
        "eval_reward": 0.75, "eval_reward_std": 0.1, "eval_perplexity": 3.0, "eval_near_by_reward": 0.5,
        "eval_rewards/length_reward": 1.0, "reward": 9.0, "epoch": 1.0,
    }  # fmt: skip
    assert evaluations(logs) == {"": "reward 0.750, perplexity 3.00", "near_by": "reward 0.500"}
    assert evaluations(UPDATE) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.nan, "-"), (math.inf, "inf"), (-0.5, "-0.500"), (99.95, "100.0"), (1234.5, "1,234"), (0.0004, "4.0e-04")],
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_the_time_left_is_that_of_the_steps_of_this_process():
    progress = RunProgress("nlpo", step=30, total=60, first=20, started=time.monotonic() - 100)
    assert progress.seconds_left == pytest.approx(300, rel=0.05)
    assert RunProgress("nlpo", step=20, total=60, first=20).seconds_left is None
