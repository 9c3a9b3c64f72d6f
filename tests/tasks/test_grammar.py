"""Grammars: what they produce they accept, and nothing else."""

from __future__ import annotations

import random

import pytest

from trl_nlpo.tasks.grammar import Grammar


GREETINGS = Grammar(
    {"GREETING": ["hello NAME", "good TIME NAME"], "TIME": ["morning", "late evening"], "NAME": ["Ann", "Bob"]}
)


def test_all_six_sentences_are_produced_and_accepted():
    rng = random.Random(0)
    produced = {" ".join(GREETINGS.sample("GREETING", rng)) for _ in range(200)}
    assert produced == {
        "hello Ann", "hello Bob", "good morning Ann", "good morning Bob",
        "good late evening Ann", "good late evening Bob",
    }  # fmt: skip
    assert all(GREETINGS.accepts("GREETING", sentence.split()) for sentence in produced)


@pytest.mark.parametrize(
    "text", ["", "hello", "hello Ann Bob", "good evening Ann", "hello NAME", "Hello Ann", "late hello Ann"]
)
def test_anything_else_is_refused(text):
    assert not GREETINGS.accepts("GREETING", text.split())


def test_an_option_that_is_the_beginning_of_another_does_not_hide_it():
    grammar = Grammar({"S": ["A c"], "A": ["a", "a b"]})
    assert grammar.accepts("S", ["a", "b", "c"])
    assert grammar.accepts("S", ["a", "c"])


def test_words_are_what_is_no_symbol():
    assert GREETINGS.words() == ["Ann", "Bob", "evening", "good", "hello", "late", "morning"]
