"""Agreement beyond chance: the published examples of each coefficient."""

from __future__ import annotations

import math

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.human_study.agreement import (
    alpha_interval,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    values_by_item,
)
from trl_nlpo.human_study.judgements import Rating


# Krippendorff 2011, "Computing Krippendorff's alpha-reliability": four observers, twelve units.
_ = None
OBSERVERS = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    "C": [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
}
UNITS = {unit: {name: row[unit] for name, row in OBSERVERS.items() if row[unit] is not None} for unit in range(12)}


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_that_of_its_authors_example(level, published):
    assert krippendorff_alpha(UNITS, level) == pytest.approx(published, abs=0.0006)


def test_alpha_takes_words_for_categories():
    words = {unit: {name: f"word{value}" for name, value in row.items()} for unit, row in UNITS.items()}
    assert krippendorff_alpha(words, "nominal") == pytest.approx(0.743, abs=0.0006)


def test_the_interval_of_alpha_holds_it():
    low, high = alpha_interval(UNITS, "nominal", 200)
    assert low < 0.743 < high


@pytest.mark.parametrize("values", [{}, {1: {"A": 1}, 2: {"B": 2}}, {1: {"A": 1, "B": 1}, 2: {"A": 1, "B": 1}}])
def test_where_nothing_can_agree_alpha_is_not_a_number(values):
    assert math.isnan(krippendorff_alpha(values, "nominal"))


def test_a_level_that_is_not_known_is_refused():
    with pytest.raises(UserError, match="level is 'ratio'"):
        krippendorff_alpha(UNITS, "ratio")


def test_fleiss_kappa_is_that_of_the_published_example():
    # Ten subjects, fourteen raters, five categories: 0.210.
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    said = [[value for value, count in enumerate(row) for _ in range(count)] for row in counts]
    values = {item: {str(rater): value for rater, value in enumerate(row)} for item, row in enumerate(said)}
    assert fleiss_kappa(values) == pytest.approx(0.210, abs=0.0005)


def test_cohen_kappa_by_hand():
    # Of 50, both say yes to 20 and no to 15; by chance they would agree on half: (0.7 - 0.5) / 0.5.
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    values = {item: {"ann": first, "bob": second} for item, (first, second) in enumerate(pairs)}
    assert cohen_kappa(values, "ann", "bob") == pytest.approx(0.4)
    assert math.isnan(cohen_kappa(values, "ann", "eve"))


def test_gold_and_repeats_are_no_agreement_and_systems_are_told_apart():
    ratings = [
        Rating("0", "0", "ann", "a", "quality", 1.0),
        Rating("0", "0", "ann", "b", "quality", 5.0),
        Rating("0", "0", "ann", "a", "quality", 2.0, is_repeat=True),
        Rating("gold", "9", "ann", "x", "quality", 5.0, gold=5.0),
    ]
    assert values_by_item(ratings, lambda rating: rating.value) == {("0", "a"): {"ann": 1.0}, ("0", "b"): {"ann": 5.0}}
