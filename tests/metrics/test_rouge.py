"""ROUGE: expected F-measures worked out by hand from precision and recall."""

from __future__ import annotations

import pickle
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import rouge as rouge_module
from trl_nlpo.metrics.rouge import AllRouge, Rouge


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


@settings(max_examples=100, deadline=None)
@given(st.text("abc xyz.,-'ÄßA1", max_size=60), st.text("abc xyz.,-'ÄßA1", max_size=60), st.booleans())
def test_rouge_l_is_the_librarys_to_the_last_bit(prediction, reference, use_stemmer):
    scorer = RougeScorer(["rougeL", "rougeLsum"], use_stemmer=use_stemmer)
    expected = scorer.score(reference, prediction)
    for kind in ("rougeL", "rougeLsum"):
        assert rouge(kind, prediction, [reference], use_stemmer=use_stemmer) == expected[kind].fmeasure


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
