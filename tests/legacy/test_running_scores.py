"""Scores scaled by all that were seen."""

from __future__ import annotations

import pytest
import torch

from trl_nlpo.legacy.running_scores import RunningScores


def test_the_statistics_are_those_of_all_scores_together():
    parts = [torch.tensor([1.0, 2.0, 4.0]), torch.tensor([10.0, -3.0]), torch.tensor([0.5])]
    running = RunningScores()
    for index in range(3):
        seen = torch.cat(parts[: index + 1])
        scaled = running.scaled(parts[index], shifts=True)
        assert scaled.tolist() == pytest.approx(((parts[index] - seen.mean()) / seen.std()).tolist())


def test_scores_that_are_all_alike_are_left_in_their_unit():
    assert RunningScores().scaled(torch.tensor([2.0, 2.0]), shifts=False).tolist() == [2.0, 2.0]
