"""`docs/grue.md` says what recipes and tasks are, key by key, and why wherever that is not what RL4LMs has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.tasks import get_task, task_names


PAGE = Path(__file__).parents[2] / "docs" / "grue.md"
NO_REASON = "\N{EN DASH}"
HEADER = ["setting", "paper", "RL4LMs", "ours", "why ours differs"]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def section(title):
    text = PAGE.read_text(encoding="utf-8")
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(title):
    """The rows of a section's table, by setting: (setting, paper, RL4LMs, ours, why)."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == HEADER
    assert all(len(row) == len(HEADER) for row in cells)
    return cells[2:]


def keys(row):
    return quoted(row[0])


def value(text, like):
    """A value as the page writes it; texts stand as they are."""
    if isinstance(like, str) and text == like:
        return text
    loaded = yaml.safe_load(text)
    return float(loaded) if isinstance(like, float) and loaded is not None else loaded


@pytest.fixture(scope="module", params=task_names())
def task(request):
    return get_task(request.param)


@pytest.fixture(scope="module")
def recipe(task):
    return load_recipe(task.name, ["--use_cpu", "true"])


def setting(recipe, key):
    """A key of a recipe, or the default that it leaves as it is."""
    if key in recipe.resolved:
        return recipe.resolved[key]
    holder = next(part for part in (recipe.arguments, recipe.training, recipe.model) if hasattr(part, key))
    found = getattr(holder, key)
    return getattr(found, "value", found)


def test_every_value_of_every_recipe_is_the_one_on_the_page(task, recipe):
    wrong = {}
    for row in rows("All tasks") + rows(f"`{task.name}`"):
        ours = quoted(row[3])
        assert len(ours) >= len(keys(row)), row
        for key, text in zip(keys(row), ours, strict=False):
            actual = setting(recipe, key)
            if value(text, actual) != actual:
                wrong[key] = (text, actual)
    assert wrong == {}


def test_no_key_of_a_recipe_is_left_out(task, recipe):
    on_page = {key for row in rows("All tasks") + rows(f"`{task.name}`") for key in keys(row)}
    without_counterpart = set(quoted(section("All tasks").split("Keys of the run itself", 1)[1]))
    in_cells = {"mask_sync_steps", "value_trains_backbone"}
    assert set(recipe.resolved) - on_page - without_counterpart - in_cells == set()


@pytest.mark.parametrize("title", ["All tasks", *(f"`{name}`" for name in task_names())])
def test_every_difference_from_rl4lms_has_a_reason_and_nothing_else_has_one(title):
    for row in rows(title):
        names, theirs, ours, why = keys(row), quoted(row[2]), quoted(row[3]), row[4]
        is_reason = len(why) > 10
        assert is_reason or why == NO_REASON, row
        if names:
            assert is_reason is (theirs[: len(names)] != ours[: len(names)]), row


def test_data_commit_and_row_counts_are_the_tasks(task):
    by_name = {row[0].split(":")[0]: row for row in rows(f"`{task.name}`")}
    data, *revision = quoted(by_name["data"][3])
    assert data == task.hub.path
    pinned = task.hub.options.get("revision")
    if pinned is not None:
        assert revision[0] == pinned
    assert ("not pinned" in by_name["data"][3]) == (pinned is None or not re.fullmatch(r"[0-9a-f]{40}", pinned))
    numbers = [int(text) for text in quoted(by_name["rows"][3])]
    if task.name == "imdb":
        # Portions of 25,000 each.
        assert task.hub.rows == {"train": 25_000, "test": 25_000}
        assert numbers == [20_000, 5_000, 5_000]
    else:
        assert numbers == list(task.hub.rows.values())
