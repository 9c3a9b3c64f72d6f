"""Recipe files: where they are found, and what is said about a file that is not a recipe."""

from __future__ import annotations

import pytest

from support.recipe_files import message, recipe_file
from trl_nlpo.recipes.files import find_recipe, shipped_recipes


SHIPPED = shipped_recipes()


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


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("rewards: [a\nseed: 1\n", "own.yaml, line "),
        ("seed: 1\nrewards: [rouge1]\nseed: 2\n", "own.yaml, line 3: the key 'seed' occurs twice"),
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
    assert "own.yaml, line 1: byte 0xff is not UTF-8" in message(path)


def test_a_missing_file_lists_the_recipes_that_ship(tmp_path):
    text = message(tmp_path / "quickstar.yaml")
    assert "is not there, did you mean 'quickstart'?" in text
    for name in SHIPPED:
        assert name in text
    assert "is a folder" in message(tmp_path)


@pytest.mark.parametrize(
    ("ending", "part"), [(b"seed: '\x80'\n", "byte 0x80 is not UTF-8"), (b"a: \x00\n", r"'\x00'")]
)
def test_a_character_that_yaml_does_not_have_is_told_with_its_line(tmp_path, ending, part):
    path = recipe_file(tmp_path)
    lines = path.read_bytes().count(b"\n")
    path.write_bytes(path.read_bytes() + ending)
    text = message(path)
    assert f"own.yaml, line {lines + 1}: " in text
    assert part in text
