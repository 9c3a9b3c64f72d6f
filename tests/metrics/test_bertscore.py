"""BERTScore: by hand on embeddings in the plane, and against the package bert-score on random models."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModel, RobertaConfig, RobertaTokenizerFast

from support import tiny
from trl_nlpo.errors import UserError
from trl_nlpo.metrics import bertscore as module
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.bertscore import BertScore, Match, match, published_layer


PREDICTIONS = ["w1 w2 w3", "w9 w8 w7 w6 w5 w4 w3 w2", "w4", "w5 w6 w7 w8 w9 w1"]
REFERENCES = [["w1 w3 w2 w7"], ["w3", "w9 w8 w1"], ["w4", "w4 w5"], ["w1 w2 w3 w4 w5", "w5", "w6 w7"]]
EAST, NORTH, NORTH_EAST = [1.0, 0.0], [0.0, 1.0], [math.sqrt(0.5), math.sqrt(0.5)]


def bertscore(model=None, **options):
    options = {"tokenizer": tiny.wordpiece_tokenizer(), "device": "cpu", **options}
    return BertScore(model or tiny.bert(AutoModel), **options)


@pytest.mark.parametrize(
    ("own", "other", "precision", "recall"),
    [
        ([EAST], [EAST], 1.0, 1.0),
        ([EAST], [NORTH], 0.0, 0.0),
        ([EAST, NORTH], [EAST], 0.5, 1.0),
        ([EAST], [EAST, NORTH], 1.0, 0.5),
        ([NORTH_EAST], [EAST, NORTH], math.sqrt(0.5), math.sqrt(0.5)),
        # East matches itself, north only the diagonal; the diagonal matches either, and east itself.
        ([EAST, NORTH], [NORTH_EAST, EAST], (1 + math.sqrt(0.5)) / 2, (math.sqrt(0.5) + 1) / 2),
    ],
)
def test_each_token_is_matched_with_its_nearest(own, other, precision, recall):
    result = match(torch.tensor(own), torch.ones(len(own)), torch.tensor(other), torch.ones(len(other)))
    f1 = 2 * precision * recall / (precision + recall) if precision else 0.0
    assert result == pytest.approx((f1, precision, recall), abs=1e-6)


def test_weights_say_how_much_a_token_counts():
    own, other = torch.tensor([EAST, NORTH]), torch.tensor([EAST])
    # Precision (3 * 1 + 1 * 0) / 4, recall 1.
    assert match(own, torch.tensor([3.0, 1.0]), other, torch.ones(1)).precision == pytest.approx(0.75)
    assert match(own, torch.zeros(2), other, torch.ones(1)) == Match(0.0, 0.0, 0.0)


def test_a_text_matches_itself_whatever_the_model():
    numbers = bertscore().compute(PREDICTIONS, references=PREDICTIONS)
    assert numbers == pytest.approx({"bertscore": 1.0, "bertscore_precision": 1.0, "bertscore_recall": 1.0}, abs=1e-5)


def by_bert_score(folder, layers, predictions, references, idf=False):
    """F1, precision and recall of the reference with the highest F1 for each row, by bert-score 0.3.13."""
    bert_score = pytest.importorskip("bert_score")
    pairs = [(text, other) for text, others in zip(predictions, references, strict=True) for other in others]
    texts, others = map(list, zip(*pairs, strict=True))
    precision, recall, f1 = bert_score.score(
        texts,
        others,
        model_type=folder,
        num_layers=layers,
        idf=idf,
        device="cpu",
        use_fast_tokenizer=True,
        nthreads=0,
    )
    rows, results = list(zip(f1.tolist(), precision.tolist(), recall.tolist(), strict=True)), []
    for row in references:
        results.append(max(rows[: len(row)]))
        del rows[: len(row)]
    return results


@pytest.fixture
def folder(tmp_path):
    tokenizer = tiny.wordpiece_tokenizer()
    tokenizer.model_max_length = 64
    return tiny.saved(tiny.bert(AutoModel), tokenizer, tmp_path / "encoder")


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_is_what_bert_score_says(folder, layer, batch_size):
    expected = by_bert_score(folder, layer, PREDICTIONS, REFERENCES)
    metric = BertScore(folder, layer=layer, batch_size=batch_size, device="cpu")
    assert metric.score(PREDICTIONS, references=REFERENCES) == pytest.approx([row[0] for row in expected], abs=1e-5)
    means = [sum(values) / 4 for values in zip(*expected, strict=True)]
    numbers = metric.compute(PREDICTIONS, references=REFERENCES)
    assert list(numbers) == ["bertscore", "bertscore_precision", "bertscore_recall"]
    assert list(numbers.values()) == pytest.approx(means, abs=1e-5)


def test_inverse_document_frequencies_are_those_of_bert_score(folder):
    flat = [text for row in REFERENCES for text in row]
    predictions = [text for text, row in zip(PREDICTIONS, REFERENCES, strict=True) for _ in row]
    expected = by_bert_score(folder, 2, predictions, [[text] for text in flat], idf=True)
    means = [sum(values) / len(flat) for values in zip(*expected, strict=True)]
    metric = BertScore(folder, layer=2, idf=True, device="cpu")
    assert list(metric.compute(predictions, references=flat).values()) == pytest.approx(means, abs=1e-5)
    fixed = BertScore(folder, layer=2, idf=True, idf_texts=flat, device="cpu")
    assert fixed.score(predictions, references=flat) == pytest.approx([row[0] for row in expected], abs=1e-5)


def test_a_reward_with_idf_does_not_depend_on_its_batch(tmp_path):
    with pytest.raises(UserError, match="with idf needs idf_texts, or it would depend on its batch"):
        bertscore(idf=True).score(["w1"], references=["w1"])
    (tmp_path / "texts.txt").write_text("w1 w2\n\nw1 w3\n")
    from_file = bertscore(idf=True, idf_texts=str(tmp_path / "texts.txt"))
    from_list = bertscore(idf=True, idf_texts=["w1 w2", "w1 w3"])
    together = from_file.score(PREDICTIONS, references=REFERENCES)
    assert together == from_list.score(PREDICTIONS, references=REFERENCES)
    assert from_list.score(PREDICTIONS[:1], references=REFERENCES[:1]) == pytest.approx(together[:1])
    # "w1" is in every one of these texts: log 1 = 0, it weighs nothing.
    assert from_list.score(["w1"], references=["w1"]) == [0.0]


def test_empty_texts_score_0_and_a_row_without_references_is_left_out():
    score = bertscore().score(["", " ", "w1", "w1", "w1"], references=["w1", "w1", "", [], None])
    assert score == [0.0, 0.0, 0.0, None, None]
    with pytest.raises(UserError, match="'bertscore' applies to no row: references are empty"):
        bertscore().compute(["w1"], references=[[]])


def test_one_string_is_one_reference_and_the_best_counts():
    several = bertscore().score(["w1 w2"], references=[["w9", "w1 w2", "w3"]])
    assert several == bertscore().score(["w1 w2"], references=["w1 w2"]) == [pytest.approx(1.0, abs=1e-5)]


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_other_families_work_too(family):
    torch.manual_seed(0)
    model = AutoModel.from_config(tiny.CONFIGS[family]())
    # This one gives token types, which T5 and BART do not take.
    tokenizer = tiny.tokenizer() if family == "gpt2" else tiny.wordpiece_tokenizer()
    metric = bertscore(model, tokenizer=tokenizer, layer=1)
    score = metric.score(["w1 w2", "w5", ""], references=["w1 w2", "w9 w8 w7", "w1"])
    assert score[0] == pytest.approx(1.0, abs=1e-5)
    assert score[1] < 0.99
    assert score[2] == 0.0


def test_a_long_text_is_cut_at_what_the_model_reads():
    long = " ".join(["w1 w2 w3"] * 100)
    assert bertscore().score([long], references=[" ".join(["w1 w2 w3"] * 90)]) == [pytest.approx(1.0, abs=1e-5)]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    roberta = AutoModel.from_config(RobertaConfig(vocab_size=41, max_position_embeddings=18, **sizes))
    assert bertscore(roberta).score([long], references=[long]) == [pytest.approx(1.0, abs=1e-5)]


def test_with_robertas_tokenizer_the_first_word_is_one_like_the_others(tmp_path):
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["the cat sat"] * 9, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    trained.save_model(str(tmp_path))
    tokenizer = RobertaTokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = AutoModel.from_config(RobertaConfig(vocab_size=300, max_position_embeddings=18, **sizes))
    # Without positions layer 0 says which token it is and nothing else.
    model.embeddings.position_embeddings.weight.data.zero_()
    numbers = bertscore(model, tokenizer=tokenizer, layer=0).compute(["cat"], references=["the cat"])
    assert numbers["bertscore_precision"] == pytest.approx(1.0, abs=1e-5)
    assert numbers["bertscore_recall"] < 0.99


def test_it_is_pickled_without_its_weights(folder):
    metric = get_metric("bertscore", model=folder, layer=1, device="cpu")
    before = metric.score(PREDICTIONS, references=REFERENCES)
    assert len(pickle.dumps(metric)) < 2000
    assert pickle.loads(pickle.dumps(metric)).score(PREDICTIONS, references=REFERENCES) == pytest.approx(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "has 2 layers, not 3"),
        ({"layer": -1}, "layer must be a number from 0"),
        ({"idf": "yes"}, "idf must be true or false"),
        ({"idf_texts": ["a"]}, "idf_texts has no effect without idf"),
        ({"idf": True, "idf_texts": "/no/file.txt"}, "idf_texts must be a list of texts or a file"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        bertscore(**options).score(["w1"], references=["w1"])


def test_models_that_the_authors_tried_are_compared_at_their_layer_and_others_at_the_last():
    # As bert-score 0.3.13 has them.
    assert published_layer("FacebookAI/roberta-large") == published_layer("roberta-large") == 17
    assert published_layer("/models/BERT-base-multilingual-cased/") == 9
    assert published_layer("someone/roberta-large-of-mine") is None


def test_the_published_layer_is_used_unless_another_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(module.PUBLISHED_LAYERS, "known", 1)
    tiny.bert(AutoModel).save_pretrained(tmp_path / "known")
    scores = {
        layer: bertscore(str(tmp_path / "known"), layer=layer).score(PREDICTIONS, references=REFERENCES)
        for layer in (None, 1, 2, "last")
    }
    assert scores[None] == scores[1] != scores["last"] == scores[2]


def test_a_model_under_a_known_name_that_is_smaller_is_one_line(tmp_path):
    tiny.bert(AutoModel).save_pretrained(tmp_path / "roberta-large")
    with pytest.raises(UserError, match="has 2 layers, not 17: give the option layer"):
        bertscore(str(tmp_path / "roberta-large")).score(["w1"], references=[["w1"]])
