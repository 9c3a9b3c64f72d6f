"""The record of a run: what it counts, what a checkpoint keeps of it, and what a second run starts with."""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from trl_nlpo.records import UpdateStats
from trl_nlpo.trainer.run_state import Run


def stats(loss=1.0, taken=2, skipped=0):
    return UpdateStats(taken, loss, *[0.0] * 9, num_skipped_steps=skipped, skipped_steps_in_a_row=skipped)


def test_the_mean_loss_is_over_updates_with_a_step():
    run = Run()
    assert run.mean_policy_loss == 0.0
    for update in (stats(1.0), stats(2.0), stats(float("nan"), taken=0, skipped=2)):
        run.count(update)
    assert run.mean_policy_loss == 1.5


def test_skipped_steps_are_counted_in_a_row():
    run = Run()
    run.count(stats(taken=0, skipped=2))
    run.count(stats(taken=0, skipped=3))
    assert run.skipped_steps_in_a_row == 5
    run.count(stats(taken=2, skipped=1))
    assert run.skipped_steps_in_a_row == 1


def test_a_second_run_counts_anew_but_keeps_the_kl_coefficient_and_the_rollouts_drawn():
    run = Run(0.3, [{"reward": 1.0}], 2.0, 3, 4, ["should_log"], True, num_updates=5, rollouts_since_update=2)
    run.note_checkpoint(Path("checkpoint-5"), 5)
    run.begin()
    assert run == Run(kl_coef=0.3, rollouts_since_update=2)


def test_a_checkpoint_keeps_what_a_resumed_run_cannot_know_and_nothing_else():
    run = Run(0.3, num_updates=5, mask_age=3, learning_rate=0.1)
    assert set(run.saved()) == {
        "kl_coef", "pending_logs", "policy_loss_sum", "num_losses", "skipped_steps_in_a_row", "unfinished_events",
        "in_update", "reward_moments",
    }  # fmt: skip
    other = Run(num_updates=7)
    other.restore(run.saved())
    assert (other.kl_coef, other.num_updates) == (0.3, 7)
    assert len(fields(Run)) > len(run.saved())


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: float(torch.rand(()))])
def test_random_numbers_come_again_from_where_they_were_noted(draw):
    run = Run()
    run.note_random_state()
    first = draw()
    run.restore_random_state()
    assert draw() == first
