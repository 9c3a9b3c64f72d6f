"""Perplexity: against losses that transformers computes itself, and a model whose probabilities are known."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, GPT2Config

from support import tiny
from trl_nlpo.errors import UserError
from trl_nlpo.metrics.perplexity import Perplexity
from trl_nlpo.rewards import get_reward


TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w1"]
LONG = " ".join(f"w{i % 30}" for i in range(150))


def perplexity(model=None, tokenizer=None, **options):
    return Perplexity(model or tiny.policy(), tokenizer or tiny.tokenizer(), device="cpu", **options)


def reference_loss(model, ids, first):
    """The mean loss of the tokens from `first` on, by the model's own `labels`."""
    ids = torch.tensor([ids])
    labels = ids.clone()
    labels[:, :first] = -100
    with torch.no_grad():
        return float(model.eval()(ids, labels=labels).loss)


def ids_of(text):
    return tiny.tokenizer()(text)["input_ids"]


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "opt"])
def test_it_is_what_the_models_own_loss_says(family):
    model = tiny.policy(family)
    # 1 is the end-of-text token, with which a text begins.
    expected = [math.exp(reference_loss(model, [1, *ids_of(text)], 1)) for text in TEXTS]
    assert perplexity(model).score(TEXTS) == pytest.approx(expected, rel=1e-4)


def test_prompts_are_context_and_do_not_count():
    model = tiny.policy()
    expected = math.exp(reference_loss(model, [*ids_of("w9 w8"), *ids_of("w1 w2 w3")], 2))
    metric = perplexity(model, include_prompt=True)
    assert metric.score(["w1 w2 w3"], prompts=["w9 w8"]) == pytest.approx([expected], rel=1e-4)
    assert metric.score([" w1 w2 w3"], prompts=[[{"role": "user", "content": "w9 w8"}]]) == pytest.approx(
        [expected], rel=1e-4
    )
    assert metric.columns == ("prompts",)


def test_a_table_weighs_tokens_alike():
    model = tiny.policy()
    losses = [reference_loss(model, [1, *ids_of(text)], 1) * len(ids_of(text)) for text in TEXTS]
    expected = math.exp(sum(losses) / 10)
    assert perplexity(model).compute(TEXTS) == {"perplexity": pytest.approx(expected, rel=1e-4)}


def test_a_model_that_knows_nothing_is_as_surprised_as_its_vocabulary_is_large():
    model = tiny.policy()
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    metric = perplexity(model)
    scores = metric.score([*TEXTS, LONG])
    assert scores == pytest.approx([tiny.VOCAB_SIZE] * 4, rel=1e-4)
    assert metric.as_reward(scores[0]) == pytest.approx(1 / tiny.VOCAB_SIZE)


@pytest.mark.slow
@pytest.mark.parametrize(("max_length", "stride"), [(16, 8), (16, 1), (16, 15), (5, None), (None, None)])
def test_a_long_text_is_read_in_windows_and_every_token_scored_once(max_length, stride):
    model = tiny.policy()
    ids, width = [1, *ids_of(LONG)], max_length or 64
    step = stride or width // 2
    losses, first, end = 0.0, 1, width
    while first < len(ids):
        end = min(end, len(ids))
        start = end - width
        losses += reference_loss(model, ids[start:end], first - start) * (end - first)
        first, end = end, end + step
    metric = perplexity(model, max_length=max_length, stride=stride)
    assert metric.score([LONG]) == pytest.approx([math.exp(losses / 150)], rel=1e-4)


def test_a_prompt_longer_than_the_context_is_cut_from_the_left():
    model = tiny.policy()
    ids = ids_of(LONG) + ids_of("w1 w2")
    expected = math.exp(reference_loss(model, ids[-16:], 14))
    metric = perplexity(model, include_prompt=True, max_length=16)
    assert metric.score(["w1 w2"], prompts=[LONG]) == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_batch_changes_nothing(batch_size):
    alone = [perplexity().score([text])[0] for text in [*TEXTS, LONG]]
    assert perplexity(batch_size=batch_size).score([*TEXTS, LONG]) == pytest.approx(alone, rel=1e-4)


def masked_model():
    return tiny.bert(AutoModelForMaskedLM)


