"""Rewards as a recipe names them."""

from __future__ import annotations

import pytest

from support.recipe_files import recipe_file
from trl_nlpo.errors import UserError
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.recipes.specs import parse_rewards


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


def test_a_complaint_about_a_reward_names_the_key(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, rewards=["rouge7"]))
    with pytest.raises(UserError, match=r"^rewards: unknown reward 'rouge7', did you mean"):
        recipe.arguments.reward_functions()


def test_a_metric_may_name_its_columns_and_a_column_of_groups_and_a_reward_has_both_as_options():
    entry = {"name": "parent", "as": "table", "by": "subset", "totto": True}
    (metric,) = parse_rewards([entry], "metrics")
    assert (metric.label, metric.by, metric.options) == ("table", "subset", {"totto": True})
    (reward,) = parse_rewards([entry])
    assert reward.options == {"as": "table", "by": "subset", "totto": True}
    with pytest.raises(UserError, match="metrics: 'as' of 'parent' is 3, but must be a name"):
        parse_rewards([{"name": "parent", "as": 3}], "metrics")
