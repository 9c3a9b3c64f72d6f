"""`trl-nlpo keys`: every key that a recipe may have, what it means, what it takes, its default, and how it is off."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.commands import run_cli
from support.recipe_files import recipe_file
from trl_nlpo.collection.arguments import CollectionArguments
from trl_nlpo.config import inherited_settings
from trl_nlpo.human_study.study import StudySettings
from trl_nlpo.recipes import themes
from trl_nlpo.recipes.inherited_help import INHERITED_HELP
from trl_nlpo.recipes.key_list import OTHERS, REFUSED, WITHOUT_EFFECT, all_keys, key_lines, keys_named, keys_of_command
from trl_nlpo.recipes.keys import COMPUTED, converted, recipe_fields
from trl_nlpo.recipes.recipe import RECIPE_DEFAULTS, classes_of_keys, load_recipe
from trl_nlpo.reward_training.classifier import ClassifierArguments
from trl_nlpo.reward_training.reward_model import RewardModelArguments


ROOT = Path(__file__).parent.parent.parent
KEYS = {key.name: key for key in all_keys()}
SHIPPED_KEYS = {
    key for path in (ROOT / "recipes").glob("*.yaml") for key in yaml.safe_load(path.read_text(encoding="utf-8"))
}


def test_every_key_that_a_recipe_may_have_is_listed_and_no_other():
    assert set(KEYS) == {*recipe_fields(classes_of_keys()), "env"}
    assert len(KEYS) == len(all_keys())
    assert set(KEYS) >= SHIPPED_KEYS


@pytest.mark.parametrize("name", sorted(KEYS))
def test_every_key_has_a_sentence_of_help_and_a_default_that_it_takes(name):
    key = KEYS[name]
    assert re.fullmatch(r"\S.*\S\.\)?", key.help), key.help
    # "LoRA R value." tells nobody anything.
    assert len(key.help.split()) >= 4 or name in ("dataset_train_split",), key.help
    assert not re.search(r"`|%%|\bTrue\b|\bFalse\b", key.help)
    assert key.values
    if name not in ("env", "output_dir"):
        fields = recipe_fields(classes_of_keys())
        default = yaml.safe_load(key.default)
        # Some fields' own default is one that their type does not say.
        assert default is None or converted(name, default, "default", fields) is not None


def test_every_key_has_a_theme_and_every_theme_and_table_has_keys_that_exist():
    assert not [key.name for key in KEYS.values() if key.theme == OTHERS]
    assert [theme for theme in themes.THEMES if theme not in {key.theme for key in KEYS.values()}] == []
    known = {*KEYS, *inherited_settings.WORKING}
    assert not {*INHERITED_HELP, *themes.OFF, *themes.NEVER_OFF} - known
    exact = [pattern for patterns in themes.THEMES.values() for pattern in patterns if "*" not in pattern]
    assert not set(exact) - known
    assert len(exact) == len(set(exact))


def test_what_works_has_a_theme_and_what_does_not_is_listed_as_that():
    for name, key in KEYS.items():
        if name == "resume_from_checkpoint":
            assert key.theme == "Run"
        elif name in inherited_settings.REFUSED:
            assert key.theme == REFUSED
        elif name in {*inherited_settings.WITHOUT_EFFECT, *inherited_settings.ALWAYS_SO}:
            assert key.theme == WITHOUT_EFFECT
        elif name in inherited_settings.WORKING:
            assert key.theme in themes.THEMES


def test_defaults_are_those_of_a_recipe_that_says_nothing(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path))
    decided = {"rewards", "dataset_name", "output_dir", "env", "algorithm", "bf16", "world_size"}
    for name, key in KEYS.items():
        if name in decided or key.theme not in themes.THEMES:
            continue
        holder = next(part for part in (recipe.arguments, recipe.training, recipe.model) if hasattr(part, name))
        value = getattr(holder, name)
        if name in RECIPE_DEFAULTS:
            assert yaml.safe_load(key.default) == RECIPE_DEFAULTS[name]
        elif key.default != "null":
            assert str(getattr(value, "value", value)) == str(yaml.safe_load(key.default)), name


@pytest.mark.parametrize("name", sorted(key.name for key in KEYS.values() if key.off is not None))
def test_what_switches_a_key_off_is_a_value_that_it_takes(name, tmp_path):
    off = yaml.safe_load(KEYS[name].off.partition(" (")[0])
    assert (
        converted(name, off, "off", {**recipe_fields(classes_of_keys()), "env": (dict | None, None)}) == off
        or off is None
    )


@pytest.mark.parametrize(
    ("name", "values", "default", "off"),
    [
        ("mask_top_p", "a number in (0, 1]", "0.9", "1.0 (or mask_strategy: none)"),
        ("mask_sync_steps", "a whole number, at least 1, or null for never", "20", "null"),
        ("kl_coef", "a number", "0.05", "0"),
        ("eval_strategy", "one of 'no', 'steps', 'epoch'", "'no'", "'no'"),
        ("save_steps", "a number", "0.25", None),
        ("vocab_size", "a whole number, greater than 0", "4096", None),
        ("supervised_weight_decay", "a number, 0 or more", "0.0", "0"),
        ("use_peft", "true or false", "false", "false"),
    ],
)
def test_type_range_default_and_off_are_those_that_are_checked(name, values, default, off):
    key = KEYS[name]
    assert (key.values, key.default, key.off) == (values, default, off)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_lines_are_no_longer_than_the_screen(width):
    lines = [line for line, _ in key_lines(all_keys(), width)]
    # What cannot be broken, such as an address, may stand out.
    assert not [line for line in lines if len(line) > width and " " in line.strip()]


def test_names_are_found_by_any_part_as_they_are_written_on_the_command_line_too():
    assert [key.name for key in keys_named(["kl"])] == [name for name in KEYS if "kl" in name]
    assert [key.name for key in keys_named(["--learning-rate"])] == [name for name in KEYS if "learning_rate" in name]
    assert {key.name for key in keys_named(["kl_coef", "MASK_TOP"])} == {"kl_coef", "mask_top_p", "mask_top_k"}
    # One key alone names all of its choices.
    assert "'adafactor'" in keys_named(["optim"])[0].values
    assert "one of " in KEYS["optim"].values
    assert "names" in KEYS["optim"].values


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("learnin_rate", "no key has 'learnin_rate' in its name, did you mean 'learning_rate'? `trl-nlpo keys` lists"),
        ("init_kl_coef", "no key has 'init_kl_coef' in its name: use kl_coef. `trl-nlpo keys` lists all."),
        (
            "reward_weights",
            "no key has 'reward_weights' in its name: set rewards: [{name: ..., weight: ...}] instead.",
        ),
        ("qqqqq", "no key has 'qqqqq' in its name. `trl-nlpo keys` lists all."),
    ],
)
def test_a_name_that_is_none_is_answered_with_the_nearest(monkeypatch, capsys, word, says):
    code, out, err = run_cli(monkeypatch, capsys, "keys", word)
    assert (code, out) == (2, "")
    assert err.startswith(f"trl-nlpo: {says}")
    assert err.count("\n") == 1
    assert word not in COMPUTED or COMPUTED[word] in err


@pytest.mark.parametrize(
    ("command", "cls"),
    [
        ("collect", CollectionArguments),
        ("train-reward", RewardModelArguments),
        ("train-classifier", ClassifierArguments),
        ("study", StudySettings),
    ],
)
def test_keys_of_other_commands_have_a_help_values_and_their_own_defaults(monkeypatch, capsys, command, cls):
    keys = keys_of_command(command, cls)
    assert [key.name for key in keys] == [item.name for item in dataclasses.fields(cls)]
    for key, item in zip(keys, dataclasses.fields(cls), strict=True):
        assert re.fullmatch(r"\S.*\S\.\)?", key.help), key
        assert key.values
        if item.default is not dataclasses.MISSING:
            assert yaml.safe_load(key.default) == item.default
    code, out, _ = run_cli(monkeypatch, capsys, "keys", "--of", command)
    assert code == 0
    assert [line.partition(":")[0].strip() for line in out.splitlines() if re.match(r"  \w", line)] == [
        key.name for key in keys
    ]


def test_keys_of_a_command_are_searched_and_a_command_without_keys_is_answered_with_the_nearest(monkeypatch, capsys):
    assert run_cli(monkeypatch, capsys, "keys", "--of", "collect", "noise")[1].startswith("collect\n  noise: 0.0\n")
    for words, says in (
        (["--of", "colect"], "no command 'colect' has keys of its own, did you mean 'collect'? There are: collect,"),
        (["--of", "collect", "nois_"], "no key has 'nois_' in its name, did you mean 'noise'? `trl-nlpo keys --of co"),
    ):
        code, out, err = run_cli(monkeypatch, capsys, "keys", *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"trl-nlpo: {says}")
        assert err.count("\n") == 1


@pytest.mark.slow
def test_the_list_is_plain_text_where_it_is_piped_and_under_help_all():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}

    def said(*words):
        command = [sys.executable, "-m", "trl_nlpo", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120).stdout

    alone, with_help = said("keys"), said("run", "--help-all")
    assert "\x1b" not in alone
    assert max(map(len, alone.splitlines())) <= 80
    assert "Mask\n  mask_strategy: top_p\n      'top_p', 'top_k' or 'none'. Off: none (PPO).\n" in alone
    assert with_help.endswith(alone)
    assert "--overwrite" in with_help.removesuffix(alone)