def test_a_masked_model_masks_each_token_in_turn():
    model, tokenizer = masked_model().eval(), tiny.wordpiece_tokenizer()
    ids = tokenizer("w1 w2 w3")["input_ids"]
    losses = []
    for position in (1, 2, 3):
        masked = torch.tensor([ids])
        masked[0, position] = tokenizer.mask_token_id
        with torch.no_grad():
            losses.append(-float(model(masked).logits[0, position].log_softmax(-1)[ids[position]]))
    metric = perplexity(model, tokenizer)
    assert metric.score(["w1 w2 w3"]) == pytest.approx([math.exp(sum(losses) / 3)], rel=1e-4)
    # Given the prompt "w1 w2" only the last token counts.
    given = perplexity(model, tokenizer, include_prompt=True)
    assert given.score(["w3"], prompts=["w1 w2"]) == pytest.approx([math.exp(losses[2])], rel=1e-4)


def test_a_masked_model_reads_a_long_text_in_the_window_around_each_token():
    model, tokenizer = masked_model().eval(), tiny.wordpiece_tokenizer()
    ids = tokenizer(LONG)["input_ids"]
    losses = []
    for position in range(1, 151):
        start = min(max(position - 5, 0), len(ids) - 10)
        window = torch.tensor([ids[start : start + 10]])
        window[0, position - start] = tokenizer.mask_token_id
        with torch.no_grad():
            losses.append(-float(model(window).logits[0, position - start].log_softmax(-1)[ids[position]]))
    metric = perplexity(model, tokenizer, max_length=10)
    assert metric.score([LONG]) == pytest.approx([math.exp(sum(losses) / 150)], rel=1e-4)


def test_a_text_without_tokens_has_no_perplexity():
    assert perplexity().score(["", "  ", "w1"])[:2] == [None, None]
    assert perplexity(include_prompt=True).score([""], prompts=["w1"]) == [None]
    with pytest.raises(UserError, match="'perplexity' applies to no row: the texts are empty"):
        perplexity().compute(["", ""])


def test_a_folder_says_what_kind_of_model_it_holds(tmp_path):
    causal = tiny.saved(tiny.policy(), tiny.tokenizer(), tmp_path / "causal")
    masked = tiny.saved(masked_model(), tiny.wordpiece_tokenizer(), tmp_path / "masked")
    assert Perplexity(causal, device="cpu").score(TEXTS) == pytest.approx(perplexity().score(TEXTS), rel=1e-4)
    expected = perplexity(masked_model(), tiny.wordpiece_tokenizer()).score(TEXTS)
    assert Perplexity(masked, device="cpu").score(TEXTS) == pytest.approx(expected, rel=1e-4)


def test_it_is_loaded_on_first_use_and_pickled_without_its_weights(tmp_path):
    folder = tiny.saved(tiny.policy(), tiny.tokenizer(), tmp_path)
    reward = get_reward("perplexity", model=folder, device="cpu")
    assert reward.metric.pretrained._model is None
    before = reward(completions=TEXTS)
    assert all(0 < value <= 1 for value in before)
    assert len(pickle.dumps(reward)) < 2000
    assert pickle.loads(pickle.dumps(reward))(completions=TEXTS) == pytest.approx(before)


def test_dropout_is_off():
    model = tiny.policy("gpt2").train()
    metric = perplexity(model)
    assert metric.score(TEXTS) == metric.score(TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride must be a number of tokens from 1"),
        ({"max_length": 1}, "max_length must be a number of tokens from 2"),
        ({"include_prompt": "yes"}, "include_prompt must be true or false"),
        ({"max_length": 8, "stride": 8}, r"stride must be less than max_length \(8\)"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        perplexity(**options).score(["w1"])


def test_models_that_cannot_say_it_are_refused():
    encoder_decoder = tiny.policy("t5")
    with pytest.raises(UserError, match="not an encoder-decoder"):
        perplexity(encoder_decoder).score(["w1"])
    with pytest.raises(UserError, match="has no mask token"):
        perplexity(masked_model()).score(["w1"])
    small = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=5, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(UserError, match="another model's tokenizer"):
        perplexity(small).score(["w30"])


def test_a_causal_head_on_a_bidirectional_family_counts_as_causal():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = AutoModelForCausalLM.from_config(BertConfig(vocab_size=tiny.VOCAB_SIZE, is_decoder=True, **sizes))
    expected = math.exp(reference_loss(model, [1, *ids_of("w1 w2 w3")], 1))
    assert perplexity(model).score(["w1 w2 w3"]) == pytest.approx([expected], rel=1e-4)
