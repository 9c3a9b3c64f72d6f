"""How reliable a reward model is on held-out choices."""

from __future__ import annotations

import math

import pytest

from trl_nlpo.reward_training.reliability import advice, reliability


def test_accuracy_and_log_loss_by_hand():
    # P(chosen) is 2/3 in the first, 1/4 in the second, whose favourite (3/4) was not chosen.
    rewards = [[math.log(2), 0.0], [0.0, math.log(3)]]
    result = reliability(rewards, [0, 0], [0, 1])
    assert result.accuracy == 0.5
    assert result.chance == 0.5
    assert result.log_loss == pytest.approx((math.log(3 / 2) + math.log(4)) / 2)
    assert result.log_loss_of_chance == pytest.approx(math.log(2))
    # Bins 0.6 to 0.7 (right) and 0.7 to 0.8 (wrong).
    assert result.calibration_error == pytest.approx((abs(1 - 2 / 3) + abs(0 - 3 / 4)) / 2)


def test_of_equal_rewards_each_counts_its_share():
    assert reliability([[1.0, 1.0, 0.0]], [0], [0]).accuracy == 0.5


def test_five_right_answers_of_five_are_no_certainty():
    result = reliability([[1.0, 0.0]] * 5, [0] * 5, range(5))
    # Wilson's interval of n right ones begins at n / (n + z^2).
    assert result.accuracy_interval == (pytest.approx(5 / (5 + 1.959964**2)), 1.0)
    assert "may know nothing yet" in advice(reliability([[1.0, 0.0]] * 3, [0] * 3, range(3)).accuracy_interval, 0.5)


def test_choices_of_one_row_are_resampled_together():
    rewards, choices = [[1.0, 0.0]] * 8, [0, 0, 0, 0, 1, 1, 1, 1]
    apart = reliability(rewards, choices, range(8)).accuracy_interval
    together = reliability(rewards, choices, [0] * 4 + [1] * 4).accuracy_interval
    assert together == (0.0, 1.0)
    assert apart[1] - apart[0] < 1.0


def test_a_model_that_may_know_nothing_is_said_to():
    assert "may know nothing yet" in advice((0.2, 0.4), 0.25)
    assert advice((0.3, 0.4), 0.25) == ""


def test_chance_is_one_in_k():
    result = reliability([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0]], [0, 0], [0, 1])
    assert result.chance == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert result.log_loss_of_chance == pytest.approx((math.log(4) + math.log(2)) / 2)
