"""Keys on the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import get_args, get_origin, get_type_hints

import pytest
import yaml

from support.recipe_files import message, recipe_file
from trl_nlpo.collection.arguments import CollectionArguments
from trl_nlpo.errors import UserError
from trl_nlpo.human_study.study import StudySettings
from trl_nlpo.recipes.keys import converted, recipe_fields
from trl_nlpo.recipes.overrides import arguments_from, parse_overrides, without_keys
from trl_nlpo.recipes.recipe import classes_of_keys, load_recipe
from trl_nlpo.reward_training.classifier import ClassifierArguments
from trl_nlpo.reward_training.reward_model import RewardModelArguments


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


# Lists


def takes_list(hint):
    return get_origin(hint) is list or hint is list or any(map(takes_list, get_args(hint)))


def item_of(hint):
    """The type of a list's entries, where it is no text."""
    found = [get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is list]
    return found[0][0] if found and found[0] else str


CLASSES = (*classes_of_keys(), RewardModelArguments, ClassifierArguments, CollectionArguments, StudySettings)
LISTS = sorted(
    {
        (cls.__name__, item.name)
        for cls in CLASSES
        for item in dataclasses.fields(cls)
        if takes_list(get_type_hints(cls)[item.name])
    }
)
SPELLINGS = {
    "commas": ["--key", "{0},{1}"],
    "commas and spaces": ["--key", "{0}, {1}"],
    "equals": ["--key={0},{1}"],
    "YAML": ["--key", "[{0}, {1}]"],
    "words": ["--key", "{0}", "{1}"],
    "again": ["--key", "{0}", "--key", "{1}"],
    "again and equals": ["--key={0}", "--key={1}"],
    "words with commas": ["--key", "{0},", "{1}"],
}


def test_keys_with_lists_are_those_that_we_think():
    assert {name for _, name in LISTS} >= {
        "lora_target_modules", "lora_target_parameters", "lora_modules_to_save", "rewards", "metrics", "report_to",
        "is_truncation", "scale",
    }  # fmt: skip


@pytest.mark.parametrize("spelling", list(SPELLINGS))
@pytest.mark.parametrize(("holder", "key"), LISTS)
def test_a_list_may_be_spelled_in_any_usual_way(holder, key, spelling):
    cls = next(cls for cls in CLASSES if cls.__name__ == holder)
    fields = recipe_fields((cls,), refused=())
    kind = item_of(get_type_hints(cls)[key])
    if kind not in (str, float):
        pytest.skip("of what the command line cannot write; refused anyway")
    items = [0.5, 4.0] if kind is float else ["q_proj", "v_proj"]
    words = [word.replace("--key", f"--{key}").format(*items) for word in SPELLINGS[spelling]]
    # The file's spellings are the same text, or a list.
    assert converted(key, parse_overrides(words)[key], "command line", fields) == items
    for text in ("{0},{1}", "[{0}, {1}]", "- {0}\n- {1}"):
        given = yaml.safe_load(text.format(*items))
        assert converted(key, given, "own.yaml", fields) == items


def test_lists_of_rewards_may_have_mappings_in_every_spelling(tmp_path):
    path = recipe_file(tmp_path)
    both = ["rougeL", {"name": "bleu", "weight": 2.0, "lowercase": True}]
    mapping = "{name: bleu, weight: 2.0, lowercase: true}"
    for words in (
        [f"rougeL,{mapping}"],
        [f"[rougeL, {mapping}]"],
        ["rougeL", mapping],
        ["rougeL", "--rewards", mapping],
    ):
        assert load_recipe(path, ["--rewards", *words]).resolved["rewards"] == both
    assert load_recipe(path, ["--rewards", mapping]).arguments.reward_specs[0].options == {"lowercase": True}
    assert load_recipe(path, ["--rewards", "my_module.mine"]).resolved["rewards"] == "my_module.mine"


def test_what_is_a_pattern_or_one_name_stays_whole(tmp_path):
    fields = recipe_fields(classes_of_keys())
    for text in ("all-linear", r".*\.(q|v)_proj", "(a,b)"):
        assert converted("lora_target_modules", text, "x", fields) == [text]
    # YAML's words for truth are names where names are wanted.
    assert converted("lora_target_modules", "no,on", "x", fields) == ["no", "on"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lora_target_modules", "[q_proj, v_proj"], "lora_target_modules is '[q_proj, v_proj', but must be a list"),
        (["--lora_target_modules", "q_proj,,v_proj"], "lora_target_modules is 'q_proj,,v_proj', but must be a list"),
        (["--is_truncation", "0.2,four"], "is_truncation is '0.2,four', but must be a list or null"),
        (["--is_truncation", "0.2,4,5"], "is_truncation is [0.2, 4.0, 5.0], but must be two numbers"),
        (["--rewards", "[rougeL, {name: bleu"], "rewards is '[rougeL, {name: bleu', but must be a list or"),
        (["--seed", "1", "2"], "seed is ['1', '2'], but must be a whole number"),
        (["--seed", "1,2"], "seed is '1,2', but must be a whole number"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(tmp_path, words, says):
    assert message(recipe_file(tmp_path), *words).startswith(f"command line: {says}")


def test_a_key_without_a_list_that_is_given_again_has_its_last_value(tmp_path):
    path = recipe_file(tmp_path)
    assert load_recipe(path, ["--seed", "1", "--seed", "2"]).training.seed == 2
    words = ["--task", "imdb", "--task", "commongen", "--preset", "large", "--preset", "tiny"]
    assert load_recipe(path, words).arguments.task == "commongen"


def test_mappings_need_no_quotes_of_json():
    fields = recipe_fields(classes_of_keys())
    assert converted("generation_kwargs", "{top_k: 50, do_sample: true}", "x", fields) == {
        "top_k": 50,
        "do_sample": True,
    }


def test_words_of_some_keys_are_left_out_with_their_values():
    words = ["--a", "1", "--with-hyphen=2", "3", "--b", "4", "--a", "5"]
    assert without_keys(words, {"a", "with_hyphen"}) == ["--b", "4"]
    assert without_keys(words, {}) == words


def test_a_list_of_a_grids_variant_replaces_the_one_for_all_cells(tmp_path):
    from trl_nlpo.grid.cells import Grid, keys_of, parse_variant

    variant = parse_variant("nlpo[metrics=rouge]")
    grid = Grid(("commongen",), (variant,), 1, tmp_path, ("--metrics", "bleu", "ter", "--max_steps", "3"))
    given = parse_overrides(keys_of(grid, grid.cells()[0]))
    assert (given["metrics"], given["max_steps"]) == ("rouge", "3")
