"""Tasks and presets in recipes: who decides a key."""

from __future__ import annotations

import pytest
import yaml

from trl_nlpo.data.splits import load_splits
from trl_nlpo.errors import UserError
from trl_nlpo.recipes.files import shipped_recipes
from trl_nlpo.recipes.recipe import load_recipe, write_resolved
from trl_nlpo.tasks import get_task, task_names


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(*overrides, **keys):
    with open("mine.yaml", "w") as file:
        yaml.safe_dump({"task": "commongen", **keys}, file)
    return load_recipe("mine.yaml", overrides)


def test_a_task_decides_what_the_recipe_does_not():
    task, made = get_task("commongen"), recipe(response_length=7)
    assert made.training.response_length == 7
    assert made.arguments.prompt_template == task.prompt_template
    assert made.training.max_prompt_length == task.max_prompt_length
    assert made.model.model_name_or_path == "google-t5/t5-base"
    assert [spec.name for spec in made.arguments.reward_specs] == ["meteor", "prompt_repetition"]
    assert made.arguments.dataset_name is None


def test_a_preset_overrides_the_file_and_the_command_line_overrides_the_preset():
    made = recipe("--preset", "tiny", "--hidden_size", "16", hidden_size=64, max_steps=999)
    assert made.arguments.hidden_size == 16
    assert made.training.max_steps == 30
    assert made.model.model_name_or_path is None
    assert made.arguments.model_type == "t5"
    assert made.arguments.dataset_name == "miniature"
    assert [spec.name for spec in made.arguments.reward_specs] == ["concept_coverage", "rougeL"]


def test_a_preset_in_the_file_is_the_same():
    assert recipe(preset="tiny").resolved == recipe("--preset", "tiny").resolved


def test_the_keys_of_a_file_override_the_preset_that_it_names_and_the_command_line_both():
    made = recipe("--hidden_size", "16", preset="tiny", hidden_size=64, max_steps=999)
    assert (made.training.max_steps, made.arguments.hidden_size) == (999, 16)
    assert made.arguments.dataset_name == "miniature"
    assert recipe("--preset", "tiny", preset="tiny", max_steps=999).training.max_steps == 30


def test_a_resolved_recipe_with_a_preset_gives_the_same_recipe_again(working_directory):
    made = recipe("--preset", "tiny", "--hidden_size", "16")
    write_resolved(made, working_directory / "again.yaml")
    again = load_recipe("again.yaml")
    assert again.resolved == made.resolved
    assert again.arguments == made.arguments


def test_a_tiny_model_is_of_the_kind_of_the_recipes():
    assert recipe("--preset", "tiny", model_name_or_path="openai-community/gpt2").arguments.model_type == "llama"
    assert recipe("--preset", "tiny", "--model_type", "gpt2").arguments.model_type == "gpt2"


@pytest.mark.parametrize(
    ("overrides", "keys", "message"),
    [
        (["--preset", "tinny"], {}, "command line: preset is 'tinny', did you mean 'tiny'"),
        (["--preset", "tiny"], {"task": None}, "command line: preset 'tiny' needs a recipe with a task"),
        (["--task", "comongen"], {}, "command line: unknown task 'comongen', did you mean 'commongen'"),
        ([], {"metrics": ["rougel"], "rewards": "rougeL"}, "unknown metric 'rougel', did you mean 'rougeL'"),
        ([], {"supervised_model": "x", "algorithm": "ppo"}, "algorithm 'ppo' has no supervised stage"),
    ],
)
def test_what_is_wrong_is_one_line(overrides, keys, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe(*overrides, **keys).arguments.check_functions()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", task_names())
def test_every_task_has_a_recipe_whose_pair_differs_in_nothing_but_the_mask(name):
    assert name in shipped_recipes()
    ppo, nlpo = (load_recipe(name, ["--algorithm", f"supervised+{rl}"]).resolved for rl in ("ppo", "nlpo"))
    different = {key for key in {*ppo, *nlpo} if ppo.get(key) != nlpo.get(key)}
    assert different == {"algorithm", "mask_strategy"}


@pytest.mark.parametrize("name", task_names())
def test_every_tasks_recipe_has_lora_the_papers_discount_and_settings_of_its_own(name):
    made = load_recipe(name)
    assert made.model.use_peft
    assert made.training.gamma == 0.95
    assert made.arguments.task == name
    with open(shipped_recipes()[name]) as file:
        # A comment for every line of keys, or the block that it stands in.
        assert sum(line.startswith("#") for line in file) > 20


def test_held_out_rows_of_a_miniature_do_not_depend_on_the_size_of_the_train_split():
    few = load_splits(recipe("--preset", "tiny", "--max_train_samples", "8").arguments)
    many = load_splits(recipe("--preset", "tiny", "--max_train_samples", "30").arguments)
    assert few.test["prompt"] == many.test["prompt"]
    assert len(few.train) == 8
    assert len(many.train) == 30
    assert not set(many.train["prompt"]) & {*many.test["prompt"], *many.validation["prompt"]}


def test_a_folder_is_read_by_the_tasks_prefix(working_directory):
    for split in ("train", "validation", "test"):
        (working_directory / f"commongen_{split}.jsonl").write_text(
            '{"prompt": "dog ball", "references": ["A dog has a ball."], "concepts": ["dog", "ball"]}\n'
        )
        (working_directory / f"imdb_{split}.jsonl").write_text('{"prompt": "x", "references": ["y"]}\n')
    splits = load_splits(recipe(dataset_name=".").arguments)
    assert splits.test["prompt"] == ["generate a sentence with: dog ball."]
    assert splits.test["concepts"] == [["dog", "ball"]]
