"""SPICE: F1 of tuples by hand under a stand-in parser, and the program's protocol under a stand-in `java`."""

from __future__ import annotations

import sys

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.spice import Spice


GRAPHS = {
    "a brown dog chases a cat": [("dog",), ("dog", "brown"), ("cat",), ("dog", "chase", "cat")],
    "a dog": [("dog",)],
    "a black cat": [["cat"], ["cat", "black"]],
    "hm": [],
}


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("a brown dog chases a cat", ["a brown dog chases a cat"], 1.0),
        ("a dog", ["a brown dog chases a cat"], 2 * 1 / (1 + 4)),
        # The references together say 5 things, "cat" counted once.
        ("a black cat", ["a dog", "a black cat", "a brown dog chases a cat"], 2 * 2 / (2 + 5)),
        ("a dog", ["a black cat"], 0.0),
        ("hm", ["a dog"], 0.0),
        ("hm", ["hm"], 0.0),
    ],
)
def test_tuples_shared_with_the_union_of_the_references_count(prediction, references, expected):
    assert Spice(GRAPHS.__getitem__).score([prediction], references=[references]) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs either `parser`.*or `jars`.*CoreNLP.*Java"),
        ({"parser": "support.metric_options.words_as_objects", "jars": "x"}, "needs either"),
        ({"parser": "support.metric_options.word_as_object"}, "did you mean 'words_as_objects'"),
        ({"jars": "nowhere"}, "no spice-1.0.jar in nowhere"),
    ],
)
def test_what_is_missing_is_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        get_metric("spice", **options)
    assert "\n" not in str(caught.value)


def test_a_parser_that_gives_no_tuples_is_told():
    with pytest.raises(UserError, match="the parser gave 'dog', not a tuple of strings"):
        Spice(lambda text: ["dog"]).score(["a"], references=["b"])


JAVA = """#!{python}
import json, sys
given, made = sys.argv[4], sys.argv[6]
assert sys.argv[1:4] == ["-Xmx1G", "-jar", "spice-1.0.jar"] and sys.argv[5] == "-out", sys.argv
rows = json.load(open(given))
scores = {{"a dog": 0.5, "nothing": float("nan")}}
if any(row["test"] == "bad" for row in rows):
    sys.exit("Exception in thread main")
json.dump([{{"image_id": row["image_id"], "scores": {{"All": {{"f": scores[row["test"]]}}}}}} for row in rows[::-1]],
          open(made, "w"))
"""


def test_the_jars_are_run_on_the_rows_that_have_something_to_say(tmp_path, monkeypatch):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(JAVA.format(python=sys.executable))
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent))
    (tmp_path / "lib").mkdir()
    (tmp_path / "spice-1.0.jar").touch()
    with pytest.raises(UserError, match=r"no stanford-corenlp-3.6.0.jar in .*lib"):
        Spice(jars=str(tmp_path))
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (tmp_path / "lib" / name).touch()
    metric = Spice(jars=str(tmp_path), memory="1G")
    texts = ["a dog", "", "nothing", "a dog"]
    assert metric.score(texts, references=[["x"], ["x"], "x", []]) == [0.5, 0.0, 0.0, None]
    with pytest.raises(UserError, match="java ended with exit code 1: Exception in thread main"):
        metric.score(["bad"], references=["x"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs Java"):
        Spice(jars=str(tmp_path))
