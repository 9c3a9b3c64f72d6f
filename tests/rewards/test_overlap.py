"""ROUGE: expected F-measures worked out by hand from precision and recall."""

from __future__ import annotations

import pickle
import sys

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.rewards import overlap
from trl_nlpo.rewards.overlap import Rouge


def rouge(kind, completion, references, **options):
    return Rouge(kind, **options)(completions=[completion], references=[references])[0]


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
    reward = pickle.loads(pickle.dumps(Rouge("rouge2")))
    assert reward.__name__ == "rouge2"
    assert reward(completions=["a cat sat"], references=[["the cat sat"]]) == [pytest.approx(0.5)]


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch):
    overlap._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r'pip install "trl-nlpo\[metrics\]"'):
        Rouge("rouge1")


def test_a_missing_references_column_is_named():
    with pytest.raises(UserError, match="'rougeL' needs a column 'references'"):
        Rouge("rougeL")(completions=["a"], prompts=["b"])
