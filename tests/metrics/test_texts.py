"""Prompts and completions as plain text."""

from __future__ import annotations

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.metrics.texts import check_flag, completion_text, joined, prompt_text


MESSAGES = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]


def test_a_prompt_is_all_its_messages_a_line_each():
    assert [prompt_text(prompt) for prompt in ("a\nb", MESSAGES, [], None)] == ["a\nb", "one\ntwo", "", ""]


def test_a_completion_is_the_last_of_its_messages():
    assert [completion_text(completion) for completion in ("a", MESSAGES, [])] == ["a", "two", ""]


@pytest.mark.parametrize(
    ("prompt", "completion", "separator", "expected"),
    [
        ("the film", "is good", None, "the film is good"),
        ("the film", " is good", None, "the film is good"),
        ("the film ", "is good", None, "the film is good"),
        ("the film", ".", None, "the film."),
        ("", "is good", None, "is good"),
        ("the film", "is good", "", "the filmis good"),
        ("the film", "is good", " | ", "the film | is good"),
    ],
)
def test_one_space_stands_between_prompt_and_completion_unless_something_else_is_set(
    prompt, completion, separator, expected
):
    assert joined(prompt, completion, separator) == expected


@pytest.mark.parametrize("value", [1, "true", None])
def test_a_flag_is_true_or_false(value):
    check_flag("metric 'x'", lemmas=True)
    with pytest.raises(UserError, match=f"metric 'x': lemmas must be true or false, not {value!r}"):
        check_flag("metric 'x'", idf=False, lemmas=value)
