"""`classifier`, `preference` and `intent`: against the model called by hand, row by row and unpadded."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from transformers import AutoModelForSequenceClassification, RobertaConfig

from support import tiny
from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.classifier import Classifier, Preference
from trl_nlpo.metrics.intent import Intent
from trl_nlpo.metrics.pretrained import Pretrained
from trl_nlpo.rewards import get_reward


TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w1", "w1 w9"]
PROMPTS = ["w3", "w2 w1 w8 w9", "", "w5 w6"]
LONG = " ".join(f"w{i % 30}" for i in range(150))


def bert(num_labels=3, **options):
    return tiny.bert(AutoModelForSequenceClassification, num_labels=num_labels, **options)


def gpt2(num_labels=3):
    torch.manual_seed(3)
    config = tiny.CONFIGS["gpt2"]()
    config.num_labels, config.pad_token_id = num_labels, None
    return AutoModelForSequenceClassification.from_config(config)


def sentiment():
    return bert(2, id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1})


def logits_by_hand(model, tokenizer, *texts):
    with torch.no_grad():
        return model.eval()(**tokenizer(*texts, return_tensors="pt")).logits[0]


def classifier(model, label=1, tokenizer=None, **options):
    return Classifier(model, label, tokenizer or tiny.wordpiece_tokenizer(), device="cpu", **options)


def test_it_is_the_labels_probability_for_prompt_and_completion():
    model = bert()
    texts = [f"{prompt} {text}" for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    expected = [float(logits_by_hand(model, tiny.wordpiece_tokenizer(), text).softmax(-1)[2]) for text in texts]
    assert classifier(model, 2).score(TEXTS, prompts=PROMPTS) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.05


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("make", [bert, gpt2])
def test_the_batch_and_its_padding_change_nothing(make, batch_size):
    tokenizer = tiny.wordpiece_tokenizer() if make is bert else tiny.tokenizer()
    expected = [float(logits_by_hand(make(), tokenizer, text).softmax(-1)[1]) for text in TEXTS]
    metric = classifier(make(), tokenizer=tokenizer, include_prompt=False, batch_size=batch_size)
    assert metric.score(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert metric.columns == ()


def test_too_long_a_text_loses_its_beginning():
    model, tokenizer = bert(), tiny.wordpiece_tokenizer()
    # 64 positions: [CLS], the last 62 words and [SEP].
    kept = " ".join([*LONG.split(), "w1", "w2"][-62:])
    expected = float(logits_by_hand(model, tokenizer, kept).softmax(-1)[1])
    assert classifier(model).score(["w1 w2"], prompts=[LONG]) == pytest.approx([expected], abs=1e-5)


def test_positions_that_a_family_reserves_for_padding_are_not_used():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=tiny.VOCAB_SIZE, max_position_embeddings=18, num_labels=2, **sizes)
    model = AutoModelForSequenceClassification.from_config(config)
    metric = classifier(model, include_prompt=False)
    assert metric.pretrained.max_length() == 16
    assert 0 < metric.score([LONG])[0] < 1


def test_a_label_has_an_index_or_a_name():
    by_index = classifier(sentiment(), 1).score(TEXTS, prompts=PROMPTS)
    assert classifier(sentiment(), "Positive").score(TEXTS, prompts=PROMPTS) == by_index
    other = classifier(sentiment(), "negative").score(TEXTS, prompts=PROMPTS)
    assert [a + b for a, b in zip(by_index, other, strict=True)] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("label", ["positve", 2, -1, True])
def test_a_label_that_is_not_there_is_told_with_those_that_are(label):
    with pytest.raises(UserError, match=r"has no label .*it has: negative \(0\), positive \(1\)"):
        classifier(sentiment(), label).score(["w1"], prompts=["w2"])


def test_labels_that_do_not_exclude_each_other_are_sigmoids():
    model = bert(3, problem_type="multi_label_classification")
    expected = float(logits_by_hand(model, tiny.wordpiece_tokenizer(), "w1 w2").sigmoid()[1])
    assert classifier(model, include_prompt=False).score(["w1 w2"]) == pytest.approx([expected], abs=1e-5)


def test_nothing_to_read_scores_0():
    assert classifier(bert()).score(["", " "], prompts=["", ""]) == [0.0, 0.0]
    assert classifier(gpt2(), tokenizer=tiny.tokenizer(), include_prompt=False).score([""]) == [0.0]
    assert classifier(bert()).score([""], prompts=["w1"])[0] > 0


def test_prompt_and_completion_are_joined_by_one_space_or_as_asked():
    model, tokenizer = bert(), tiny.wordpiece_tokenizer()
    one = classifier(model).score(["w1"], prompts=["w2"])
    assert classifier(model).score([" w1"], prompts=["w2"]) == one
    assert classifier(model).score(["w1"], prompts=["w2 "]) == one
    expected = float(logits_by_hand(model, tokenizer, "w2w1").softmax(-1)[1])
    assert classifier(model, separator="").score(["w1"], prompts=["w2"]) == pytest.approx([expected], abs=1e-5)


def test_as_a_recipe_names_it(tmp_path):
    folder = tiny.saved(sentiment(), tiny.wordpiece_tokenizer(), tmp_path)
    reward = get_reward("classifier", model=folder, label="positive", device="cpu")
    expected = classifier(sentiment(), 1).score(TEXTS, prompts=PROMPTS)
    assert reward(prompts=PROMPTS, completions=TEXTS) == pytest.approx(expected)
    assert pickle.loads(pickle.dumps(reward))(prompts=PROMPTS, completions=TEXTS) == pytest.approx(expected)
    conversation = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    replies = [[{"role": "assistant", "content": text}] for text in TEXTS]
    assert reward(prompts=conversation, completions=replies) == pytest.approx(expected)


def test_the_users_tokenizer_stays_as_it_was():
    tokenizer = tiny.wordpiece_tokenizer()
    classifier(bert(), tokenizer=tokenizer).score(["w1"], prompts=[LONG])
    assert tokenizer.truncation_side == "right"
    assert len(tokenizer(LONG)["input_ids"]) == 152


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "./no/such/folder"}, r"there is no folder './no/such/folder' \(looked in "),
        ({"model": ""}, "model is empty"),
        ({"model": 3}, "model must be a local folder, a Hub id or a model, not 3"),
        ({"model": bert()}, "a loaded model needs its tokenizer"),
        ({"model": "a/b", "tokenizer": "/no/folder"}, "there is no folder '/no/folder'"),
        ({"model": "a/b", "batch_size": 0}, "batch_size must be a number of rows from 1"),
        ({"model": "a/b", "include_prompt": 1}, "include_prompt must be true or false"),
        ({"model": "a/b", "labl": 1}, "has no option 'labl', did you mean 'label'"),
        ({}, r"needs an option: write \{name: classifier, model: ...\}"),
    ],
)
def test_what_is_wrong_is_told_when_it_is_made(options, message):
    with pytest.raises(UserError, match=message) as caught:
        get_metric("classifier", **{"label": 1, **options})
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there_is_told_with_the_line_that_downloads_it():
    metric = get_metric("classifier", model="someone/sentiment", label=1)
    message = r"cannot be loaded: there is no such folder in .*hf download someone/sentiment.*unset HF_HUB_OFFLINE"
    with pytest.raises(UserError, match=message) as caught:
        metric.score(["a"], prompts=["b"])
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_or_a_model_is_told(tmp_path):
    sentiment().save_pretrained(tmp_path / "model")
    tiny.wordpiece_tokenizer().save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "empty").mkdir()
    for folder in ("model", "tokenizer", "empty"):
        metric = get_metric("classifier", model=str(tmp_path / folder), label=1, include_prompt=False)
        with pytest.raises(UserError, match="cannot be loaded: the folder must hold what save_pretrained wrote"):
            metric.score(["a"])


def test_a_language_model_is_not_taken_for_a_classifier_with_a_random_head(tmp_path):
    folder = tiny.saved(tiny.policy(), tiny.tokenizer(), tmp_path)
    metric = get_metric("classifier", model=folder, label=1, include_prompt=False)
    with pytest.raises(UserError, match=r"has no weights for score.weight: it was not trained as SequenceClass"):
        metric.score(["w1"])


def test_a_hub_id_is_not_looked_at_before_it_is_needed():
    assert Pretrained("someone/model", "AutoModel", "metric 'x'").name == "someone/model"


def preference(model, **options):
    return Preference(model, tokenizer=tiny.wordpiece_tokenizer(), device="cpu", **options)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_one_logit_becomes_a_probability(scale):
    logit = float(logits_by_hand(bert(1), tiny.wordpiece_tokenizer(), "w1 w2 w3")[0])
    expected = 1 / (1 + math.exp(-scale * logit))
    assert preference(bert(1), scale=scale).score(["w2 w3"], prompts=["w1"]) == pytest.approx([expected], abs=1e-5)


def test_two_labels_are_bad_and_good_unless_told_otherwise():
    expected = logits_by_hand(sentiment(), tiny.wordpiece_tokenizer(), "w1 w2 w3").softmax(-1).tolist()
    assert preference(sentiment()).score(["w2 w3"], prompts=["w1"]) == pytest.approx([expected[1]], abs=1e-5)
    assert preference(sentiment(), label="negative").score(["w2 w3"], prompts=["w1"]) == pytest.approx(
        [expected[0]], abs=1e-5
    )


def test_a_cross_encoder_reads_a_pair():
    logit = logits_by_hand(bert(1), tiny.wordpiece_tokenizer(), "w1", "w2 w3")[0]
    score = preference(bert(1), as_pair=True).score(["w2 w3", ""], prompts=["w1", ""])
    assert score == pytest.approx([float(logit.sigmoid()), 0.0], abs=1e-5)


def test_a_scale_must_be_above_0():
    with pytest.raises(UserError, match="scale must be a number above 0"):
        preference(bert(1), scale=0)


DIALOGUE = "w1 w2 <EOU> w3 w4 <EOU> w5 w6 <EOU>"


class SpyTokenizer:
    """Notes what it is given."""

    def __init__(self):
        self.tokenizer, self.texts = tiny.wordpiece_tokenizer(), []

    def __getattr__(self, name):
        return getattr(self.__dict__["tokenizer"], name)

    def __deepcopy__(self, memo):
        return self

    def __call__(self, texts, *args, **kwargs):
        self.texts += texts
        return self.tokenizer(texts, *args, **kwargs)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "w5 w6<EOU>w7 w8"),
        ({"num_utterances": 2, "separator": " "}, "w3 w4 w5 w6 w7 w8"),
        ({"num_utterances": 9, "separator": "|"}, "w1 w2|w3 w4|w5 w6|w7 w8"),
        ({"num_utterances": 0}, "w7 w8"),
    ],
)
def test_the_intent_classifier_reads_the_last_utterances_and_the_reply(options, text):
    spy = SpyTokenizer()
    Intent(bert(4), tokenizer=spy, **options).score([" w7 w8 <EOU>"], prompts=[DIALOGUE], act=[1])
    assert spy.texts == [text]


def intent(model=None, **options):
    return Intent(model or bert(4), tokenizer=tiny.wordpiece_tokenizer(), separator=" ", device="cpu", **options)


def test_a_reply_is_right_when_the_classifiers_intent_is_the_rows_counted_from_1():
    predicted = int(logits_by_hand(bert(4), tiny.wordpiece_tokenizer(), "w5 w6 w7 w8").argmax())
    acts, rows = [1, 2, 3, 4], {"prompts": [DIALOGUE] * 4}
    expected = [float(act - 1 == predicted) for act in acts]
    assert intent().score(["w7 w8"] * 4, act=acts, **rows) == expected
    assert intent(first_label=0, column="intent").score(["w7 w8"] * 4, intent=[0, 1, 2, 3], **rows) == expected
    assert intent().compute(["w7 w8"] * 4, act=acts, **rows) == {"intent": 0.25}


def test_each_reply_is_judged_alone():
    texts, rows = ["w7 w8", "w1", "w2 w9", "w3"], {"prompts": [DIALOGUE] * 4, "act": [1, 2, 3, 4]}
    alone = [
        intent().score([text], prompts=[DIALOGUE], act=[act])[0] for text, act in zip(texts, rows["act"], strict=True)
    ]
    assert intent().score(texts, **rows) == alone


def test_an_empty_reply_is_wrong_and_a_row_without_an_intent_is_left_out():
    predicted = int(logits_by_hand(bert(4), tiny.wordpiece_tokenizer(), "w5 w6").argmax())
    assert intent().score(["", "w1"], prompts=[DIALOGUE] * 2, act=[predicted + 1, None]) == [0.0, None]


@pytest.mark.parametrize("act", [0, 5, "inform", 1.5])
def test_an_intent_that_the_model_does_not_have_is_told(act):
    with pytest.raises(UserError, match=r"act of row 0 is .*, not a number from 1 to 4: set the option first_label"):
        intent().score(["w1"], prompts=[DIALOGUE], act=[act])


def test_a_missing_column_is_named():
    with pytest.raises(UserError, match="needs a column 'act'"):
        get_reward("intent", model="a/b")(prompts=["x"], completions=["y"])
    with pytest.raises(UserError, match="needs a column 'prompts'"):
        get_reward("classifier", model="a/b", label=1)(completions=["y"])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_preference_counts_the_offset_of_a_reward_model_without_a_bias(scale):
    model = bert(1)
    (plain,) = Preference(model, scale=scale, tokenizer=tiny.wordpiece_tokenizer()).measure(["w1"], prompts=["w2"])
    model.config.reward_offset = 0.5
    (moved,) = Preference(model, scale=scale, tokenizer=tiny.wordpiece_tokenizer()).measure(["w1"], prompts=["w2"])
    logit = math.log(plain / (1 - plain))
    assert moved == pytest.approx(1 / (1 + math.exp(-(logit + 0.5 * scale))), abs=1e-5)
