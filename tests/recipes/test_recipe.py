"""Recipes: every one that ships loads, the command line overrides the file, and a mistake is one helpful line."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.recipe_files import message, recipe_file
from trl_nlpo.errors import UserError
from trl_nlpo.metrics import meteor
from trl_nlpo.recipes.files import read_yaml, shipped_recipes, summary
from trl_nlpo.recipes.recipe import load_recipe, write_resolved


SHIPPED = shipped_recipes()
LOCAL_DATA = ["--dataset_name", "some/folder"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_says_what_it_is(name, monkeypatch):
    # WordNet is not everywhere; METEOR says so when it is named.
    monkeypatch.setattr(meteor, "_check_wordnet", lambda: None)
    recipe = load_recipe(name, LOCAL_DATA)
    assert recipe.name == name
    assert recipe.arguments.reward_functions()
    assert recipe.training.output_dir == os.path.join("runs", name)
    assert len(summary(recipe.path)) > 20


def test_defaults_of_recipes_differ_from_the_trainers(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path))
    assert recipe.training.output_dir == os.path.join("runs", "own")
    assert recipe.training.report_to == []
    assert recipe.training.stop_token == "eos"
    assert recipe.arguments.algorithm == "nlpo"
    assert recipe.training.mask_strategy == "top_p"


def test_ppo_has_no_mask_whatever_the_file_says(tmp_path):
    path = recipe_file(tmp_path, mask_strategy="top_p", algorithm="supervised+nlpo")
    assert load_recipe(path).training.mask_strategy == "top_p"
    assert load_recipe(path, ["--algorithm", "supervised+ppo"]).training.mask_strategy == "none"


def test_null_is_kept_where_it_is_a_choice_of_its_own(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, stop_token=None, save_total_limit=None))
    assert (recipe.training.stop_token, recipe.training.save_total_limit) == (None, None)
    assert load_recipe(recipe_file(tmp_path), ["--stop_token", "null"]).training.stop_token is None
    assert load_recipe(recipe_file(tmp_path)).training.stop_token == "eos"


def test_a_stop_token_id_takes_the_place_of_eos(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, stop_token_id=5))
    assert recipe.training.stop_token is None
    assert recipe.training.stop_token_id == 5


def test_the_command_line_overrides_the_file(tmp_path):
    path = recipe_file(tmp_path, learning_rate=1e-5, seed=1)
    recipe = load_recipe(path, ["--learning_rate", "3e-4", "--num-ppo-epochs=2", "--whiten_rewards"])
    assert recipe.training.learning_rate == 3e-4
    assert recipe.training.num_ppo_epochs == 2
    assert recipe.training.whiten_rewards is True
    assert recipe.training.seed == 1


def test_env_sets_environment_variables_as_in_trl(tmp_path, monkeypatch):
    monkeypatch.setenv("NLPO_TEST_LEVEL", "before")
    load_recipe(recipe_file(tmp_path, env={"NLPO_TEST_LEVEL": 3}))
    assert os.environ["NLPO_TEST_LEVEL"] == "3"


def test_the_resolved_recipe_keeps_the_files_order_and_gives_the_same_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = recipe_file(tmp_path, learning_rate="1e-4", rewards=["rouge1", {"name": "rouge2", "weight": 0.5}])
    recipe = load_recipe(path, ["--seed", "5", "--algorithm", "ppo"])
    assert list(recipe.resolved)[:5] == ["dataset_name", "rewards", "learning_rate", "seed", "algorithm"]
    write_resolved(recipe, tmp_path / "recipe.yaml")
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again.training == recipe.training
    assert again.arguments == recipe.arguments
    assert again.model == recipe.model


def test_tokens_and_secrets_are_never_written(tmp_path, monkeypatch):
    for name in ("MY_API_KEY", "HF_TOKEN_OF_TEST", "NLPO_TEST_LEVEL"):
        monkeypatch.setenv(name, "")
    env = {"MY_API_KEY": "hush", "HF_TOKEN_OF_TEST": "hush", "NLPO_TEST_LEVEL": "fine"}
    recipe = load_recipe(recipe_file(tmp_path, env=env, hub_token="hush"))
    write_resolved(recipe, tmp_path / "recipe.yaml")
    written = (tmp_path / "recipe.yaml").read_text()
    assert "hush" not in written
    assert "NLPO_TEST_LEVEL: fine" in written
    assert "stop_token: eos" in written


def test_a_mistake_on_the_command_line_is_reported_as_there(tmp_path):
    path = recipe_file(tmp_path)
    assert message(path, "--sed", "1").startswith("command line: unknown key 'sed', did you mean 'seed'?")
    assert message(path, "--seed", "x").startswith("command line: seed is 'x', but must be a whole number")
    assert "unexpected 'stray'" in message(path, "stray", "--seed", "1")


def mistake_in(path: Path) -> str:
    """What is said about a recipe, or nothing; the environment stays as it was."""
    before = dict(os.environ)
    try:
        load_recipe(path)
    except UserError as error:
        return str(error)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return ""


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 1000),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(string.printable, max_size=12),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(string.ascii_lowercase, max_size=3), st.integers(0, 3), max_size=2),
)
KEYS = st.sampled_from(
    sorted(
        {
            "algorithm", "rewards", "dataset_name", "max_eval_samples", "hidden_size", "seed", "bf16", "eval_steps",
            "eval_strategy", "save_steps", "save_strategy", "generation_kwargs", "reward_weights", "kl_target",
            "learning_rate", "lr_scheduler_kwargs", "accelerator_config", "deepspeed", "fsdp", "debug", "optim", "env",
            "logging_steps", "lora_target_modules", "load_in_4bit", "report_to", "warmup_steps", "max_steps",
            "load_best_model_at_end", "stop_token", "stop_token_id", "mask_top_p", "mask_top_k", "prompt_template",
            "gamma", "nonsense",
        }
    )
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mutations=st.dictionaries(KEYS, SCALARS, min_size=1, max_size=3))
@pytest.mark.slow
def test_a_mutated_recipe_loads_or_is_a_users_mistake_and_nothing_else(tmp_path_factory, mutations):
    path = tmp_path_factory.mktemp("mutated") / "own.yaml"
    base = read_yaml(SHIPPED["quickstart"])
    path.write_text(yaml.safe_dump({**base, **mutations}, allow_unicode=True))
    assert "\n" not in mistake_in(path)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=st.text(alphabet=string.printable + "äß€", max_size=60), cut=st.integers(0, 400))
def test_garbage_in_a_recipe_is_a_users_mistake_and_nothing_else(tmp_path_factory, text, cut):
    path = tmp_path_factory.mktemp("garbage") / "own.yaml"
    original = SHIPPED["quickstart"].read_text()
    path.write_text(original[:cut] + text + original[cut:], encoding="utf-8")
    assert "\n" not in mistake_in(path)


def test_a_complaint_of_transformers_that_names_no_key_gets_the_one_it_is_about(tmp_path):
    path = recipe_file(tmp_path, seed=1, accelerator_config="no_such_file.json")
    assert "own.yaml, line 5: accelerator_config is 'no_such_file.json': " in message(path)
    path = recipe_file(tmp_path, seed=1)
    assert message(path, "--accelerator_config", "none.json").startswith("command line: accelerator_config is ")


@pytest.mark.parametrize(
    ("keys", "words", "says"),
    [
        ({"max_steps": 1.5}, [], "own.yaml, line 3: max_steps is 1.5"),
        ({}, ["--max_steps", "1.5"], "command line: max_steps is '1.5'"),
        ({"max_steps": 1.5}, ["--max_steps", "2.5"], "command line: max_steps is '2.5'"),
        ({"mask_top_p": 2}, [], "own.yaml, line 3: mask_top_p is 2.0"),
        ({}, ["--mask_top_p", "2"], "command line: mask_top_p is 2.0"),
        (
            {"num_train_epochs": 1},
            ["--max_steps", "-5"],
            "command line: max_steps is -5, but must be at least 1, or -1",
        ),
        (
            {"critic_warmup_steps": 5},
            ["--max_steps", "3"],
            "own.yaml, line 3 and command line: critic_warmup_steps is 5",
        ),
        ({"critic_warmup_steps": 5, "max_steps": 3}, [], "own.yaml, line 3 and line 4: critic_warmup_steps is 5"),
        ({"load_in_8bit": True}, ["--load_in_4bit", "true"], "command line: load_in_4bit is 'true': "),
        ({"use_peft": True, "algorithm": "ppo"}, [], "own.yaml, line 3: use_peft needs a model"),
        ({"beta": 0.1}, [], "own.yaml, line 3: unknown key 'beta': use kl_coef."),
        ({}, ["--model_name", "x"], "command line: unknown key 'model_name': use model_name_or_path."),
        ({"task": "imdbb"}, [], "own.yaml, line 3: unknown task 'imdbb', did you mean 'imdb'?"),
        ({}, ["--task", "imdbb"], "command line: unknown task 'imdbb', did you mean 'imdb'?"),
        ({"env": ["A=1"]}, [], "own.yaml, line 3: env must be a mapping"),
        ({"metrics": [{"name": "bleu", "weight": 2}]}, [], "own.yaml, line 3: metrics: 'bleu' has a weight"),
        ({}, ["--rewards", '{"weight": 2}'], "command line: rewards has the entry {'weight': 2}"),
    ],
)
def test_a_mistake_is_blamed_on_the_line_of_the_file_or_the_command_line(tmp_path, monkeypatch, keys, words, says):
    monkeypatch.chdir(tmp_path)
    text = "dataset_name: quickstart\nrewards: [pleasant_sentence]\n" + "".join(
        yaml.safe_dump({key: value}, default_flow_style=True).strip("{}\n") + "\n" for key, value in keys.items()
    )
    assert message(recipe_file(tmp_path, text), *words).startswith(says)


@pytest.mark.parametrize(
    ("keys", "words", "says"),
    [
        ({"rewards": ["rougel"]}, [], "own.yaml, line 2: rewards: unknown reward 'rougel', did you mean 'rougeL'?"),
        ({}, ["--rewards", "rougel"], "command line: rewards: unknown reward 'rougel', did you mean 'rougeL'?"),
        ({"judge_model": "./none"}, [], "own.yaml, line 4: judge_model './none' is not there"),
        ({}, ["--report_to", "wandbb"], "command line: report_to has 'wandbb'; take none, all, or some of "),
    ],
)
def test_what_is_found_before_the_run_begins_is_blamed_on_it_too(tmp_path, monkeypatch, keys, words, says):
    from trl_nlpo.experiment.before_start import check_before_start

    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(recipe_file(tmp_path, **keys), words)
    with pytest.raises(UserError) as caught:
        check_before_start(recipe)
    assert str(caught.value).startswith(says)
