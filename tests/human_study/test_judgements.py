"""Judgements as they come: JSON Lines, and CSV from a spreadsheet."""

from __future__ import annotations

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.human_study.judgements import Choice, Rating, read_judgements


def test_ratings_of_a_spreadsheet_are_read(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("item,annotator,system,rating,is_repeat,gold\n1,ann,x,3,False,\n1,ann,x,4,TRUE,\n2,bob,y,5,0,4\n")
    ratings, choices = read_judgements(path)
    assert choices == []
    assert ratings == [
        Rating("1", "1", "ann", "x", "rating", 3.0),
        Rating("1", "1", "ann", "x", "rating", 4.0, is_repeat=True),
        Rating("2", "2", "bob", "y", "rating", 5.0, gold=4.0),
    ]


def test_choices_of_a_spreadsheet_are_read(tmp_path):
    path = tmp_path / "choices.csv"
    path.write_text('item,annotator,systems,choice\n1,ann,"[""x"", ""y""]",1\n2,ann,"[""x"", ""y""]",\n')
    _, choices = read_judgements(path)
    assert choices == [Choice("1", "1", "ann", ("x", "y"), 1), Choice("2", "2", "ann", ("x", "y"), None)]


def test_a_flag_that_is_none_is_refused(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("item,annotator,system,rating,is_repeat\n1,ann,x,3,perhaps\n")
    with pytest.raises(UserError, match="row 1: is_repeat is 'perhaps', but must be true or false"):
        read_judgements(path)
