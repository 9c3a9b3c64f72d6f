"""Where sentences end: the rules, one case each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_nlpo.metrics.sentences import sentences


@pytest.mark.parametrize(
    "parts",
    [
        ["A dog barked.", "The cat ran!", "Why?", "Nobody knows."],
        ["Mr. Smith met Dr. Jones vs. St. Mary's.", "He won."],
        ["He bought apples, pears, etc. from J. Doe in the U.S. Navy.", "It cost No. 5 dearly."],
        ["He said no.", "Then he left at 9 a.m. sharp."],
        ["The firm is Example Inc.", "It makes dogs."],
        ['"Stop!" he said.', 'She said: "Go."', "And they went."],
        ["Well ... maybe not.", "Who knows?"],
        ["It cost 3.50 dollars.", "That is e.g. cheap."],
        ["The sat.", "A cat sat on a fig.", "Nine were left."],
        ["In Jan. 2020 it snowed.", "In March it did not."],
        ["Why?!", "Because…", "He fell."],
        ["(Ann was late.)", "Bob was not.", "Carla slept."],
    ],
)
def test_a_text_of_sentences_is_cut_into_them_again(parts):
    assert sentences(" ".join(parts)) == parts


def test_the_kind_of_white_space_makes_no_difference_and_a_line_break_alone_ends_no_sentence():
    assert sentences(" A dog\nbarked.\t\tThe  cat\u00a0ran\n") == ["A dog barked.", "The cat ran"]


def test_full_width_marks_need_no_space():
    assert sentences("猫が走る。犬も走る！本当？") == ["猫が走る。", "犬も走る！", "本当？"]  # noqa: RUF001


def test_nothing_has_no_sentence():
    assert sentences("") == sentences(" \n") == []


@given(st.text("aAbB.!?\"') 。\n…15", max_size=80))
def test_nothing_is_lost_or_added_and_no_sentence_is_empty(text):
    parts = sentences(text)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(parts)
