"""Recipe files of a test, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trl_nlpo.errors import UserError
from trl_nlpo.recipes.recipe import load_recipe


MINIMAL = {"dataset_name": "quickstart", "rewards": ["pleasant_sentence"]}


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
