"""`concept_coverage`: expected values counted by hand."""

from __future__ import annotations

import sys

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import concepts
from trl_nlpo.metrics.concepts import ConceptCoverage, base_forms


def coverage(completion, concepts, **options):
    return ConceptCoverage(**options).score([completion], concepts=[concepts])[0]


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("dogs", "dog"),
        ("boxes", "box"),
        ("carries", "carry"),
        ("danced", "dance"),
        ("played", "play"),
        ("carried", "carry"),
        ("stopped", "stop"),
        ("running", "run"),
        ("dancing", "dance"),
        ("going", "go"),
        ("wheel", "wheel"),
    ],
)
def test_a_regular_inflection_has_its_base_among_its_forms(word, base):
    assert base in base_forms(word)


@pytest.mark.parametrize(
    ("word", "no_base"), [("ran", "run"), ("thing", "th"), ("sing", "s"), ("red", "r"), ("bus", "b")]
)
def test_irregular_forms_and_bare_consonants_are_no_bases(word, no_base):
    assert no_base not in base_forms(word)


def test_the_share_of_concepts_found_is_the_score():
    assert coverage("Two dogs stopped.", ["dog", "stop", "ball"]) == pytest.approx(2 / 3)
    assert coverage("A man rides, throwing the ball.", ["ride", "throw", "ball"]) == 1.0
    assert coverage("Nothing of it.", ["dog"]) == 0.0


def test_saying_a_concept_twice_pays_nothing():
    assert coverage("dog dog dog dogs", ["dog", "ball"]) == 0.5
    assert coverage("the dog", ["dog", "dog"]) == 1.0


def test_case_and_punctuation_do_not_matter_but_word_boundaries_do():
    assert coverage("DOG!", ["Dog"]) == 1.0
    assert coverage("a hotdog", ["dog"]) == 0.0


def test_a_concept_of_two_words_must_stand_in_a_row():
    assert coverage("she eats ice creams", ["ice cream"]) == 1.0
    assert coverage("cream on the ice", ["ice_cream"]) == 0.0


def test_an_empty_completion_covers_nothing_and_a_row_without_concepts_is_left_out():
    assert coverage("", ["dog"]) == 0.0
    assert coverage("a dog", []) is None
    assert coverage("a dog", None) is None


def test_inflections_can_be_switched_off():
    assert coverage("dogs", ["dog"], inflections=False) == 0.0


def test_another_column_can_hold_the_concepts_as_a_list_or_one_text():
    metric = ConceptCoverage(column="keywords")
    assert metric.columns == ("keywords",)
    assert metric.score(["A dog.", "A cat."], keywords=[["dog"], "dog"]) == [1.0, 0.0]


def test_irregular_forms_are_found_by_their_lemmas():
    text, wanted = "Mice ran while men held cheese", ["mouse", "run", "man", "hold", "cheese"]
    assert coverage(text, wanted) == pytest.approx(1 / 5)
    assert coverage(text, wanted, lemmas=True) == 1.0
    assert coverage("dancing dogs", ["dance", "dog"], lemmas=True, inflections=False) == 1.0


def test_lemmas_without_their_package_say_what_to_install(monkeypatch):
    concepts._lemma.cache_clear()
    monkeypatch.setitem(sys.modules, "simplemma", None)
    with pytest.raises(UserError, match=r'simplemma: install it with `pip install "trl-nlpo\[metrics\]"`'):
        ConceptCoverage(lemmas=True)
    assert coverage("dogs", ["dog"]) == 1.0
