"""ROUGE: expected F-measures worked out by hand from precision and recall."""

from __future__ import annotations

import pickle
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import rouge as rouge_module
from trl_nlpo.metrics.rouge import AllRouge, Rouge, words_of


def rouge(kind, completion, references, **options):
    return Rouge(kind, **options).score([completion], references=[references])[0]


def test_rouge1_is_the_f_measure_of_shared_words():
    # 2 of 3 words shared both ways: F = 2/3.
    assert rouge("rouge1", "a cat sat", ["the cat sat"]) == pytest.approx(2 / 3)


def test_rouge2_counts_pairs_of_words():
    # "cat sat" is 1 of 2 pairs both ways: F = 1/2.
    assert rouge("rouge2", "a cat sat", ["the cat sat"]) == pytest.approx(0.5)


def test_rouge_l_follows_the_longest_common_subsequence():
    # "police killed the gunman" against "police kill the gunman": without stems 3 of 4; Lin 2004's example.
    assert rouge("rougeL", "police kill the gunman", ["police killed the gunman"], use_stemmer=False) == pytest.approx(
        0.75
    )
    assert rouge("rougeL", "the gunman kill police", ["police killed the gunman"], use_stemmer=False) == pytest.approx(
        0.5
    )


def test_the_stemmer_is_on_unless_switched_off():
    assert rouge("rouge1", "police kill", ["police killed"]) == 1.0


def test_words_of_three_letters_keep_their_ends_as_in_the_package():
    # Porter's stem of "was" is "wa", of "runs" it is "run".
    assert rouge("rouge1", "was", ["wa"]) == 0.0
    assert rouge("rouge1", "runs", ["run"]) == 1.0


def test_rouge_lsum_takes_lines_for_sentences():
    # Both sentences are found, in the other order: the union covers everything; rougeL finds only one of two.
    completion, reference = "dogs bark\ncats purr", "cats purr\ndogs bark"
    assert rouge("rougeLsum", completion, [reference]) == 1.0
    assert rouge("rougeL", completion, [reference]) == 0.5


def test_the_best_reference_counts():
    assert rouge("rouge1", "a dog", ["the cat sat", "a dog"]) == 1.0


def test_one_string_is_one_reference():
    assert rouge("rouge1", "a dog", "a dog") == 1.0


def test_an_empty_completion_scores_nothing_and_a_row_without_references_is_left_out():
    assert rouge("rougeL", "", ["a dog"]) == 0.0
    assert rouge("rougeL", "a dog", [""]) == 0.0
    assert rouge("rougeL", "a dog", []) is None


def test_it_can_be_pickled_and_is_named_for_its_kind():
    metric = pickle.loads(pickle.dumps(Rouge("rouge2")))
    assert metric.name == "rouge2"
    assert metric.score(["a cat sat"], references=[["the cat sat"]]) == [pytest.approx(0.5)]


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch):
    rouge_module._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r'pip install "trl-nlpo\[metrics\]"'):
        Rouge("rouge1")


ASCII = st.text("abc xyz.,-'A1\n", max_size=60)
PLAIN = st.tuples(ASCII, ASCII, st.just("unicode"))
ANY = st.text("abc xyz.,-'ÄßA1猫é\n", max_size=60)


@settings(max_examples=100, deadline=None)
@given(st.one_of(PLAIN, st.tuples(ANY, ANY, st.just("rouge_score"))), st.booleans())
def test_every_kind_is_the_librarys_to_the_last_bit(texts, use_stemmer):
    prediction, reference, tokenizer = texts
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=use_stemmer)
    expected = scorer.score(reference, prediction)
    for kind, numbers in expected.items():
        got = rouge(kind, prediction, [reference], use_stemmer=use_stemmer, tokenizer=tokenizer)
        assert got == numbers.fmeasure, kind


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("кошка сидит", "кошка сидит"),
        ("η γάτα κάθεται", "η γάτα κάθεται"),
        ("القطة تجلس", "القطة تجلس"),
        ("बिल्ली बैठी है", "बिल्ली बैठी है"),
        ("猫が座る", "猫が座る"),
        ("แมวนั่ง", "แมวนั่ง"),
        ("고양이가 앉다", "고양이가 앉다"),
    ],
)
def test_every_script_has_words(text, reference):
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert rouge(kind, text, [reference]) == 1.0
    assert rouge("rouge1", text, ["nothing of it"]) == 0.0


def test_scripts_without_spaces_are_compared_letter_by_letter_with_their_marks():
    assert words_of("猫が走る。") == ["猫", "が", "走", "る"]
    # Three of four characters are shared: F = 3/4.
    assert rouge("rouge1", "猫が走る", ["犬が走る"]) == pytest.approx(0.75)
    assert words_of("นั่ง") == ["นั่", "ง"]
    assert words_of("iPhoneが2台") == ["iphone", "が", "2", "台"]


def test_umlauts_are_letters_composed_or_not():
    assert words_of("Größe über") == words_of("Gro\u0308ße u\u0308ber") == ["größe", "über"]
    # One of two words is shared; cut as the package does, "gr" and "e" are too.
    assert rouge("rouge1", "größe zählt", ["größe trügt"]) == pytest.approx(0.5)
    assert rouge("rouge1", "größe zählt", ["grobe größe"], tokenizer="rouge_score") != 0.5


def test_the_stemmer_leaves_words_of_other_alphabets_alone():
    assert rouge("rouge1", "größes", ["größe"]) == 0.0


def test_one_line_texts_have_sentences_where_that_is_asked_for():
    completion, reference = "Dogs bark. Cats purr.", "Cats purr. Dogs bark."
    assert rouge("rougeLsum", completion, [reference], split_sentences=True) == 1.0
    assert rouge("rougeLsum", completion, [reference]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("rouge1", {"tokenizer": "rouge_scor"}, "unknown tokenizer 'rouge_scor', did you mean 'rouge_score'?"),
        ("rouge1", {"split_sentences": True}, "split_sentences has no effect: it is for rougeLsum"),
        ("rougeLsum", {"split_sentences": "yes"}, "split_sentences"),
    ],
)
def test_an_option_without_effect_or_meaning_is_one_line(kind, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Rouge(kind, **options)


def test_ten_thousand_words_are_compared_too():
    words = " ".join(f"word{n % 977}" for n in range(10_000))
    assert rouge("rougeL", words, [words]) == 1.0
    assert rouge("rougeLsum", words, [words]) == 1.0


def test_all_kinds_come_together_for_tables():
    numbers = AllRouge().compute(["a cat sat", "a dog"], references=[["the cat sat"], ["a dog"]])
    # means over the rows: (2/3 + 1) / 2, (1/2 + 1) / 2, (2/3 + 1) / 2
    assert numbers == {
        "rouge1": pytest.approx(5 / 6),
        "rouge2": pytest.approx(0.75),
        "rougeL": pytest.approx(5 / 6),
        "rougeLsum": pytest.approx(5 / 6),
    }


def test_rows_without_references_are_left_out_of_the_mean_and_a_table_needs_one():
    assert Rouge("rouge1").compute(["a dog", "x"], references=[["a dog"], []]) == {"rouge1": 1.0}
    with pytest.raises(UserError, match="'rouge1' applies to no row: references are empty"):
        Rouge("rouge1").compute(["a dog"], references=[[]])
