"""Modules that have moved into folders are still found under their former names, with a warning."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

from trl_nlpo.former_names import MOVED


@pytest.mark.parametrize("name", MOVED)
def test_a_former_name_gives_what_is_there_now_and_says_where(name, monkeypatch):
    moved = importlib.import_module(f"trl_nlpo.{MOVED[name]}")
    with pytest.warns(FutureWarning, match=f"trl_nlpo.{name} is now trl_nlpo.{MOVED[name]}"):
        former = importlib.import_module(f"trl_nlpo.{name}")
    monkeypatch.delitem(sys.modules, f"trl_nlpo.{name}")
    public = next(key for key in vars(moved) if not key.startswith("_") and key != "annotations")
    assert getattr(former, public) is getattr(moved, public)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = former.nothing


def test_the_warning_is_about_the_line_that_imports(tmp_path):
    (tmp_path / "old.py").write_text("from trl_nlpo.recipe_arguments import RecipeArguments\n")
    result = subprocess.run([sys.executable, "old.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "old.py:1: FutureWarning" in result.stderr


def test_other_names_are_not_there():
    assert importlib.util.find_spec("trl_nlpo.nothing") is None
