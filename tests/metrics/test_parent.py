"""PARENT's table: what it may look like, what rows are left out; its numbers are among the known answers."""

from __future__ import annotations

import pickle

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.parent import Parent


TABLE = [["name", "born"], ["Ann Lee", "1990"]]


def test_a_row_without_references_or_a_table_has_no_score():
    metric = Parent()
    rows = {"references": [[], ["a"], ["a"], ["a"]], "table": [TABLE, [], None, [["", " "]]]}
    assert metric.score(["a"] * 4, **rows) == [None] * 4
    with pytest.raises(UserError, match="'parent' applies to no row: references or table are empty"):
        metric.compute(["a"] * 4, **rows)


def test_a_table_of_one_row_has_no_header():
    assert Parent(table_weight=1).score(
        ["ann was born here"], references=["ann was born here"], table=[[["ann"]]]
    ) == [1.0]


def test_totto_asks_for_highlighted_cells_and_they_alone_must_be_named():
    assert get_metric("parent", totto=True).columns == ("references", "table", "highlighted_cells")
    text = "ann lee sings well"
    rows = {"references": [text, text], "table": [TABLE] * 2, "highlighted_cells": [[[1, 0]], [[1, 1]]]}
    first, second = Parent(totto=True, table_weight=1).score([text, text], **rows)
    assert first == pytest.approx(1.0)
    # P = 1, nothing that is highlighted is named: R = 0.00001.
    assert second == pytest.approx(2e-5 / (1 + 1e-5))


@pytest.mark.parametrize(
    ("options", "row", "message"),
    [
        ({}, {"table": "name ann"}, "row 0: the table must be a list of rows of cells, not 'name ann'"),
        ({}, {"table": ["name", "ann"]}, "must be a list of rows of cells"),
        ({"totto": True}, {"table": TABLE, "highlighted_cells": [[5, 0]]}, "must be pairs of a row and a column"),
        ({"totto": True}, {"table": TABLE, "highlighted_cells": [1]}, "must be pairs of a row and a column"),
    ],
)
def test_a_table_of_another_form_is_one_line(options, row, message):
    with pytest.raises(UserError, match=message):
        Parent(**options).score(["a"], references=["a"], **{name: [value] for name, value in row.items()})


@pytest.mark.parametrize("options", [{"table_weight": 1.5}, {"smoothing": 0.0}])
def test_an_option_out_of_range_is_told(options):
    with pytest.raises(UserError, match="must lie between 0 and 1"):
        get_metric("parent", **options)


def test_it_can_be_pickled_and_does_not_mind_what_trl_passes_beside_columns():
    metric = pickle.loads(pickle.dumps(Parent()))
    beside = {"trainer_state": object(), "log_extra": None, "name": "x"}
    assert metric.score(["ann lee sings well"], references=["ann lee sings well"], table=[TABLE], **beside) == [
        pytest.approx(2 * 0.5**0.5 / (1 + 0.5**0.5))
    ]
