"""METEOR: what `nltk` does not do for us; its numbers are among the known answers."""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import nltk
import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric, meteor, words


def kid_is_child(word):
    return frozenset(["kid", "child"] if word in ("kid", "child") else [word])


@pytest.fixture
def tiny_wordnet(monkeypatch):
    monkeypatch.setattr(meteor, "_check_wordnet", lambda: None)
    monkeypatch.setattr(meteor, "_synonyms", kid_is_child)


def test_synonyms_match_unless_switched_off(tiny_wordnet):
    # Three matches in one chunk: 1 - 0.5 / 27. Without the synonym 2 of 3 in two chunks: 2/3 x (1 - 0.5).
    texts = {"predictions": ["a kid runs"], "references": [["a child runs"]]}
    assert get_metric("meteor").score(**texts) == [pytest.approx(1 - 0.5 / 27)]
    assert get_metric("meteor", synonyms=False).score(**texts) == [pytest.approx(1 / 3)]


def test_references_are_a_list_of_texts_and_the_best_counts():
    metric = get_metric("meteor", synonyms=False)
    both = metric.score(["a dog barks"], references=[["no match", "a dog barks"]])
    assert both == metric.score(["a dog barks"], references=["a dog barks"]) == [pytest.approx(1 - 0.5 / 27)]


def test_punctuation_is_cut_from_words():
    assert get_metric("meteor", synonyms=False).score(["A dog."], references=["a dog ."]) == [
        pytest.approx(1 - 0.5 / 27)
    ]


def test_without_wordnet_one_line_says_how_to_get_it_or_do_without(monkeypatch):
    def missing():
        raise LookupError("\n****\n  Resource 'wordnet' not found.\n")

    monkeypatch.setattr(nltk.corpus, "wordnet", SimpleNamespace(ensure_loaded=missing))
    with pytest.raises(UserError, match=r"'wordnet' not found.*wordnet-base.*NLTK_DATA.*`synonyms: false`") as caught:
        get_metric("meteor")
    assert "\n" not in str(caught.value)


def test_it_can_be_pickled_and_says_what_to_install(monkeypatch):
    metric = pickle.loads(pickle.dumps(get_metric("meteor", synonyms=False)))
    assert metric.score(["a"], references=[[]]) == [None]
    words._tokenizer.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    with pytest.raises(UserError, match=r'pip install "trl-nlpo\[metrics\]"'):
        get_metric("meteor", synonyms=False)
