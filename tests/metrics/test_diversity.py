"""Naturalness: known answers are data, GEM's and a pencil's."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.diversity import MSTTR, Diversity, NgramStatistic
from trl_nlpo.metrics.words import treebank_words
from trl_nlpo.rewards import get_reward


CASES = json.loads((Path(__file__).parent / "known_answers_naturalness.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['metric']}: {case['source']}")
def test_known_answers(case):
    numbers = get_metric(case["metric"], **case.get("options", {})).compute(case["predictions"])
    assert numbers == {case["metric"]: pytest.approx(case["expected"], abs=case["tolerance"])}


def test_words_are_split_as_the_penn_treebank_does_in_every_sentence():
    assert treebank_words("I don't know.  Go, now!") == ("i", "do", "n't", "know", ".", "go", ",", "now", "!")
    assert treebank_words("שלום עולם.") == ("שלום", "עולם", ".")
    assert treebank_words("") == ()


def test_the_score_of_a_text_is_the_number_of_it_alone():
    assert NgramStatistic("distinct", 1).score(["a b", "a a"]) == [1.0, 0.5]
    assert NgramStatistic("unique", 1).score(["a b", "a a"]) == [2.0, 0.0]
    assert MSTTR(window=2).score(["a b c c c", "a"]) == [0.75, None]


def test_as_a_reward_it_needs_no_column():
    reward = get_reward("distinct1")
    assert reward(prompts=["x", "x"], completions=["a a", [{"role": "assistant", "content": "a b"}]]) == [0.5, 1.0]


def test_all_numbers_come_together_for_tables():
    # tokens a b a c: 3 of 4 differ, b and c once, entropy 1/2 * 1 + 2 * 1/4 * 2; pairs ab and ac.
    assert Diversity(window=2).compute(["a b", "a c"]) == {
        "msttr": 1.0,
        "distinct1": 0.75,
        "entropy1": 1.5,
        "unique1": 2.0,
        "distinct2": 1.0,
        "entropy2": 1.0,
        "unique2": 2.0,
        "mean_length": 2.0,
    }


def test_texts_that_fill_no_window_have_no_msttr():
    assert "msttr" not in Diversity().compute(["a b"])
    with pytest.raises(UserError, match="'msttr': the texts have fewer than 100 tokens together"):
        MSTTR().compute(["a b"])


@pytest.mark.parametrize("window", [0, -1, 2.5, "100", True])
def test_a_window_must_be_a_number_of_tokens(window):
    with pytest.raises(UserError, match="window must be a number of tokens from 1"):
        MSTTR(window=window)


@pytest.mark.parametrize("name", ["msttr", "distinct2", "entropy1", "unique2", "mean_length", "diversity"])
def test_it_can_be_pickled(name):
    metric = pickle.loads(pickle.dumps(get_metric(name)))
    assert metric.name == name
    assert len(metric.score(["a b"])) == 1


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    with pytest.raises(UserError, match=r'pip install "trl-nlpo\[metrics\]"'):
        NgramStatistic("distinct", 1)


def test_counting_ngrams_imports_neither_nltk_nor_transformers():
    code = "import sys, trl_nlpo.metrics.diversity; assert not {'nltk', 'transformers', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
