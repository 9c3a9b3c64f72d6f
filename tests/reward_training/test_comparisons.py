"""Preference data of any format as choices."""

from __future__ import annotations

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.reward_training.comparisons import comparisons_of, kind_of


ABC = ["a", "b", "c"]


def choices(kind, **row):
    return [(c.completions, c.choice) for c in comparisons_of([{"prompt": "p", **row}], kind, "data")]


def test_a_pair_is_a_choice_of_the_first():
    assert choices("pairs", chosen="good", rejected="bad") == [(("good", "bad"), 0)]


def test_a_ranking_is_the_best_of_all_and_then_the_best_of_the_rest():
    assert choices("rankings", completions=ABC, ranking=[2, 0, 1]) == [(("c", "a", "b"), 0), (("a", "b"), 0)]


def test_ratings_are_a_pair_for_every_two_that_differ():
    assert choices("ratings", completions=ABC, ratings=[1, 3, 1]) == [(("a", "b"), 1), (("b", "c"), 0)]


def test_a_choice_of_two_is_the_pair():
    assert choices("choices", completions=["bad", "good"], choice=1) == [(("bad", "good"), 1)]


def test_messages_are_kept_as_they_are():
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("yes", "no"))
    prompt = [{"role": "user", "content": "?"}]
    (made,) = comparisons_of([{"prompt": prompt, "chosen": chosen, "rejected": rejected}], "pairs", "data")
    assert made.prompt == prompt
    assert made.completions == (chosen, rejected)


MESSAGES = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": text}] for text in ("yes", "no")]


def test_a_prompt_that_messages_begin_with_is_not_read_twice():
    (made,) = comparisons_of([{"prompt": "?", "chosen": MESSAGES[0], "rejected": MESSAGES[1]}], "pairs", "data")
    assert made.prompt == ""
    with pytest.raises(UserError, match="row 1: the prompt is text, but completions are messages"):
        comparisons_of([{"prompt": "other", "chosen": MESSAGES[0], "rejected": MESSAGES[1]}], "pairs", "data")
    with pytest.raises(UserError, match="the prompt is messages, but completions are texts"):
        comparisons_of([{"prompt": MESSAGES[0], "chosen": "a", "rejected": "b"}], "pairs", "data")


def test_comparisons_without_a_prompt_belong_together_by_what_they_begin_with():
    pairs = [{"chosen": "Q: who? yes", "rejected": "Q: who? no"}, {"chosen": "Q: who? ja", "rejected": "Q: who? nein"}]
    first, second = comparisons_of(pairs, "pairs", "data")
    assert first.group == second.group
    ranked = comparisons_of([{"completions": ABC, "ranking": [2, 0, 1]}], "rankings", "data")
    assert len({made.group for made in ranked}) == 1
    (talk,) = comparisons_of([{"chosen": MESSAGES[0], "rejected": MESSAGES[1]}], "pairs", "data")
    assert talk.group == '[{"role": "user", "content": "?"}]'


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"chosen": "a", "rejected": "b"}, "pairs"),
        ({"prompt": "p", "completions": ABC, "choice": 1}, "choices"),
        ({"prompt": "p", "completions": ABC, "ranking": [0, 1, 2]}, "rankings"),
        ({"prompt": "p", "completions": ABC, "ratings": [0, 1, 2]}, "ratings"),
    ],
)
def test_the_columns_tell_the_format(row, kind):
    assert kind_of([row], "data") == kind


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("choices", {"completions": ABC, "choice": 3}, "row 1: choice is 3, but must be a whole number from 0 to 2"),
        ("choices", {"completions": ABC, "choice": -1}, "from 0 to 2"),
        ("choices", {"completions": ABC, "choice": True}, "from 0 to 2"),
        ("choices", {"completions": ABC, "choice": "1"}, "from 0 to 2"),
        ("choices", {"completions": ["a"], "choice": 0}, "list of two or more"),
        ("choices", {"completions": "abc", "choice": 0}, "list of two or more"),
        ("choices", {"completions": ABC}, "row 1 has no 'choice'"),
        ("choices", {"completions": ["a", [{}]], "choice": 0}, "all be texts or all be messages"),
        ("rankings", {"completions": ABC, "ranking": [0, 0, 1]}, "each of 0 to 2 once"),
        ("rankings", {"completions": ABC, "ranking": [0, 1]}, "each of 0 to 2 once"),
        ("ratings", {"completions": ABC, "ratings": [1, 2]}, "list of 3 numbers"),
        ("ratings", {"completions": ABC, "ratings": [1, 2, float("nan")]}, "list of 3 numbers"),
        ("ratings", {"completions": ABC, "ratings": [1, 1, 1]}, "no row prefers"),
        ("pairs", {"chosen": "a", "rejected": [{}]}, "must both be texts or both be messages"),
        ("pairs", {"chosen": "a"}, "row 1 has no 'rejected'"),
    ],
)
def test_what_is_no_preference_is_refused_with_its_row(kind, row, message):
    with pytest.raises(UserError, match=message):
        comparisons_of([row], kind, "data")


def test_columns_of_no_format_are_refused_with_those_that_are_known():
    with pytest.raises(UserError, match=r"columns label, text, which are no preferences.*pairs: chosen, rejected"):
        kind_of([{"text": "a", "label": 1}], "data")
