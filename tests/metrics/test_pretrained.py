"""What identifies the model that a metric reads texts with, and what it measured of a row."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForSequenceClassification

from support import tiny
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.pretrained import Pretrained
from trl_nlpo.metrics.suite import compute_metrics
from trl_nlpo.recipes.specs import parse_rewards


@pytest.fixture
def classifier(tmp_path):
    tiny.bert(AutoModelForSequenceClassification, num_labels=2).save_pretrained(tmp_path / "model")
    tiny.wordpiece_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def identity(model, tokenizer=None):
    return Pretrained(model, "AutoModelForSequenceClassification", "a test", tokenizer).identity()


def test_a_folder_is_itself_until_one_of_its_files_changes(classifier):
    before = identity(str(classifier))
    assert identity(classifier) == before
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    assert identity(classifier) != before


def test_another_tokenizer_is_another_reader(classifier, tmp_path):
    tiny.wordpiece_tokenizer().save_pretrained(tmp_path / "tokenizer")
    assert identity(classifier, str(tmp_path / "tokenizer")) != identity(classifier)


def test_what_was_handed_over_loaded_has_no_identity(classifier):
    assert identity(tiny.bert(AutoModelForSequenceClassification), str(classifier)) is None
    assert identity(str(classifier), tiny.wordpiece_tokenizer()) is None


def test_a_name_on_the_hub_is_known_by_its_commit_where_that_is_here(tmp_path, monkeypatch):
    assert identity("owner/model") == "AutoModelForSequenceClassification: owner/model"
    snapshot = tmp_path / "snapshots" / "abc123" / "config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(snapshot))
    assert identity("owner/model").endswith("owner/model@abc123")


def test_a_table_that_is_made_again_loads_no_model_and_has_the_same_numbers(classifier, monkeypatch):
    specs = parse_rewards([{"name": "classifier", "model": str(classifier), "label": 1}], "metrics")
    rows = {"prompts": ["w1", "w2"]}
    first = compute_metrics(specs, ["w3 w4", ""], rows)
    monkeypatch.setattr(Pretrained, "_load_model", lambda self: pytest.fail("the model was loaded"))
    again = compute_metrics(specs, ["w3 w4", ""], rows)
    assert (again.metrics, again.rows, again.unavailable) == (first.metrics, first.rows, {})


def test_scores_and_tables_are_made_of_the_measurements():
    metric = get_metric("parent")
    rows = {"references": [["a dog ran home"], []], "table": [[["animal"], ["dog"]], []]}
    texts = ["a dog ran home", "x"]
    measured = metric.measure(texts, **rows)
    assert measured[1] is None
    assert metric.score(texts, **rows) == [measured[0][0], None]
    numbers = metric.compute(texts, **rows)
    assert list(numbers.values()) == measured[0]
