"""Recipes: every one that ships loads, the command line beats the file, and a mistake is one helpful line."""

from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import meteor
from trl_nlpo.recipes.files import find_recipe, read_yaml, shipped_recipes, summary
from trl_nlpo.recipes.overrides import parse_overrides
from trl_nlpo.recipes.recipe import load_recipe, write_resolved


SHIPPED = shipped_recipes()
MINIMAL = {"dataset_name": "quickstart", "rewards": ["pleasant_sentence"]}
LOCAL_DATA = ["--dataset_name", "some/folder"]


def recipe_file(folder: Path, text: str = "", name: str = "own", **keys) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text or yaml.safe_dump({**MINIMAL, **keys}, sort_keys=False))
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_says_what_it_is(name, monkeypatch):
    # WordNet is not everywhere; METEOR says so when it is named.
    monkeypatch.setattr(meteor, "_check_wordnet", lambda: None)
    recipe = load_recipe(name, LOCAL_DATA)
    assert recipe.name == name
    assert recipe.arguments.reward_functions()
    assert recipe.training.output_dir == os.path.join("runs", name)
    assert len(summary(recipe.path)) > 20


@pytest.mark.parametrize("name", SHIPPED)
def test_every_key_of_a_shipped_recipe_is_explained_beside_it_or_above_its_group(name):
    explained = False
    for line in SHIPPED[name].read_text().splitlines():
        if line.startswith("#") or not line:
            explained = line.startswith("#")
        assert explained or "#" in line or not line[:1].isalpha(), f"{name}: {line}"


def test_a_bare_name_and_a_path_find_the_same_recipe():
    assert find_recipe("quickstart") == find_recipe("quickstart.yaml") == SHIPPED["quickstart"]
    assert find_recipe(SHIPPED["quickstart"]) == SHIPPED["quickstart"]


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


def test_a_stop_token_id_takes_the_place_of_eos(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, stop_token_id=5))
    assert recipe.training.stop_token is None
    assert recipe.training.stop_token_id == 5


def test_the_command_line_beats_the_file(tmp_path):
    path = recipe_file(tmp_path, learning_rate=1e-5, seed=1)
    recipe = load_recipe(path, ["--learning_rate", "3e-4", "--num-ppo-epochs=2", "--whiten_rewards"])
    assert recipe.training.learning_rate == 3e-4
    assert recipe.training.num_ppo_epochs == 2
    assert recipe.training.whiten_rewards is True
    assert recipe.training.seed == 1


def test_words_of_the_command_line_become_keys_values_flags_and_lists():
    words = ["--a", "1", "--b=x=y", "--flag", "--many", "p", "q", "--negative", "-1", "--with-hyphen", "v"]
    assert parse_overrides(words) == {
        "a": "1", "b": "x=y", "flag": True, "many": ["p", "q"], "negative": "-1", "with_hyphen": "v",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", 1, 1.0),
        ("max_steps", "20", 20),
        ("bf16", "false", False),
        ("eval_strategy", False, "no"),
        ("kl_target", None, None),
        ("kl_target", "none", None),
        ("mask_sync_steps", "null", None),
        ("generation_kwargs", '{"top_k": 50}', {"top_k": 50}),
        ("generation_kwargs", {"top_k": 50}, {"top_k": 50}),
        ("mask_strategy", "none", "none"),
        ("run_name", 7, "7"),
    ],
)
def test_values_are_read_as_the_type_of_their_key(tmp_path, key, given, value):
    assert getattr(load_recipe(recipe_file(tmp_path, **{key: given})).training, key) == value


def test_rewards_are_names_or_mappings_with_weights_and_options(tmp_path):
    rewards = ["rougeL", {"name": "concept_coverage", "weight": 2, "column": "keywords"}]
    recipe = load_recipe(recipe_file(tmp_path, rewards=rewards))
    functions = recipe.arguments.reward_functions()
    assert [function.__name__ for function in functions] == ["rougeL", "concept_coverage"]
    assert functions[1].metric.columns == ("keywords",)
    assert recipe.training.reward_weights == [1.0, 2.0]


