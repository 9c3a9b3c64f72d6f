"""From a name to what it names, and what is said when there is no such thing."""

from __future__ import annotations

import math
import sys

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.naming import check_attribute, check_int, did_you_mean, import_attribute, require_package


def test_the_nearest_known_name_is_suggested_whatever_its_case():
    assert did_you_mean("rougel", ["rouge1", "rougeL"]) == ", did you mean 'rougeL'?"
    assert did_you_mean("zzz", ["rouge1"]) == ""


def test_a_module_of_a_package_is_imported():
    assert require_package("os.path", "metric 'x'").join("a", "b")


def test_a_missing_package_is_named_with_who_needs_it_and_how_to_install_it():
    with pytest.raises(UserError) as caught:
        require_package("no_such_package.part", "metric 'x'", "extra")
    assert str(caught.value) == (
        "metric 'x' needs the package no-such-package: install it with `pip install \"trl-nlpo[extra]\"`."
    )


@pytest.mark.parametrize("value", [0, True, 2.0, "2", None])
def test_what_is_no_whole_number_or_too_small_is_refused(value):
    with pytest.raises(UserError) as caught:
        check_int("metric 'x'", "window", value, 1, "a number of tokens")
    assert str(caught.value) == f"metric 'x': window must be a number of tokens from 1, not {value!r}."


def test_the_least_number_is_allowed():
    check_int("metric 'x'", "layer", 0, 0)


def test_a_dotted_path_names_an_attribute_of_a_module():
    assert import_attribute("math.pi", "reward 'math.pi'") == math.pi
    with pytest.raises(UserError, match=r"^reward 'math.py': math has no 'py'"):
        import_attribute("math.py", "reward 'math.py'")
    with pytest.raises(
        UserError, match=r"^task 'a b': this is no path of a module and a name in it, such as my_module:my_name\.$"
    ):
        import_attribute("a b", "task 'a b'", ":")


def test_a_path_is_checked_without_running_the_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "my_pack").mkdir()
    code = "open('ran', 'w')\nfrom math import pi as tau\ndef reward(): pass\nlater = reward\n"
    (tmp_path / "my_pack" / "mine.py").write_text(code)
    (tmp_path / "my_pack" / "open.py").write_text("from math import *\n")
    for path in ("my_pack.mine.reward", "my_pack.mine.tau", "my_pack.mine.later", "my_pack.open.anything", "math.pi"):
        check_attribute(path, "reward 'x'")
    with pytest.raises(UserError, match=r"my_pack\.mine has no 'rewad', did you mean 'reward'"):
        check_attribute("my_pack.mine.rewad", "reward 'x'")
    for path in ("my_pack.other.reward", "no_pack.reward"):
        with pytest.raises(UserError, match="there is no module"):
            check_attribute(path, "reward 'x'")
    assert not (tmp_path / "ran").exists()
