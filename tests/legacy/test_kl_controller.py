"""The coefficient of the KL."""

from __future__ import annotations

import pytest

from trl_nlpo.legacy.kl_controller import KLController


def test_it_moves_by_the_clipped_error_times_completions_over_the_horizon():
    controller = KLController(0.2, 6.0, 10_000)
    controller.update(100.0, 128)
    assert controller.value == pytest.approx(0.2 * (1 + 0.2 * 128 / 10_000))
    controller.update(5.7, 128)
    assert controller.value == pytest.approx(0.2 * (1 + 0.2 * 128 / 10_000) * (1 - 0.05 * 128 / 10_000))


def test_without_a_target_it_stays():
    controller = KLController(0.2, None, 10_000)
    controller.update(100.0, 128)
    assert controller.value == 0.2
