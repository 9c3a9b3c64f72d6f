"""METEOR: what `nltk` does not do for us; its numbers are among the known answers."""

from __future__ import annotations

import os
import pickle
import random
import sys
from types import SimpleNamespace

import nltk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.corpus import wordnet
from nltk.translate.meteor_score import single_meteor_score

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


WORDS = "run runs running ran cat cats catty happy happily kid child children the a of".split()  # noqa: SIM905
SYNONYMS = {"kid": ("child", "youngster"), "child": ("kid", "small_fry"), "run": ("go",), "cat": ("catti",)}


class FewSynonyms:
    """WordNet as `nltk` asks it."""

    @staticmethod
    def synsets(word):
        lemmas = [SimpleNamespace(name=lambda lemma=lemma: lemma) for lemma in SYNONYMS.get(word, ())]
        return [SimpleNamespace(lemmas=lambda: lemmas)]


def expected_of(text, reference, source, **options):
    return single_meteor_score(reference, text, preprocess=lambda words: words, wordnet=source, **options)


@pytest.mark.parametrize("has_synonyms", [True, False])
@given(texts=st.tuples(*[st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(tuple)] * 2))
def test_scores_are_those_of_nltk_to_the_last_bit(has_synonyms, texts):
    source = FewSynonyms if has_synonyms else SimpleNamespace(synsets=lambda word: [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "_check_wordnet", lambda: None)
        patch.setattr(nltk.corpus, "wordnet", FewSynonyms)
        meteor._synonyms.cache_clear()
        metric = get_metric("meteor", synonyms=has_synonyms)
        assert metric._against(*texts) == expected_of(*texts, source)
    meteor._synonyms.cache_clear()


def test_alpha_beta_and_gamma_are_nltks():
    options = {"alpha": 0.5, "beta": 1.0, "gamma": 0.25}
    metric = get_metric("meteor", synonyms=False, **options)
    text, reference = ("the", "cats", "ran", "happily"), ("a", "cat", "ran", "the", "happy", "kid")
    source = SimpleNamespace(synsets=lambda word: [])
    assert metric._against(text, reference) == expected_of(text, reference, source, **options)


@pytest.mark.skipif("NLTK_DATA" not in os.environ, reason="NLTK_DATA names no folder with WordNet")
def test_scores_are_those_of_nltk_with_the_real_wordnet():
    wordnet.ensure_loaded()
    vocabulary = "child kid youngster car auto automobile machine big large great dog hound walked walking stroll"
    vocabulary += " house home dwelling film movie picture quick fast rapid begin start happy glad the a of and ."
    draw = random.Random(0)
    metric = get_metric("meteor")
    for _ in range(300):
        text, reference = (tuple(draw.choices(vocabulary.split(), k=draw.randint(1, 30))) for _ in range(2))
        assert metric._against(text, reference) == expected_of(text, reference, wordnet)


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
