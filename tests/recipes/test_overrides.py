"""Keys on the command line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.recipes.overrides import arguments_from, parse_overrides
from trl_nlpo.recipes.recipe import load_recipe


def test_words_of_the_command_line_become_keys_values_flags_and_lists():
    words = ["--a", "1", "--b=x=y", "--flag", "--many", "p", "q", "--negative", "-1", "--with-hyphen", "v"]
    assert parse_overrides(words) == {
        "a": "1", "b": "x=y", "flag": True, "many": ["p", "q"], "negative": "-1", "with_hyphen": "v",
    }  # fmt: skip


def test_a_list_may_have_mappings_among_its_words():
    words = ["--metrics", "rouge", '{"name": "bleu", "lowercase": true}', "{name: ter}"]
    expected = ["rouge", {"name": "bleu", "lowercase": True}, {"name": "ter"}]
    assert parse_overrides(words) == {"metrics": expected}
    assert load_recipe("commongen", [*words, "--use_cpu", "true"]).resolved["metrics"] == expected
    with pytest.raises(UserError, match=r"^command line: metrics has '\{name: bleu', which is no mapping: "):
        parse_overrides(["--metrics", "rouge", "{name: bleu"])


@dataclass
class Arguments:
    data: str
    epochs: float = 1.0
    prefix: str | None = None


def test_words_fill_the_fields_of_a_dataclass_as_their_types():
    made = arguments_from(Arguments, {"data": "folder"}, ["--epochs", "3", "--prefix=imdb"])
    assert made == Arguments("folder", 3.0, "imdb")


def test_a_word_that_is_no_field_or_does_not_fit_is_a_mistake_on_the_command_line():
    with pytest.raises(UserError, match=r"^command line: unknown key 'epoch', did you mean 'epochs'"):
        arguments_from(Arguments, {"data": "folder"}, ["--epoch", "3"])
    with pytest.raises(UserError, match=r"^command line: epochs is 'many', but must be a number"):
        arguments_from(Arguments, {"data": "folder"}, ["--epochs", "many"])
