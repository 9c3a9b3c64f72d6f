"""Scores that a model gave before."""

from __future__ import annotations

import sqlite3

import pytest

from trl_nlpo.metrics import score_cache
from trl_nlpo.metrics.base import RowMetric
from trl_nlpo.metrics.score_cache import ScoreCache, cache_path, measured


class Model(score_cache.Pretrained):
    """Says which model it is without having one."""

    def __init__(self, who):
        self.who = who

    def identity(self):
        return self.who


class Lengths(RowMetric):
    """Counts letters, and remembers which texts it has read."""

    name = "lengths"
    columns = ("prompts",)
    needs_model = True

    def __init__(self, who="a model", rows_alone=True):
        self.pretrained, self.read, self.rows_alone = Model(who), [], rows_alone

    def measure(self, predictions, **columns):
        self.read += predictions
        rows = zip(predictions, columns["prompts"], strict=True)
        return [[len(text), len(prompt)] if text else None for text, prompt in rows]

    def score_of(self, measurement):
        return float(measurement[0])


@pytest.fixture
def cache(tmp_path):
    return ScoreCache(tmp_path / "folder" / "scores.sqlite")


def measure(metric, cache, texts, prompts=None, options=None):
    return measured(metric, "lengths", options or {}, texts, {"prompts": prompts or [""] * len(texts)}, cache)


def test_a_text_is_read_once_and_what_was_measured_comes_back_as_it_was(cache):
    first, second = Lengths(), Lengths()
    assert measure(first, cache, ["a", "", "abc"]) == [[1, 0], None, [3, 0]]
    assert measure(second, cache, ["abc", "new", "a", ""]) == [[3, 0], [3, 0], [1, 0], None]
    assert second.read == ["new"]


@pytest.mark.parametrize("other", ["model", "option", "prompt"])
def test_another_model_option_or_prompt_is_another_score(cache, other):
    measure(Lengths(), cache, ["a"])
    metric = Lengths("another model" if other == "model" else "a model")
    options = {"label": 1} if other == "option" else None
    assert measure(metric, cache, ["a"], ["xy" if other == "prompt" else ""], options)[0][0] == 1
    assert metric.read == ["a"]


def test_what_is_not_known_by_its_files_or_depends_on_other_rows_is_not_kept(cache):
    for metric in (Lengths(None), Lengths(rows_alone=False)):
        measure(metric, cache, ["a"])
        measure(metric, cache, ["a"])
        assert metric.read == ["a", "a"]


def test_texts_with_lone_surrogates_have_a_key_too(cache):
    assert measure(Lengths(), cache, ["\ud800"]) == measure(Lengths(), cache, ["\ud800"]) == [[1, 0]]


def test_a_file_that_is_no_database_or_cannot_be_made_only_costs_time(tmp_path):
    broken, blocked = tmp_path / "broken.sqlite", tmp_path / "file" / "scores.sqlite"
    broken.write_text("this is no database, whatever its name says")
    (tmp_path / "file").write_text("")
    for path in (broken, blocked, None):
        assert measure(Lengths(), ScoreCache(path), ["ab"]) == [[2, 0]]


def test_the_file_keeps_what_was_used_last(tmp_path):
    cache = ScoreCache(tmp_path / "scores.sqlite", most_rows=2)
    for text in ("a", "bb"):
        measure(Lengths(), cache, [text])
    measure(Lengths(), cache, ["a"])
    measure(Lengths(), cache, ["ccc"])
    with sqlite3.connect(cache.path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM scores").fetchone() == (2,)
    metric = Lengths()
    measure(metric, cache, ["a", "bb", "ccc"])
    assert metric.read == ["bb"]


def test_no_text_is_in_the_file(cache):
    measure(Lengths(), cache, ["a very private completion"], ["a very private prompt"])
    assert b"private" not in cache.path.read_bytes()


def test_where_the_file_is_may_be_said_and_it_may_be_none(monkeypatch, tmp_path):
    monkeypatch.delenv("TRL_NLPO_SCORE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path() == tmp_path / "trl-nlpo" / "scores.sqlite"
    monkeypatch.setenv("TRL_NLPO_SCORE_CACHE", str(tmp_path / "mine"))
    assert cache_path() == tmp_path / "mine"
    monkeypatch.setenv("TRL_NLPO_SCORE_CACHE", "0")
    assert cache_path() is None
