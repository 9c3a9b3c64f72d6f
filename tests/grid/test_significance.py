"""Paired bootstraps over prompts, and exact tests over runs."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo.errors import UserError
from trl_nlpo.grid.significance import (
    interquartile_mean,
    interval_of_interquartile_mean,
    interval_of_mean,
    paired_bootstrap,
    paired_bootstraps,
    sign_flip_tests,
)


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


def a_family(number, rng, effect=0.0):
    """Independent comparisons of 60 prompts, the first of which differs by `effect` standard deviations."""
    pairs = []
    for index in range(number):
        noise = [rng.gauss(0, 1) for _ in range(60)]
        pairs.append(([value + (effect if index == 0 else 0.0) for value in noise], [0.0] * 60))
    return pairs


def test_a_family_finds_a_difference_where_there_is_none_in_a_twentieth_of_experiments_not_in_most():
    rng, found, uncorrected = random.Random(0), 0, 0
    for _ in range(60):
        family = paired_bootstraps(a_family(20, rng), num_resamples=400)
        found += any(one.p_adjusted < 0.05 for one in family)
        uncorrected += any(one.p_value < 0.05 for one in family)
    # Of twenty true hypotheses one is rejected at least with 1 - 0.95^20 = 64 % where nothing is corrected.
    assert found <= 9
    assert uncorrected >= 30


def test_a_large_difference_survives_the_correction_and_its_interval_leaves_out_zero():
    first, *others = paired_bootstraps(a_family(20, random.Random(1), effect=1.0))
    assert first.p_adjusted < 0.001
    assert first.low > 0
    assert first.p_value <= first.p_adjusted
    assert all(one.low < 0 < one.high for one in others)


def test_comparisons_that_go_together_cost_less_than_independent_ones():
    # Mean 0.3 and standard error 1 / sqrt(60) of 1.3 and -0.7: 2.3 standard errors.
    one = ([1.3, -0.7] * 30, [0.0] * 60)
    same, apart = paired_bootstraps([one] * 20), paired_bootstraps([one, *a_family(19, random.Random(2))])
    # Twenty times the same comparison is one comparison: nothing is to be corrected.
    assert same[0].p_adjusted == pytest.approx(same[0].p_value, abs=0.002)
    assert 0.005 < apart[0].p_value < 0.05
    assert apart[0].p_adjusted > 5 * apart[0].p_value


def test_a_prompt_without_a_score_counts_in_no_comparison_but_its_own():
    whole = ([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.5])
    gaps = ([1.0, None, 3.0, 4.0], [0.0, 1.0, None, 3.5])
    first, second = paired_bootstraps([whole, gaps])
    assert (first.num_prompts, second.num_prompts) == (4, 2)
    assert (first.difference, second.difference) == (0.875, 0.75)


def test_systems_that_never_differ_and_those_that_always_do_by_as_much_need_no_luck():
    same, always = paired_bootstraps([([1.0, 2.0], [1.0, 2.0]), ([1.5, 2.5], [1.0, 2.0])], num_resamples=99)
    assert (same.low, same.high, same.p_adjusted) == (0.0, 0.0, 1.0)
    assert (always.low, always.high, always.p_adjusted) == (0.5, 0.5, 0.01)


def test_the_interval_of_a_mean_is_about_that_of_the_normal_approximation():
    low, high = interval_of_mean([1.0, 0.0] * 200)
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
    assert interval_of_mean([0.5, None, 0.5]) == (0.5, 0.5)


def test_the_interquartile_mean_cuts_a_quarter_off_at_either_end():
    assert interquartile_mean([100.0, 2.0, 3.0, -50.0]) == 2.5
    assert interquartile_mean([5.0]) == 5.0
    # Six scores: one and a half are cut off at either end, half of 1 and of 4 stays
    assert interquartile_mean([0.0, 1.0, 2.0, 3.0, 4.0, 9.0]) == pytest.approx((0.5 + 2.0 + 3.0 + 2.0) / 3)


def test_its_interval_holds_it_and_knows_the_groups():
    rng = random.Random(0)
    groups = [[rng.gauss(mean, 0.1) for _ in range(20)] for mean in (0.0, 1.0)]
    low, high = interval_of_interquartile_mean(groups)
    whole = interquartile_mean([score for group in groups for score in group])
    assert low < whole < high
    assert interval_of_interquartile_mean([[0.5] * 4, [0.5] * 3]) == (0.5, 0.5)


def test_the_sign_flip_test_counts_the_choices_that_are_as_far_out():
    up, down, mixed = sign_flip_tests([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [1.0, -2.0, 3.0]])
    # Only all signs as they are, and all turned over.
    assert up.p_value == down.p_value == pytest.approx(2 / 8)
    # |1 - 2 + 3| = 2 or more: all but the two with |1 + 2 - 3| = 0.
    assert mixed.p_value == pytest.approx(6 / 8)
    assert [found.above for found in (up, down, mixed)] == [3, 0, 2]
    assert [found.difference for found in (up, down)] == [2.0, -2.0]


def test_a_sign_flip_test_is_corrected_for_the_most_extreme_of_its_family():
    alone = sign_flip_tests([[1.0, 2.0, 3.0, 4.0]])[0]
    assert alone.p_adjusted == alone.p_value == pytest.approx(2 / 16)
    # Of equal lengths, so that the standardized means are the sums: 10, and of the others 8 (one sign) or 6 (another).
    rows = [[1.0, 2.0, 3.0, 4.0], [-1.0, 2.0, 3.0, 4.0], [1.0, -2.0, 3.0, 4.0]]
    found = sign_flip_tests(rows)
    assert [f.p_value for f in found] == pytest.approx([2 / 16, 4 / 16, 6 / 16])
    # Each row is some choice's most extreme one: of 16 choices 6 make one of the three sums 10 or -10.
    assert [f.p_adjusted for f in found] == pytest.approx([6 / 16, 8 / 16, 10 / 16], abs=2.1 / 16)
    assert all(f.p_adjusted >= f.p_value for f in found)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=9), st.floats(0.01, 1))
def test_the_limits_are_the_differences_that_the_sign_flip_test_does_not_reject(values, beyond):
    found = sign_flip_tests([values])[0]
    assert found.low <= found.difference + 1e-12
    assert found.difference <= found.high + 1e-12

    def p_of(difference):
        return sign_flip_tests([[value - difference for value in values]])[0].p_value

    assert p_of(found.low - beyond) <= 0.05
    assert p_of(found.high + beyond) <= 0.05
    assert p_of((found.low + found.high) / 2) > 0.05


def test_five_runs_have_no_limits_and_six_do():
    five, six = (sign_flip_tests([[1.0 + 0.1 * n for n in range(runs)]])[0] for runs in (5, 6))
    assert (five.low, five.high) == (-math.inf, math.inf)
    assert (six.low, six.high) == (1.0, 1.5)


def test_of_many_runs_the_choices_are_drawn():
    values = [math.sin(n) + 0.3 for n in range(16)]
    exact = sign_flip_tests([values])[0]
    drawn = sign_flip_tests([[*values, exact.difference]])[0]
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.05)
    assert drawn.low == pytest.approx(exact.low, abs=0.1)


@pytest.mark.parametrize("differences", [[], [[]], [[1.0], [1.0, 2.0]]])
def test_a_sign_flip_test_needs_the_same_runs(differences):
    with pytest.raises(UserError, match="the same runs"):
        sign_flip_tests(differences)


def test_no_difference_at_all_is_no_competitor():
    none, some = sign_flip_tests([[0.0] * 6, [1.0] * 6])
    assert none.p_value == none.p_adjusted == 1.0
    assert some.p_adjusted == pytest.approx(2 / 64)
