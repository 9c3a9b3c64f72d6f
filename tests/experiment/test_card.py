"""What a run's card says of its start, its data and its prompts, told where the run is."""

from __future__ import annotations

import pytest
import yaml
from datasets import Dataset

from support.recipe_files import recipe_file
from trl_nlpo.experiment.card import with_recipe
from trl_nlpo.hub.card import CardFacts
from trl_nlpo.recipes.recipe import load_recipe


def facts(tmp_path, prompt="one", columns=None, **keys):
    recipe = load_recipe(recipe_file(tmp_path, algorithm="supervised+nlpo", use_cpu=True, bf16=False, **keys))
    test = Dataset.from_list([{"prompt": prompt, **(columns or {})}])
    return with_recipe(CardFacts("x", "NLPO", {}, [], {}), recipe, test)


def test_names_on_the_hub_are_told_from_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = facts(tmp_path, model_name_or_path="me/base", dataset_name="me/rows")
    assert (there.base_model, there.dataset_name, there.data) == ("me/base", "me/rows", None)
    (tmp_path / "me" / "base").mkdir(parents=True)
    (tmp_path / "me" / "rows").mkdir()
    here = facts(tmp_path, model_name_or_path="me/base", dataset_name="me/rows")
    assert (here.base_model, here.dataset_name, here.data) == (None, None, "rows that are not on the Hub")


def test_data_that_is_made_up_is_no_data_set_on_the_hub(tmp_path):
    quickstart = facts(tmp_path)
    assert (quickstart.dataset_name, quickstart.task) == (None, "quickstart")
    assert facts(tmp_path, task="commongen", dataset_name="miniature").dataset_name is None
    of_task = facts(tmp_path, task="commongen", dataset_name=None)
    assert (of_task.dataset_name, of_task.base_model) == ("allenai/common_gen", "google-t5/t5-base")


def test_the_start_of_a_supervised_model_of_another_run_is_in_its_recipe(tmp_path):
    (tmp_path / "other" / "supervised").mkdir(parents=True)
    given = {"supervised_model": str(tmp_path / "other" / "supervised"), "model_name_or_path": "me/unused"}
    assert facts(tmp_path, **given).base_model is None
    (tmp_path / "other" / "recipe.yaml").write_text(yaml.safe_dump({"model_name_or_path": "me/base"}))
    assert facts(tmp_path, **given).base_model == "me/base"


@pytest.mark.parametrize(
    ("template", "prompt", "columns", "example"),
    [
        ("say: {prompt}", "say: it", {}, {"prompt": "it"}),
        ("{topic} ({prompt}) ", "a b (it)", {"topic": ["a", "b"]}, {"topic": "a b", "prompt": "it"}),
        ("{topic}!", "x!", {"topic": "x"}, {"topic": "x"}),
    ],
)
def test_the_example_gives_the_prompt_again(tmp_path, template, prompt, columns, example):
    reading = facts(tmp_path, prompt, columns, prompt_template=template).reading
    assert (reading.template, reading.example) == (template, example)
    assert template.format(**example).rstrip(" ") == prompt


def test_a_prompt_that_cannot_be_taken_out_of_its_template_is_shown_whole(tmp_path):
    reading = facts(tmp_path, "it and it", prompt_template="{prompt} and {prompt}").reading
    assert (reading.template, reading.example) == ("{prompt}", {"prompt": "it and it"})


def test_messages_are_an_example_without_what_they_lack(tmp_path):
    reading = facts(tmp_path, [{"role": "user", "content": "Hi", "name": None}]).reading
    assert reading.messages == [{"role": "user", "content": "Hi"}]