@pytest.mark.parametrize(
    ("words", "names", "weights"),
    [
        (["--rewards", "rouge1"], ["rouge1"], [1.0]),
        (["--rewards", "rouge1", "rouge2"], ["rouge1", "rouge2"], [1.0, 1.0]),
        (["--rewards", '["rouge1", {"name": "rouge2", "weight": 0.5}]'], ["rouge1", "rouge2"], [1.0, 0.5]),
        (["--rewards", '{"name": "rouge2", "weight": 0.5}'], ["rouge2"], [0.5]),
    ],
)
def test_rewards_can_be_given_on_the_command_line(tmp_path, words, names, weights):
    recipe = load_recipe(recipe_file(tmp_path), words)
    assert [function.__name__ for function in recipe.arguments.reward_functions()] == names
    assert recipe.training.reward_weights == weights


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


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"learnin_rate": 1}, ["own.yaml: unknown key 'learnin_rate', did you mean 'learning_rate'?"]),
        ({"zzzz": 1}, ["unknown key 'zzzz'"]),
        ({"metrics": [{"name": "bleu", "weight": 2.0}]}, ["metrics: 'bleu' has a weight, but metrics are"]),
        ({"learning_rate": "fast"}, ["learning_rate is 'fast', but must be a number"]),
        ({"max_steps": 1.5}, ["max_steps is 1.5, but must be a whole number"]),
        ({"seed": True}, ["seed is True, but must be a whole number"]),
        ({"use_peft": "perhaps"}, ["use_peft is 'perhaps', but must be true or false"]),
        ({"algorithm": "sarsa"}, ["algorithm is 'sarsa', but must be one of 'zero_shot'", "'supervised+nlpo'"]),
        ({"mask_strategy": "top_q"}, ["mask_strategy is 'top_q', but must be one of 'top_p', 'top_k', 'none'"]),
        ({"eval_strategy": "often"}, ["eval_strategy is 'often', but must be one of 'no', 'steps', 'epoch'"]),
        ({"optim": "adamv"}, ["optim is 'adamv', but must be one of ", " names (did you mean 'ada"]),
        ({"dtype": "float8"}, ["dtype is 'float8', but must be one of 'auto', 'bfloat16'"]),
        ({"mask_top_p": 2.0}, ["own.yaml: mask_top_p is 2.0, but must be a number in (0, 1]"]),
        ({"generation_kwargs": "{top_k: 50"}, ["generation_kwargs is not valid JSON"]),
        ({"reward_weights": [1.0]}, ["'reward_weights' is no key of a recipe; set rewards: [{name"]),
        ({"batch_size": 8}, ["'batch_size' is no key of a recipe; set per_device_train_batch_size"]),
        ({"rewards": None}, ["rewards is missing: name at least one of", "concept_coverage"]),
        ({"rewards": [{"weight": 1}]}, ["rewards has the entry {'weight': 1}"]),
        ({"rewards": [{"name": "rougeL", "weight": "big"}]}, ["the weight of 'rougeL' is 'big'"]),
        ({"dataset_name": None}, ["dataset_name is missing"]),
        ({"max_train_samples": 0}, ["max_train_samples is 0, but must be positive"]),
        ({"env": ["A=1"]}, ["env must be a mapping"]),
        ({"use_peft": True}, ["use_peft", "model_name_or_path"]),
        ({"load_in_8bit": True, "load_in_4bit": True}, ["8 bit and 4 bit"]),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_names_file_and_key(tmp_path, keys, parts):
    text = message(recipe_file(tmp_path, **keys))
    assert "own.yaml" in text
    for part in parts:
        assert part in text


def test_a_mistake_on_the_command_line_is_said_to_be_there(tmp_path):
    path = recipe_file(tmp_path)
    assert message(path, "--sed", "1").startswith("command line: unknown key 'sed', did you mean 'seed'?")
    assert message(path, "--seed", "x").startswith("command line: seed is 'x', but must be a whole number")
    assert "unexpected 'stray'" in message(path, "stray", "--seed", "1")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("rewards: [a\nseed: 1\n", "own.yaml, line "),
        ("seed: 1\nrewards: [rouge1]\nseed: 2\n", "own.yaml, line 3: the key 'seed' is there twice"),
        ("- a\n- b\n", "own.yaml must hold a mapping of keys to values, not list"),
        ("just words", "not str"),
        ("# nothing\n", "not NoneType"),
        ("a: !!python/object/apply:os.system ['true']\n", "own.yaml, line 1: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line_with_the_place(tmp_path, text, part):
    assert part in message(recipe_file(tmp_path, text))


def test_a_binary_file_is_not_readable(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert "own.yaml, line 1: byte 0xff is no UTF-8" in message(path)


def test_a_missing_file_lists_the_recipes_that_ship(tmp_path):
    text = message(tmp_path / "quickstar.yaml")
    assert "is not there, did you mean 'quickstart'?" in text
    for name in SHIPPED:
        assert name in text
    assert "is a folder" in message(tmp_path)


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


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=st.text(alphabet=string.printable + "äß€", max_size=60), cut=st.integers(0, 400))
def test_garbage_in_a_recipe_is_a_users_mistake_and_nothing_else(tmp_path_factory, text, cut):
    path = tmp_path_factory.mktemp("garbage") / "own.yaml"
    original = SHIPPED["quickstart"].read_text()
    path.write_text(original[:cut] + text + original[cut:], encoding="utf-8")
    assert "\n" not in mistake_in(path)


@pytest.mark.parametrize(("ending", "part"), [(b"seed: '\x80'\n", "byte 0x80 is no UTF-8"), (b"a: \x00\n", r"'\x00'")])
def test_a_character_that_yaml_does_not_have_is_told_with_its_line(tmp_path, ending, part):
    path = recipe_file(tmp_path)
    lines = path.read_bytes().count(b"\n")
    path.write_bytes(path.read_bytes() + ending)
    text = message(path)
    assert f"own.yaml, line {lines + 1}: " in text
    assert part in text


def test_a_complaint_of_transformers_that_names_no_key_gets_the_one_it_is_about(tmp_path):
    path = recipe_file(tmp_path, seed=1, accelerator_config="no_such_file.json")
    assert "own.yaml: accelerator_config is 'no_such_file.json': " in message(path)
    path = recipe_file(tmp_path, seed=1)
    assert message(path, "--accelerator_config", "none.json").startswith("command line: accelerator_config is ")


def test_a_complaint_about_a_reward_names_the_key(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, rewards=["rouge7"]))
    with pytest.raises(UserError, match=r"^rewards: unknown reward 'rouge7', did you mean"):
        recipe.arguments.reward_functions()
