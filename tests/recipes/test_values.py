"""Values of recipes: what fits which type, and in what words it is said when it does not."""

from __future__ import annotations

import enum
from typing import Any, Literal

import pytest

from trl_nlpo.recipes.values import WrongValueError, convert


class Colour(enum.Enum):
    RED = "red"
    NO = "no"


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        ("3", int, 3),
        ("1e3", int, 1000),
        (3.0, int, 3),
        ("1e-4", float, 1e-4),
        (2, float, 2.0),
        ("inf", float, float("inf")),
        (".inf", float | None, float("inf")),
        ("-.inf", float, float("-inf")),
        ("yes", bool, True),
        ("False", bool, False),
        (0, bool, False),
        ("3", str, "3"),
        (3, str, "3"),
        ("null", int | None, None),
        ("None", float | None, None),
        ("none", str | None, "none"),
        ("none", Literal["none", "k1"], "none"),
        ("none", Literal["eos"] | None, None),
        ("red", Colour | str, "red"),
        (False, Colour | str, "no"),
        ("a", list[str] | None, ["a"]),
        (["1", 2], list[float], [1.0, 2.0]),
        ("[1, 2]", list[float] | None, [1.0, 2.0]),
        ("none", None | str | list[str], "none"),
        (["wandb", "trackio"], None | str | list[str], ["wandb", "trackio"]),
        ({"a": 1}, dict | str | None, {"a": 1}),
        ('{"a": 1}', dict[str, Any] | str | None, {"a": 1}),
        ("file.json", dict | str | None, "file.json"),
        ("all", str | bool, "all"),
        (True, str | bool, True),
    ],
)
def test_a_value_that_fits_is_read_as_its_type(value, hint, result):
    found = convert(value, hint)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        ("three", int, "a whole number"),
        (2.5, int, "a whole number"),
        (True, int, "a whole number"),
        ("inf", int, "a whole number"),
        ("fast", float | None, "a number or null"),
        (float("nan"), float, "a number"),
        ("maybe", bool, "true or false"),
        (2, bool, "true or false"),
        (None, int, "a whole number"),
        ([1], str, "text"),
        ("blue", Colour | str, "one of 'red', 'no'"),
        ("eso", Literal["eos"] | None, "one of 'eos' or null"),
        ([["a"]], list[str], "a list"),
        ("[1, ", list[float], "a list"),
        ([1], dict | None, "a mapping (or JSON such as '{\"top_k\": 50}') or null"),
    ],
)
def test_a_value_that_does_not_fit_is_answered_with_what_would(value, hint, wanted):
    with pytest.raises(WrongValueError) as caught:
        convert(value, hint)
    assert str(caught.value) == wanted


def test_choices_of_the_field_hold_for_text_too():
    assert convert("auto", str | None, ["auto", "float32"]) == "auto"
    with pytest.raises(WrongValueError, match="one of 'auto', 'float32' or null"):
        convert("float8", str | None, ["auto", "float32"])


def test_of_many_choices_only_the_nearest_is_named():
    names = [f"name{i}" for i in range(20)]
    with pytest.raises(WrongValueError, match=r"^one of 20 names \(did you mean 'name1"):
        convert("nme1", str, names)
