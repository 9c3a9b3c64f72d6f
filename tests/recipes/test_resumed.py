"""A run is resumed with its own recipe, or with one that differs in nothing that matters."""

from __future__ import annotations

import pytest
import yaml

from trl_nlpo.errors import UserError
from trl_nlpo.recipes.recipe import load_recipe, write_resolved
from trl_nlpo.recipes.resumed import check_resumed_recipe


OWN_MODEL = {"dataset_name": "quickstart", "rewards": ["pleasant_sentence"], "max_steps": 4, "learning_rate": 1e-4}
LOADED_MODEL = {**OWN_MODEL, "model_name_or_path": "some/model", "use_peft": True, "lora_r": 8}


@pytest.fixture
def started(tmp_path):
    """A run that was started with some keys, to be resumed with these and others."""

    def start(keys):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump({**keys, "output_dir": str(tmp_path / "run")}))
        (tmp_path / "run").mkdir()
        write_resolved(load_recipe(path), tmp_path / "run" / "recipe.yaml")
        return lambda *words: load_recipe(path, ["--resume_from_checkpoint", "true", *words])

    return start


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], None),
        (["--resume_from_checkpoint", "true"], True),
        (["--resume_from_checkpoint", "True"], True),
        (["--resume_from_checkpoint"], True),
        (["--resume_from_checkpoint", "false"], False),
        (["--resume_from_checkpoint", "null"], None),
        (["--resume_from_checkpoint", "run/checkpoint-2"], "run/checkpoint-2"),
    ],
)
def test_what_to_resume_from_is_true_false_or_a_folder(tmp_path, words, value):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN_MODEL))
    recipe = load_recipe(tmp_path / "own.yaml", words)
    assert recipe.arguments.resume_from_checkpoint == value
    assert "resume_from_checkpoint" not in recipe.resolved


def refusal(recipe, force=False):
    with pytest.raises(UserError) as caught:
        check_resumed_recipe(recipe, force)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_is_resumed_with_the_same_recipe(started):
    check_resumed_recipe(started(OWN_MODEL)())


@pytest.mark.parametrize(
    "words",
    [
        "--max_steps 8", "--logging_steps 5", "--log_completions", "--save_total_limit 7", "--eval_strategy steps",
        "--per_device_eval_batch_size 3", "--push_to_hub --hub_model_id me/model", "--run_name again",
        "--save_steps 1", "--rewards pleasant_sentence", "--logging_first_step",
    ],
)  # fmt: skip
def test_what_decides_nothing_about_the_weights_may_change_and_a_run_may_get_longer(started, words):
    check_resumed_recipe(started(OWN_MODEL)(*words.split()))


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("--learning_rate 1e-3", "learning_rate: 0.0001 -> 0.001"),
        ("--seed 1", "seed: 42 -> 1"),
        ("--max_steps 2", "max_steps: 4 -> 2"),
        ("--per_device_train_batch_size 16", "per_device_train_batch_size: 8 -> 16"),
        ("--rewards grammatical", "rewards: [pleasant_sentence] -> grammatical"),
        ("--kl_target 3", "kl_target: null -> 3.0"),
        ("--mask_top_p 0.5", "mask_top_p: 0.9 -> 0.5"),
    ],
)
def test_what_changes_the_training_is_listed_and_can_be_forced(started, words, change):
    recipe = started(OWN_MODEL)(*words.split())
    text = refusal(recipe)
    assert f"another recipe: {change}. " in text
    assert "--force" in text
    check_resumed_recipe(recipe, force=True)


def test_all_differences_are_listed(started):
    text = refusal(started(OWN_MODEL)("--seed", "1", "--gamma", "1", "--logging_steps", "3"))
    assert "another recipe: seed: 42 -> 1; gamma: 0.95 -> 1.0. " in text


@pytest.mark.parametrize(
    ("keys", "words", "change"),
    [
        (OWN_MODEL, "--hidden_size 32", "hidden_size: 256 -> 32"),
        (OWN_MODEL, "--model_name_or_path some/model", "model_name_or_path: null -> some/model"),
        (OWN_MODEL, "--algorithm supervised+nlpo", "algorithm: nlpo -> supervised+nlpo"),
        # The tokenizer was trained on these texts.
        (OWN_MODEL, "--dataset_name other.jsonl", "dataset_name: quickstart -> other.jsonl"),
        (OWN_MODEL, "--max_train_samples 9", "max_train_samples: null -> 9"),
        (LOADED_MODEL, "--lora_r 4", "lora_r: 8 -> 4"),
        (LOADED_MODEL, "--use_peft false", "use_peft: true -> false"),
        (LOADED_MODEL, "--model_name_or_path other/model", "model_name_or_path: some/model -> other/model"),
    ],
)
def test_another_model_or_tokenizer_can_never_be_forced(started, keys, words, change):
    recipe = started(keys)(*words.split())
    assert refusal(recipe, force=True) == refusal(recipe)
    assert change in refusal(recipe)
    assert "--force" not in refusal(recipe)


def test_other_data_for_a_model_with_a_tokenizer_can_be_forced(started):
    recipe = started(LOADED_MODEL)("--dataset_name", "other.jsonl")
    assert "--force" in refusal(recipe)
    check_resumed_recipe(recipe, force=True)


def test_a_checkpoint_that_is_named_is_compared_with_the_recipe_of_its_own_run(started, tmp_path):
    resumed = started(OWN_MODEL)
    words = ["--output_dir", str(tmp_path / "other"), "--resume_from_checkpoint", str(tmp_path / "run/checkpoint-2")]
    check_resumed_recipe(resumed(*words))
    assert "seed: 42 -> 1" in refusal(resumed(*words, "--seed", "1"))


def test_a_folder_without_a_recipe_is_left_to_the_trainer(started, tmp_path):
    resumed = started(OWN_MODEL)
    check_resumed_recipe(resumed("--output_dir", str(tmp_path / "new"), "--seed", "1"))
