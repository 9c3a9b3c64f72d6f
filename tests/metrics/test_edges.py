"""Every metric of naturalness and every metric with a model, at the edges of what people write."""

from __future__ import annotations

import json
import math
import pickle

import pytest
from transformers import AutoModel, AutoModelForSequenceClassification

from support import tiny
from support.slow import slow_except
from trl_nlpo.metrics import get_metric, load
from trl_nlpo.rewards import get_reward


NATURALNESS = (
    "msttr", "distinct1", "distinct2", "entropy1", "entropy2", "unique1", "unique2", "mean_length", "diversity",
)  # fmt: skip
WITH_MODEL = ("perplexity", "classifier", "intent", "preference", "bertscore", "bleurt", "summac")
# Of an empty text beside the prompt "w1 w2": 0, None, or any number, as the model reads the prompt or the reference.
OF_EMPTY_TEXT = dict.fromkeys(NATURALNESS, 0.0) | {
    "msttr": None,
    "perplexity": None,
    "intent": 0.0,
    "bertscore": 0.0,
    "summac": 0.0,
}
ROWS = {"references": [["w1 w2", "w3"]], "prompts": ["w1 w2."], "act": [1]}
TEXTS = {
    "emoji": "😀 w1 👩‍👩‍👧 🇪🇺",
    "right-to-left script": "שלום w1 عالم",
    "no spaces": "今日は良い天気です。",
    "white space": " \n\t ",
    "10,000 words": "w1 w2 w3. w4 w5 " * 2000,
    "a very long word": "w" * 10_000,
    "control characters": "w1\x00\u2028w2",
}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """The options of every metric that needs any."""
    folder = tmp_path_factory.mktemp("models")
    kinds = {"entailment": 0, "neutral": 1, "contradiction": 2}
    heads = {
        "classifier": {"num_labels": 2},
        "intent": {"num_labels": 4},
        "preference": {"num_labels": 1},
        "bleurt": {"num_labels": 1},
        "summac": {"num_labels": 3, "label2id": kinds, "id2label": {index: kind for kind, index in kinds.items()}},
    }
    made = {"perplexity": tiny.saved(tiny.policy(), tiny.tokenizer(), folder / "perplexity")}
    made["bertscore"] = tiny.saved(tiny.bert(AutoModel), tiny.wordpiece_tokenizer(), folder / "bertscore")
    for name, head in heads.items():
        model = tiny.bert(AutoModelForSequenceClassification, **head)
        made[name] = tiny.saved(model, tiny.wordpiece_tokenizer(), folder / name)
    more = {"classifier": {"label": 1}, "msttr": {"window": 2}}
    return {
        name: {**({"model": made[name], "device": "cpu"} if name in made else {}), **more.get(name, {})}
        for name in (*NATURALNESS, *WITH_MODEL)
    }


@pytest.mark.parametrize("name", [*NATURALNESS, *WITH_MODEL])
@pytest.mark.parametrize("kind", slow_except(TEXTS, "emoji", "white space", "control characters"))
def test_any_text_gets_a_finite_number_or_none(name, kind, options):
    score = get_metric(name, **options[name]).score([TEXTS[kind]], **ROWS)
    assert len(score) == 1
    assert score[0] is None or math.isfinite(score[0])
    if kind not in ("white space", "no spaces", "a very long word"):
        assert score[0] is not None


@pytest.mark.parametrize("name", [*NATURALNESS, *WITH_MODEL])
def test_an_empty_text_gets_the_documented_value(name, options):
    reward = get_reward(name, **options[name])
    values = reward(completions=["", "w1 w2 w3"], **{column: rows * 2 for column, rows in ROWS.items()})
    assert values[1] is not None
    if name in OF_EMPTY_TEXT:
        assert values[0] == OF_EMPTY_TEXT[name]
    else:
        assert isinstance(values[0], float)


@pytest.mark.parametrize("name", [*NATURALNESS, *WITH_MODEL])
def test_references_are_a_list_or_one_text_and_one_row_is_enough(name, options):
    metric = get_metric(name, **options[name])
    several = metric.compute(["w1 w2"], **{**ROWS, "references": [["w1 w2"]]})
    assert metric.compute(["w1 w2"], **{**ROWS, "references": ["w1 w2"]}) == pytest.approx(several)
    assert all(isinstance(value, float) for value in several.values())
    json.dumps(several, allow_nan=False)


@pytest.mark.parametrize("name", [*NATURALNESS, *WITH_MODEL])
def test_as_a_module_of_evaluate_it_gives_the_same_numbers(name, options):
    numbers = load(name, **options[name]).compute(predictions=["w1 w2 w4"], **ROWS)
    assert numbers == pytest.approx(get_metric(name, **options[name]).compute(["w1 w2 w4"], **ROWS))


@pytest.mark.parametrize("name", [*NATURALNESS, *WITH_MODEL])
def test_a_row_is_scored_as_it_is_alone(name, options):
    texts = ["w1 w2 w3 w4 w5 w6", "w7", "w8 w9. w1 w1 w1", "w2 w3 w4"]
    prompts = ["w3", "w1 w2 w4 <EOU> w6 <EOU>", "w9. w8", "w4"]
    references = [["w1 w2", "w5"], ["w7"], ["w8", "w9 w1 w2 w3", "w4"], ["w3 w2"]]
    acts = [1, 2, 3, 4]
    metric = get_metric(name, **options[name])
    alone = [
        metric.score([text], prompts=[prompt], references=[row], act=[act])[0]
        for text, prompt, row, act in zip(texts, prompts, references, acts, strict=True)
    ]
    together = metric.score(texts, prompts=prompts, references=references, act=acts)
    assert [value is None for value in together] == [value is None for value in alone]
    assert [value or 0 for value in together] == pytest.approx([value or 0 for value in alone], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("name", [*NATURALNESS, *WITH_MODEL])
def test_it_can_be_pickled_before_and_after_use(name, options):
    reward = get_reward(name, **options[name])
    assert reward.__name__ == name
    before = pickle.loads(pickle.dumps(reward))(completions=["w1 w2 w3"], **ROWS)
    assert reward(completions=["w1 w2 w3"], **ROWS) == pytest.approx(before)
    assert len(pickle.dumps(reward)) < 3000


@pytest.mark.parametrize("name", ["classifier", "intent", "preference", "summac"])
def test_probabilities_lie_in_0_to_1_as_rewards(name, options):
    texts = ["w1", "w2 w3", "w9 w8 w7", "w4 w4"]
    values = get_reward(name, **options[name])(completions=texts, **{key: rows * 4 for key, rows in ROWS.items()})
    assert all(0.0 <= value <= 1.0 for value in values)
