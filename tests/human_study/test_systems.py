"""Which system people like better: published examples, and what must hold."""

from __future__ import annotations

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.human_study.judgements import Choice, Rating
from trl_nlpo.human_study.systems import analysis_of_variance, bradley_terry, means, tukey


def ratings(**systems):
    return [
        Rating(f"{system}{index}", str(index), "ann", system, "quality", value)
        for system, values in systems.items()
        for index, value in enumerate(values)
    ]


# The example of scipy's documentation of Tukey's test, with the p-values that it prints.
EXAMPLE = ratings(a=[24.5, 23.5, 26.4, 27.1, 29.9], b=[28.4, 34.2, 29.5, 32.2, 30.1], c=[26.1, 28.3, 24.3, 26.2, 27.8])


def test_tukeys_test_is_that_of_the_published_example():
    found = {(row.first, row.second): row for row in tukey(EXAMPLE)}
    assert found["a", "b"].p_value == pytest.approx(0.014, abs=0.001)
    assert found["a", "c"].p_value == pytest.approx(0.980, abs=0.001)
    assert found["b", "c"].p_value == pytest.approx(0.020, abs=0.001)
    assert found["a", "b"].value == pytest.approx(-4.6)


def test_the_analysis_of_variance_by_hand():
    # Between: 4 x 1^2 over 1 degree of freedom; within: 4 x 0.5^2 over 2.
    found = analysis_of_variance(ratings(a=[0.5, 1.5], b=[2.5, 3.5]))
    assert (found.f, found.between, found.within) == (pytest.approx(8.0), 1, 2)


def test_people_are_averaged_before_completions_are_compared():
    twice = [*ratings(a=[1.0, 3.0]), Rating("a0", "0", "bob", "a", "quality", 3.0)]
    assert means(twice)["a"].value == pytest.approx((2.0 + 3.0) / 2)
    assert means(twice)["a"].num_items == 2


def test_repeats_and_gold_are_not_the_systems():
    more = [
        Rating("a0", "0", "ann", "a", "quality", 5.0, is_repeat=True),
        Rating("gold", "9", "ann", "a", "quality", 5.0, gold=1.0),
    ]
    assert means([*ratings(a=[1.0, 3.0]), *more])["a"].value == 2.0


@pytest.mark.parametrize("given", [ratings(a=[1.0, 2.0]), ratings(a=[1.0], b=[2.0]), ratings(a=[1, 1], b=[2, 2])])
def test_where_there_is_nothing_to_test_nothing_is_said(given):
    assert analysis_of_variance(given) is None
    assert tukey(given) == []


# Seven baseball teams (Agresti 2002, table 10.10): wins of the row over the column.
TEAMS = ["Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"]
WINS = [
    [0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12], [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0],
]  # fmt: skip
GAMES = [
    Choice(f"{winner} {loser} {game}", "", "ann", (TEAMS[winner], TEAMS[loser]), 0)
    for winner, row in enumerate(WINS)
    for loser, number in enumerate(row)
    for game in range(number)
]


def test_strengths_are_those_of_the_published_example():
    found = bradley_terry(GAMES, reference="Baltimore")
    published = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0]
    assert [found[team].value for team in TEAMS] == pytest.approx(published, abs=0.001)
    assert list(found) == TEAMS
    # Its standard error is published as 0.343.
    assert (found["Milwaukee"].high - found["Milwaukee"].low) / 2 / 1.96 == pytest.approx(0.343, abs=0.001)
    assert found["Milwaukee"].win_rate == pytest.approx(50 / 78)


def test_a_choice_among_three_is_two_comparisons_and_a_tie_half_a_win_each():
    choices = [
        Choice("1", "1", "ann", ("a", "b", "c"), 0),
        Choice("2", "2", "ann", ("a", "b", "c"), 1),
        Choice("3", "3", "ann", ("a", "b", "c"), 2),
        Choice("4", "4", "ann", ("a", "b"), None),
    ]
    found = bradley_terry(choices)
    assert [strength.value for strength in found.values()] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert found["a"].num_comparisons == 5
    assert found["a"].win_rate == 0.5


@pytest.mark.parametrize(
    ("choices", "reference", "message"),
    [
        ([Choice("1", "1", "ann", ("a", "b"), 0)], None, "b never won against a"),
        ([Choice("1", "1", "ann", ("a", "a"), 0)], None, "two of them or more"),
        (GAMES, "Chicago", "there is no system 'Chicago'"),
    ],
)
def test_what_no_strength_explains_is_refused(choices, reference, message):
    with pytest.raises(UserError, match=message):
        bradley_terry(choices, reference)
