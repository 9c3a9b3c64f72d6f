"""The paired bootstrap."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo.errors import UserError
from trl_nlpo.grid.significance import paired_bootstrap


def test_the_interval_is_about_that_of_the_normal_approximation():
    # Mean 0.5 and standard error 1 / sqrt(400) of ones and zeros: 0.5 +- 1.96 * 0.5 / 20.
    found = paired_bootstrap([1.0, 0.0] * 200, [0.0] * 400)
    assert found.difference == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.004)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.004)
    assert found.p_value < 0.001
    assert found.num_prompts == 400


def test_the_p_value_is_about_that_of_a_z_test_on_a_hundred_prompts():
    first = [math.sin(n) for n in range(100)]
    second = [math.cos(3 * n) - 0.1 for n in range(100)]
    found = paired_bootstrap(first, second)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    z = statistics.fmean(differences) / (statistics.stdev(differences) / 10)
    assert 0.05 < found.p_value < 0.5
    assert found.p_value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.03)


def test_the_pairs_count_and_not_the_spread_of_each_system():
    # Prompts differ by far more than systems do, always in the same direction.
    hard = [10.0 * n for n in range(50)]
    found = paired_bootstrap([score + 0.1 + 0.01 * (n % 2) for n, score in enumerate(hard)], hard)
    assert found.p_value < 0.001
    assert found.low > 0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30))
def test_a_system_is_no_better_than_itself_and_the_difference_changes_sign_with_the_order(scores):
    same = paired_bootstrap(scores, scores, num_resamples=50)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    shifted = [score / 2 for score in scores]
    forth, back = (paired_bootstrap(*pair, num_resamples=200) for pair in ((scores, shifted), (shifted, scores)))
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.p_value == back.p_value


def test_other_prompts_are_refused():
    with pytest.raises(UserError, match="2 and 1 scores"):
        paired_bootstrap([1.0, 2.0], [1.0])
    with pytest.raises(UserError, match="0 and 0 scores"):
        paired_bootstrap([], [])
