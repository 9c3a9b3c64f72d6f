"""CIDEr-D against `pycocoevalcap` where it is there, and document frequencies: whose, and what without them."""

from __future__ import annotations

import json
import math
import pickle
import random

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.metrics.cider import Cider
from trl_nlpo.rewards import get_reward


def made_up_rows(count=30):
    draw = random.Random(0)

    def text():
        return " ".join(f"w{draw.randrange(12)}" for _ in range(draw.randint(1, 12)))

    return [text() for _ in range(count)], [[text() for _ in range(draw.randint(1, 4))] for _ in range(count)]


def test_it_is_pycocoevalcaps_row_by_row_and_as_a_whole():
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer(n=4, sigma=6.0)
    predictions, references = made_up_rows()
    for text, row in zip(predictions, references, strict=True):
        scorer += (text, row)
    mean, each = scorer.compute_score()
    assert Cider().compute(predictions, references=references) == {"cider": pytest.approx(mean, abs=1e-12)}
    fitted = Cider(document_frequencies=references)
    assert fitted.score(predictions, references=references) == pytest.approx(list(each), abs=1e-12)


def test_a_score_depends_on_the_counted_references_and_not_on_the_batch():
    metric = Cider(document_frequencies=[["a dog barks"], ["a cat"], ["a dog"]])
    one = metric.score(["a dog"], references=[["a dog barks"]])
    many = metric.score(["a dog", "a cat", "a dog"], references=[["a dog barks"], ["a cat"], ["a dog barks"]])
    assert many[0] == many[2] == one[0]
    # "a" is everywhere and weighs 0; "dog" log 3/2, "barks" log 3; "a dog" log 3/2, "dog barks" log 3; one word less.
    cosine = math.log(3 / 2) / math.hypot(math.log(3 / 2), math.log(3))
    assert one == [pytest.approx(10 / 4 * 2 * cosine * math.exp(-1 / 72))]


def test_without_document_frequencies_all_n_grams_weigh_alike_and_it_is_said_once():
    metric = Cider()
    with pytest.warns(UserWarning, match="there are no document frequencies") as caught:
        scores = [metric.score([text], references=[[text]])[0] for text in ("a dog", "a b c d")]
    assert len(caught) == 1
    # Of four orders a text of two words has two.
    assert scores == [pytest.approx(5.0), pytest.approx(10.0)]
    with pytest.warns(UserWarning, match="a single row"):
        assert Cider().compute(["a b c d"], references=[["a b c d"]]) == {"cider": pytest.approx(10.0)}


def test_fit_counts_anew_and_a_table_counts_its_own_rows():
    metric = Cider(document_frequencies=[["a"], ["b"]])
    metric.fit([["a dog"], "a cat", []])
    assert metric.document_frequencies.rows == 2
    rows = {"predictions": ["x y", "y"], "references": [["x y"], ["y"]]}
    # "x" weighs log 2 and "x y" too, "y" nothing: (2.5 + 2.5 + 0) / 2 rows.
    assert metric.compute(**rows) == {"cider": pytest.approx(2.5)}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("rows.jsonl", '{"references": ["a dog"]}\n{"references": "a cat"}\n\n'),
        ("separators.jsonl", '{"references": ["a\u2028dog"]}\n{"references": "a\u0085cat"}\n'),
        ("rows.json", '[["a dog"], ["a cat"]]'),
        ("dicts.json", '[{"references": ["a dog"]}, {"references": ["a cat"]}]'),
    ],
)
def test_document_frequencies_come_from_files(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    counted = Cider(document_frequencies=str(tmp_path / file)).document_frequencies
    assert counted.rows == 2
    assert (counted.counts[("a",)], counted.counts[("a", "dog")], counted.counts[("x",)]) == (2, 1, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.jsonl", "'nowhere.jsonl' cannot be read: .*No such file"),
        ("broken.json", "'broken.json' cannot be read"),
        ("text.json", "must hold a list"),
        ("other.jsonl", "has a row without 'references'"),
        ([["only one"]], "the references of two rows at least, not 1"),
        ([], "not 0"),
    ],
)
def test_document_frequencies_that_cannot_be_are_one_line(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("[")
    (tmp_path / "text.json").write_text('"a"')
    (tmp_path / "other.jsonl").write_text(json.dumps({"text": "a"}))
    with pytest.raises(UserError, match=message) as caught:
        Cider(document_frequencies=given)
    assert "\n" not in str(caught.value)


def test_case_and_punctuation_do_not_count():
    metric = Cider(document_frequencies=[["a dog barks loudly"], ["b"]])
    assert metric.score(["A dog barks, loudly!"], references=[["a dog barks loudly"]]) == [pytest.approx(10.0)]


def test_the_reward_is_a_tenth_and_a_fitted_metric_can_be_pickled():
    reward = pickle.loads(pickle.dumps(get_reward("cider", document_frequencies=[["a b c d"], ["e"]])))
    rows = {"completions": ["a b c d", "", "x"], "references": [["a b c d"], ["a"], None]}
    assert reward(**rows) == [pytest.approx(1.0), 0.0, None]
