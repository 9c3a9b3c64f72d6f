"""The quickstart's language: reproducible, balanced, checkable; and a reward that cannot be cheated by repetition."""

from __future__ import annotations

import pytest

from trl_nlpo.tasks.quickstart import (
    GRAMMAR,
    PLEASANT,
    UNPLEASANT,
    Grammatical,
    PleasantSentence,
    is_grammatical,
    join_completion,
    quickstart_rows,
)


PROMPT = "On Sunday my aunt went to the river"
SIZES = {"train": 600, "validation": 50, "test": 50}


def pleasant(completion):
    return PleasantSentence()(prompts=[PROMPT], completions=[completion])[0]


def test_the_seed_decides_everything():
    assert quickstart_rows(SIZES, seed=3) == quickstart_rows(SIZES, seed=3)
    assert quickstart_rows(SIZES, seed=3) != quickstart_rows(SIZES, seed=4)


def test_no_prompt_occurs_twice_in_whatever_split():
    rows = quickstart_rows(SIZES)
    prompts = [row["prompt"] for split in rows.values() for row in split]
    assert {split: len(part) for split, part in rows.items()} == SIZES
    assert len(set(prompts)) == len(prompts)


def test_every_sentence_is_grammatical_and_judges_thrice():
    for row in quickstart_rows(SIZES)["train"]:
        rest = row["references"][0]
        assert is_grammatical(join_completion(row["prompt"], rest)), row
        value = PleasantSentence()(prompts=[row["prompt"]], completions=[rest])[0]
        assert value * 3 == pytest.approx(round(value * 3))


@pytest.mark.slow
def test_pleasant_and_unpleasant_words_come_in_equal_shares():
    rows = quickstart_rows({"train": 2000})["train"]
    values = PleasantSentence()(prompts=[r["prompt"] for r in rows], completions=[r["references"][0] for r in rows])
    # 3 fair coins in each of 2000 rows: the mean has a standard deviation of 0.0065.
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.03)


def test_the_vocabulary_is_small_and_no_word_is_both_pleasant_and_unpleasant():
    good = {word for words in PLEASANT.values() for word in words.split()}
    bad = {word for words in UNPLEASANT.values() for word in words.split()}
    assert not good & bad
    assert len(good) == len(bad) == 30
    assert 150 <= len(GRAMMAR.words()) <= 300


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        (" and met a loyal dog, but the sky was mild, so she was happy.", 1.0),
        (" and met a loyal dog, but the sky was stormy, so she was happy.", 2 / 3),
        (" and met a mean dog, but the sky was stormy, so she was happy.", 1 / 3),
        (" and met a mean dog, but the sky was stormy, so she was sad.", 0.0),
        ("and met a loyal dog, but the sky was mild, so she was happy.", 1.0),
    ],
)
def test_the_score_is_the_share_of_pleasant_words(completion, value):
    assert pleasant(completion) == pytest.approx(value)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        ".",
        " and met a loyal dog.",
        " and met a loyal dog, but the sky was mild, so he was happy.",
        " and met a loyal dog , but the sky was mild , so she was happy .",
        " and met a loyal loyal dog, but the sky was mild, so she was happy.",
        " and met a loyal dog, but the sky was mild, so she was happy. happy happy",
        " happy happy happy happy",
        " and met a loyal dog, but the sky was mild, so she was happy",
    ],
)
def test_what_is_no_sentence_of_the_language_earns_nothing(completion):
    assert pleasant(completion) == 0.0
    assert Grammatical()(prompts=[PROMPT], completions=[completion]) == [0.0]


def test_a_pleasant_word_said_twice_counts_once(monkeypatch):
    # "warm" is for food only, so the language itself hardly allows repetition; the measure must not pay for it either.
    from trl_nlpo.tasks import quickstart

    assert quickstart.pleasantness("a warm, warm and warm day") == pytest.approx(1 / 3)
    assert quickstart.pleasantness("nothing judged") == 0.0
