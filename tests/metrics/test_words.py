"""Words of a text, as METEOR, CIDEr and the metrics of naturalness read them: one way for all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer

from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.sentences import sentences
from trl_nlpo.metrics.words import treebank_words


def test_words_are_the_treebanks_in_lower_case_with_marks_apart():
    assert treebank_words("A dog's ball. Don't go!") == ("a", "dog", "'s", "ball", ".", "do", "n't", "go", "!")


def test_a_full_stop_is_parted_from_its_word_in_every_sentence_but_not_from_an_abbreviation():
    assert treebank_words("It ran. Mr. Fox ran.") == ("it", "ran", ".", "mr.", "fox", "ran", ".")


def test_no_words_are_none():
    assert treebank_words(" \n") == ()


PIECES = [
    "Dogs", "it's", "can't", "he", "$3.50", "U.S.", "Mr.", "a", "..", "...", ".", "!", "?", ",", ":", '"', "'", ")",
    "(", "“", "”", "''", "--", "gimme", "'tis", "ran.", "Who?", "The",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.booleans())))
def test_all_sentences_at_once_are_cut_as_each_for_itself(pieces):
    text = "".join(piece + " " * is_spaced for piece, is_spaced in pieces)
    split = NLTKWordTokenizer().tokenize
    expected = tuple(word.lower() for sentence in sentences(text) for word in split(sentence))
    assert treebank_words(text) == expected


ONE_TEXT, ITS_LINES = "The cat sat. The dog ran. The bird flew.", "The cat sat .\nThe dog ran .\nThe bird flew ."


@pytest.mark.parametrize(("name", "options"), [("meteor", {"synonyms": False}), ("cider", {})])
@pytest.mark.filterwarnings("ignore:metric 'cider'")
def test_a_full_stop_within_a_text_costs_nothing_in_any_metric(name, options):
    metric = get_metric(name, **options)
    within, apart = (metric.score([text], references=[[ITS_LINES]]) for text in (ONE_TEXT, ITS_LINES))
    assert within == apart
    assert within[0] > 0.99


@pytest.mark.parametrize("name", ["distinct1", "distinct2", "entropy1", "unique1", "mean_length"])
def test_naturalness_counts_the_same_words(name):
    metric = get_metric(name)
    assert metric.score([ONE_TEXT]) == metric.score([ITS_LINES])
