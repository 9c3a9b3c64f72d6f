"""Recipes of the examples are recipes of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from trl_nlpo.recipes.recipe import load_recipe


EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("recipe.yaml")), ids=lambda path: path.parent.name)
def test_every_key_of_an_examples_recipe_is_known_and_has_a_value_that_it_takes(path):
    assert load_recipe(path).algorithm.reinforces


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("recipe.yaml")), ids=lambda path: path.parent.name)
def test_an_example_says_what_it_needs_and_how_it_is_run(path):
    text = path.read_text(encoding="utf-8")
    assert "# Needs " in text
    assert "trl-nlpo run" in text
    assert (path.parent / "README.md").is_file()
