"""`summac`: against the model called by hand, and scores worked out from probabilities that are given."""

from __future__ import annotations

import math
import pickle
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from support import tiny
from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics import summac as summac_module
from trl_nlpo.metrics.summac import SummaC, sentences


NLI = {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"}


def bert(num_labels=3, **options):
    return tiny.bert(AutoModelForSequenceClassification, num_labels=num_labels, **options)


def nli():
    return bert(id2label=NLI, label2id={name: index for index, name in NLI.items()})


def logits_by_hand(model, *texts):
    with torch.no_grad():
        return model.eval()(**tiny.wordpiece_tokenizer()(*texts, return_tensors="pt")).logits[0]


def summac(model=None, **options):
    return SummaC(model or nli(), tokenizer=tiny.wordpiece_tokenizer(), device="cpu", **options)


class Given(SummaC):
    """Probabilities of entailment and contradiction by premise and hypothesis."""

    def __init__(self, table, **options):
        super().__init__("no/model", **options)
        self.table = table

    def _probabilities(self, pairs):
        return {pair: torch.tensor(self.table[pair]) for pair in pairs}


TABLE = {
    ("A one.", "X two."): (0.2, 0.7),
    ("B one.", "X two."): (0.9, 0.1),
    ("A one.", "Y two."): (0.4, 0.0),
    ("B one.", "Y two."): (0.3, 0.5),
}
TEXTS = {"predictions": ["X two. Y two."], "prompts": ["A one. B one."]}


def test_the_best_sentence_of_the_source_counts_and_the_mean_over_the_texts():
    assert Given(TABLE).score(**TEXTS) == [pytest.approx((0.9 + 0.4) / 2)]


def test_contradiction_can_be_taken_off():
    expected = ((0.9 - 0.7) + (0.4 - 0.5)) / 2
    assert Given(TABLE, use_contradiction=True).score(**TEXTS) == [pytest.approx(expected)]


def test_the_source_can_be_cut():
    assert Given(TABLE, max_source_sentences=1).score(**TEXTS) == [pytest.approx((0.2 + 0.4) / 2)]


def test_the_models_probabilities_are_those_of_premise_and_hypothesis():
    source, text = ["w1 w2.", "w3 w4 w5."], ["w6.", "w7 w8."]
    model = nli()
    rows = [max(float(logits_by_hand(model, premise, own).softmax(-1)[0]) for premise in source) for own in text]
    score = summac(model).score([" ".join(text)], prompts=[" ".join(source)])
    assert score == pytest.approx([sum(rows) / 2], abs=1e-5)
    by_label = summac(model, entailment="entailment", batch_size=1)
    assert by_label.score([" ".join(text)], prompts=[" ".join(source)]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        ("ENTAILMENT", "NEUTRAL", "CONTRADICTION"),
        ("contradiction", "entailment", "neutral"),
        ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO"),
        ("not_enough_info", "refuted", "supported"),
    ],
)
def test_labels_are_known_by_the_names_that_nli_models_give_them(names):
    model = nli()
    model.config.id2label = dict(enumerate(names))
    entailed = next(index for index, name in enumerate(names) if name.lower()[:4] in ("enta", "supp"))
    denied = next(index for index, name in enumerate(names) if name.lower()[:4] in ("cont", "refu"))
    by_name, by_number = (
        summac(model, use_contradiction=True),
        summac(model, use_contradiction=True, entailment=entailed, contradiction=denied),
    )
    by_name.load_models()
    rows = {"predictions": ["w1 w2."], "prompts": ["w3. w4 w5."]}
    assert by_name.score(**rows) == by_number.score(**rows)


def test_a_model_whose_labels_say_nothing_is_refused_when_it_is_loaded():
    with pytest.raises(UserError, match="Set the option entailment"):
        summac(model=bert(3)).load_models()


