"""`bleurt`: against the model called by hand, pair by pair."""

from __future__ import annotations

import pickle

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from support import tiny
from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.bleurt import Bleurt


def bert(num_labels=1):
    return tiny.bert(AutoModelForSequenceClassification, num_labels=num_labels)


def rating_by_hand(reference, text):
    # In lists, as transformers takes a pair of text and "" for the text alone.
    with torch.no_grad():
        return float(bert().eval()(**tiny.wordpiece_tokenizer()([reference], [text], return_tensors="pt")).logits)


def bleurt(model=None, **options):
    return Bleurt(model or bert(), tokenizer=tiny.wordpiece_tokenizer(), device="cpu", **options)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_bleurt_is_the_models_rating_of_reference_and_text_the_best_over_references(batch_size):
    predictions, references = ["w1 w2", "w3", ""], [["w2 w1", "w5 w6 w7 w8"], "w4", ["w9"]]
    rate = [
        max(rating_by_hand(other, text) for other in ([row] if isinstance(row, str) else row))
        for text, row in zip(predictions, references, strict=True)
    ]
    assert bleurt(batch_size=batch_size).score(predictions, references=references) == pytest.approx(rate, abs=1e-5)
    assert bleurt().compute(predictions, references=references) == {"bleurt": pytest.approx(sum(rate) / 3, abs=1e-5)}


def test_bleurt_leaves_out_rows_without_references_and_refuses_classifiers():
    assert bleurt().score(["w1", "w1"], references=[[], None]) == [None, None]
    with pytest.raises(UserError, match="has 3 labels, not one: it is a classifier"):
        bleurt(bert(3)).score(["w1"], references=["w2"])


def test_it_is_pickled_without_its_weights(tmp_path):
    folder = tiny.saved(bert(), tiny.wordpiece_tokenizer(), tmp_path)
    metric = get_metric("bleurt", model=folder, device="cpu")
    before = metric.score(["w1"], references=["w2"])
    assert len(pickle.dumps(metric)) < 2000
    assert pickle.loads(pickle.dumps(metric)).score(["w1"], references=["w2"]) == pytest.approx(before)
