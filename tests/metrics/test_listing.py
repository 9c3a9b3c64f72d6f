"""`trl-nlpo metrics`: what each metric is, in the words of its class, its documents and its checks."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from support.commands import run_cli
from support.metric_options import OPTIONS
from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.listing import FACTS, entries_named, entry_lines, in_words, metric_entries, options_of
from trl_nlpo.metrics.registry import fixed_options, metric_class, metric_names


ENTRIES = {entry.name: entry for entry in metric_entries()}
PACKAGES = ("evaluate", "nltk", "pysbd", "rouge_score", "sacrebleu", "simplemma")
DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_every_metric_is_listed_and_described():
    assert list(ENTRIES) == metric_names()
    assert set(FACTS) == {*metric_names()}
    assert all(len(entry.meaning.split()) > 2 for entry in ENTRIES.values())


@pytest.mark.parametrize("name", metric_names())
def test_the_direction_is_that_of_the_class(name):
    better = metric_class(name).better
    assert (f"{better} is better" if better else "neither end is better") in ENTRIES[name].facts[0]


@pytest.mark.parametrize("name", metric_names())
def test_what_needs_a_package_says_so_and_nothing_else_does(name, monkeypatch):
    for package in PACKAGES:
        for module in [module for module in sys.modules if module.partition(".")[0] == package]:
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, package, None)
    needs = FACTS[name].needs
    cls = metric_class(name)
    assert cls.needs_model == ("a model of your choice" in needs)
    if cls.needs_model or name in ("spice", "meteor", "parent"):
        # Made when texts are read, or needs more than packages.
        return
    from trl_nlpo.metrics.rouge import _scorer
    from trl_nlpo.metrics.sacrebleu_metric import scorer

    _scorer.cache_clear()
    scorer.cache_clear()
    if "trl-nlpo[metrics]" in needs:
        with pytest.raises(UserError, match=r"trl-nlpo\[metrics\]"):
            get_metric(name, **OPTIONS.get(name, {}))
    else:
        get_metric(name, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", metric_names())
def test_scales_are_those_of_the_document(name):
    """The section about a metric has its range, where it writes one as `a to b`."""
    section = next(
        (
            part
            for part in re.split(r"^### ", DOCUMENT, flags=re.MULTILINE)[1:]
            if name in re.findall(r"[\w+]+", part.partition("\n")[0])
        ),
        "",
    )
    found = re.search(r"(?:Scale: |- Scale: )(-?\d+) (?:to|or) (\d+)", section)
    assert found is None or FACTS[name].scale == (float(found[1]), float(found[2]))
    assert found is not None or name not in ("bleu", "rouge1", "chrf", "cider", "summac", "meteor", "classifier")


def test_options_are_those_that_the_name_leaves_open_with_defaults_and_meanings():
    assert "max_order: 4" in ENTRIES["bleu"].options
    assert not [option for option in ENTRIES["bleu3"].options if option.startswith(("max_order", "name"))]
    assert ENTRIES["classifier"].options["label: (needed)"]
    assert ENTRIES["ter"].options["normalized: false"] == "as in sacrebleu."
    assert ENTRIES["ter"].options["max_words: 80"].endswith("null searches always.")
    for name in metric_names():
        known = {*inspect.signature(metric_class(name)).parameters} - {*fixed_options(name)}
        assert {option.partition(":")[0] for option in ENTRIES[name].options} == known


def test_an_option_that_a_docstring_describes_over_several_lines_is_whole():
    class Described:
        """What it is.

        Args:
            first (`str | None`, defaults to `None`): one line
                and another.
            second, third (`int`): both (really): of them.
            fourth (`bool`)

        What follows is no argument.
        """

        def __init__(self, first=None, second=1, third=2, fourth=True):
            pass

    assert options_of(Described, {"third": 2}) == {
        "first: null": "one line and another.", "second: 1": "both (really): of them.", "fourth: true": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "words"),
    [((0, 1), "0 to 1"), ((1, float("inf")), "from 1"), ((-float("inf"), 1), "up to 1"),
     ((-float("inf"), float("inf")), "no fixed range")],
)  # fmt: skip
def test_a_range_in_words(scale, words):
    assert in_words(scale) == words


def test_lines_are_no_longer_than_the_screen():
    lines = [line for explains in (True, False) for line in entry_lines(metric_entries(), 80, explains)]
    assert not [line for line in lines if len(line) > 80]


def test_names_are_found_by_a_part_and_the_nearest_is_named_for_one_that_is_none(monkeypatch, capsys):
    assert [entry.name for entry in entries_named("metric", metric_entries(), ["ROUGEl"])] == ["rougeL", "rougeLsum"]
    code, out, err = run_cli(monkeypatch, capsys, "metrics", "chrf")
    assert (code, err) == (0, "")
    assert out.startswith("chrf    F2 of shared character n-grams up to 6\n        0 to 100; higher is better. Needs ")
    code, _, err = run_cli(monkeypatch, capsys, "metrics", "blue")
    assert (code, err) == (
        2, "trl-nlpo: no metric has 'blue' in its name, did you mean 'bleu'? `trl-nlpo metrics` lists all.\n"
    )  # fmt: skip