def test_another_column_can_hold_the_source_and_conversations_are_texts():
    expected = summac().score(["w1."], prompts=["w2."])
    assert summac(column="document").score(["w1."], document=["w2."]) == expected
    assert summac().score(["w1."], prompts=[[{"role": "user", "content": "w2."}]]) == expected


def test_an_empty_text_scores_0_and_a_row_without_a_source_is_left_out():
    assert summac().score(["", " ", "w1.", "w1."], prompts=["w2.", "w2.", "", None]) == [0.0, 0.0, None, None]


def test_sentences_end_where_a_reader_says():
    assert sentences("Mr. Smith went to Rome, e.g. by car. He left!\nA new line") == [
        "Mr. Smith went to Rome, e.g. by car.",
        "He left!",
        "A new line",
    ]


def weights(seed=0):
    torch.manual_seed(seed)
    return {
        "mlp.weight": torch.randn(1, 23),
        "mlp.bias": torch.randn(1),
        "layer_final.weight": torch.randn(2, 3),
        "layer_final.bias": torch.randn(2),
    }


def test_conv_is_two_linear_layers_over_histograms_counted_by_numpy(tmp_path):
    torch.save(weights(), tmp_path / "conv.bin")
    edges = [0.0, 0.01, 0.02, 0.03, 0.04, 0.07, 0.13, 0.37, 0.9, *(n / 100 for n in (91, 92, 93, 94, 95, 95.5))]
    edges += [n / 1000 for n in (960, 965, 970, 975, 980, 985, 990, 995, 1000)]
    own = {key: value.double().numpy() for key, value in weights().items()}
    rows = []
    for entailed in ([0.2, 0.9], [0.4, 0.3]):
        histogram = np.histogram(np.float32(entailed).astype(float), bins=edges)[0]
        rows.append(own["mlp.weight"][0] @ histogram + own["mlp.bias"][0])
    features = np.full(3, np.mean(rows))
    bad, good = own["layer_final.weight"] @ features + own["layer_final.bias"]
    metric = Given(TABLE, variant="conv", conv_weights=str(tmp_path / "conv.bin"))
    assert metric.score(**TEXTS) == [pytest.approx(1 / (1 + math.exp(bad - good)))]
    assert pickle.loads(pickle.dumps(metric)).score(**TEXTS) == metric.score(**TEXTS)


def test_conv_without_trained_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="variant conv needs its trained weights: download"):
        summac(variant="conv")
    with pytest.raises(UserError, match=r"there is no file '/no/file.bin'"):
        summac(variant="conv", conv_weights="/no/file.bin")
    (tmp_path / "text.bin").write_text("no weights")
    with pytest.raises(UserError, match="cannot be read as PyTorch weights"):
        summac(variant="conv", conv_weights=tmp_path / "text.bin").score(["w1."], prompts=["w2."])
    torch.save({**weights(), "mlp.weight": torch.zeros(1, 50)}, tmp_path / "other.bin")
    with pytest.raises(UserError, match=r"should hold mlp.weight of shape \(1, 23\), not \(1, 50\)"):
        summac(variant="conv", conv_weights=tmp_path / "other.bin").score(["w1."], prompts=["w2."])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "zero"}, "variant must be one of zs, conv"),
        ({"language": "xx"}, "pysbd has no rules for language 'xx'"),
        ({"max_source_sentences": 0}, "max_source_sentences must be a number from 1"),
        ({"use_contradiction": None}, "use_contradiction must be true or false"),
        ({"model": bert(3)}, r"which label of model .* means entailment\? It has: LABEL_0 \(0\)"),
        ({"entailment": "entails"}, "has no label 'entails'"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        summac(**options).score(["w1."], prompts=["w2."])


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch):
    summac_module._segmenter.cache_clear()
    monkeypatch.setitem(sys.modules, "pysbd", None)
    with pytest.raises(UserError, match=r'pip install "trl-nlpo\[metrics\]"'):
        get_metric("summac", model="a/b")
