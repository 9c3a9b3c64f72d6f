"""Reward models as reward functions, against one plain forward pass per row without any padding."""

from __future__ import annotations

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from support import tiny
from trl_nlpo import UserError
from trl_nlpo.algorithm.reward_models import ModelReward, as_reward_functions
from trl_nlpo.errors import RewardError
from trl_nlpo.records import Completions, PromptBatch


PROMPTS = [[5], [7, 8, 9, 10], [20, 21]]
COMPLETIONS = [[11, 12, 1], [14], [15, 1]]


def completions(pad=0, prompts=PROMPTS, texts=("a", "b", "c"), prompt_texts=("p", "q", "r")) -> Completions:
    P, T = max(map(len, prompts)), max(map(len, COMPLETIONS))
    return Completions(
        batch=PromptBatch(prompts, list(prompt_texts)),
        completions=list(texts),
        prompt_ids=torch.tensor([[pad] * (P - len(row)) + row for row in prompts]),
        prompt_mask=torch.tensor([[False] * (P - len(row)) + [True] * len(row) for row in prompts]),
        completion_ids=torch.tensor([row + [pad] * (T - len(row)) for row in COMPLETIONS]),
        completion_mask=torch.tensor([[True] * len(row) + [False] * (T - len(row)) for row in COMPLETIONS]),
        ended=torch.tensor([True, False, True]),
    )


@torch.no_grad()
def score_alone(model, ids):
    """The score head at the last token of one row."""
    backbone = getattr(model, model.base_model_prefix)
    return model.score(backbone(torch.tensor([ids])).last_hidden_state[0, -1])[0].item()


@pytest.mark.parametrize("size", [1, 2, 64])
@pytest.mark.parametrize("family", tiny.CAUSAL_FAMILIES)
def test_a_score_is_that_of_the_last_real_token_of_the_row_alone(family, size):
    model = tiny.classifier(family).train()
    scores = ModelReward(model, forward_batch_size=size).score_completions(completions())
    assert not model.training
    expected = [score_alone(model, p + c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pad", [1, 30, 999])
def test_the_pad_token_does_not_matter_even_outside_the_vocabulary(pad):
    reward = ModelReward(tiny.classifier())
    assert reward.score_completions(completions(pad)) == pytest.approx(
        reward.score_completions(completions()), abs=1e-6
    )


def test_a_token_that_the_reward_model_does_not_know_is_named():
    model = tiny.classifier("llama")
    model.resize_token_embeddings(20)
    with pytest.raises(RewardError) as caught:
        ModelReward(model).score_completions(completions())
    assert "knows 20 tokens, but the policy produced token 21" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_with_a_tokenizer_of_its_own_reads_text(family):
    model = tiny.classifier(family)
    tokenizer = tiny.tokenizer()
    reward = ModelReward(model, tokenizer, forward_batch_size=2)
    texts = (" w8 w9", "w11", " w12 w13 w14")
    scores = reward.score_completions(completions(texts=texts, prompt_texts=("w2", "w4 ", "w17 w18")))
    ids = [[5, 11, 12], [7, 14], [20, 21, 15, 16, 17]]
    assert scores == pytest.approx([score_alone(model, row) for row in ids], abs=1e-5)


@pytest.mark.parametrize("pad", [None, 40, 999], ids=["no pad token", "one that is a word", "one out of range"])
def test_whatever_the_pad_token_a_text_scores_as_if_alone_and_the_tokenizer_is_not_changed(pad):
    model, tokenizer = tiny.classifier("llama"), tiny.tokenizer()
    tokenizer.pad_token = None if pad is None else "<pad>"
    tokenizer.padding_side = "left"
    model.config.pad_token_id = pad
    reward = ModelReward(model, tokenizer)
    texts = (" w8 w9", "w11", " w12 w13 w14")
    scores = reward.score_completions(completions(texts=texts, prompt_texts=("w2", "w4 ", "w17 w18")))
    ids = [[5, 11, 12], [7, 14], [20, 21, 15, 16, 17]]
    assert scores == pytest.approx([score_alone(model, row) for row in ids], abs=1e-5)
    assert (tokenizer.pad_token, tokenizer.padding_side) == (None if pad is None else "<pad>", "left")


def test_text_is_encoded_with_the_special_tokens_of_the_models_tokenizer_and_words_do_not_run_together():
    model, tokenizer = tiny.bert(AutoModelForSequenceClassification, num_labels=1), tiny.wordpiece_tokenizer()
    scores = ModelReward(model, tokenizer).score_completions(
        completions(texts=("w8", "w9 w10", "w11"), prompt_texts=("w1", "w2", "w3 w4"))
    )
    rows = [[2, 6, 13, 3], [2, 7, 14, 15, 3], [2, 8, 9, 16, 3]]
    with torch.no_grad():
        expected = [model(torch.tensor([row])).logits.item() for row in rows]
    assert scores == pytest.approx(expected, abs=1e-5)


def short(limit, **options):
    config = BertConfig(
        vocab_size=tiny.VOCAB_SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=limit, num_labels=1, initializer_range=0.5, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("told_by", ["model", "tokenizer"])
def test_of_a_text_that_is_too_long_the_completion_is_read_and_it_is_said_once(told_by):
    tokenizer = tiny.wordpiece_tokenizer()
    if told_by == "tokenizer":
        tokenizer.model_max_length = 6
    model = short(6 if told_by == "model" else 32)
    reward = ModelReward(model, tokenizer)
    given = completions(texts=("w8", "w9", "w8 w9"), prompt_texts=["w1 w2 w3 w4 w5 w6 w7"] * 3)
    with pytest.warns(UserWarning, match="can read 6 tokens, and a prompt with its completion has 11: the beginning"):
        scores = reward.score_completions(given)
    rows = [[2, 10, 11, 12, 13, 3], [2, 10, 11, 12, 14, 3], [2, 11, 12, 13, 14, 3]]
    with torch.no_grad():
        expected = [model(torch.tensor([row])).logits.item() for row in rows]
    assert scores == pytest.approx(expected, abs=1e-5)
    # any further warning would be an error here
    assert reward.score_completions(given) == pytest.approx(expected, abs=1e-5)


def test_a_model_without_room_for_a_completion_is_refused():
    tokenizer = tiny.wordpiece_tokenizer()
    tokenizer.model_max_length = 2
    with pytest.raises(UserError, match="leaves no room for a completion beside 2 special tokens"):
        ModelReward(short(32), tokenizer)


def test_tokens_beyond_the_models_context_are_one_line():
    with pytest.raises(RewardError) as caught:
        ModelReward(short(4)).score_completions(completions())
    assert "can read 4 tokens, but a prompt with its completion has 5" in str(caught.value)


CHAT = (
    "{% for m in messages %}w30 {{ m['content'] }} w31 {% endfor %}{% if add_generation_prompt %}w32 {% endif %}"
    "{% if thinks %}w33{% endif %}"
)


def conversations():
    prompts = [[{"role": "user", "content": text}] for text in ("w2", "w4", "w17")]
    return completions(
        texts=[[{"role": "assistant", "content": text}] for text in ("w8", "w11", "w12")], prompt_texts=prompts
    )


def test_messages_are_a_finished_conversation_in_the_chat_template_of_the_reward_model():
    model, tokenizer = tiny.classifier("llama"), tiny.tokenizer()
    tokenizer.chat_template = CHAT
    rows = [[33, word, 34, 33, answer, 34] for word, answer in ((5, 11), (7, 14), (20, 15))]
    scores = ModelReward(model, tokenizer).score_completions(conversations())
    assert scores == pytest.approx([score_alone(model, row) for row in rows], abs=1e-5)
    reward = ModelReward(model, tokenizer, chat_template_kwargs={"thinks": True})
    expected = [score_alone(model, [*row, 36]) for row in rows]
    assert reward.score_completions(conversations()) == pytest.approx(expected, abs=1e-5)


def test_messages_for_a_model_without_a_chat_template_are_one_line():
    with pytest.raises(RewardError) as caught:
        ModelReward(tiny.classifier("llama"), tiny.tokenizer()).score_completions(conversations())
    assert "has no chat template, but the prompts are messages" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_is_read_without_dropout_even_if_something_puts_it_into_training_mode():
    reward = ModelReward(tiny.classifier("gpt2"))
    first = reward.score_completions(completions())
    reward.model.train()
    assert reward.score_completions(completions()) == first
    assert not reward.model.training


def two_labels():
    config = tiny.CONFIGS["llama"]()
    config.num_labels = 2
    config.id2label = {0: "NEGATIVE", 1: "POSITIVE"}
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("as_path", [False, True])
def test_of_several_labels_none_is_taken_and_the_way_to_choose_is_told(as_path, tmp_path):
    model = two_labels()
    with pytest.raises(UserError) as caught:
        as_reward_functions(tiny.saved(model, tiny.tokenizer(), tmp_path / "judge") if as_path else model)
    said = str(caught.value)
    assert "has 2 labels (NEGATIVE, POSITIVE)" in said
    assert "{name: classifier, model: ..., label: POSITIVE}" in said
    assert "\n" not in said


def test_a_language_model_is_no_reward_model(tmp_path):
    with pytest.raises(UserError, match="is a language model"):
        as_reward_functions(tiny.policy())
    folder = tiny.saved(tiny.policy("llama"), tiny.tokenizer(), tmp_path / "language-model")
    with pytest.raises(UserError, match=r"has no weights for score\.weight: it was not trained as SequenceClass"):
        as_reward_functions(folder, device="cpu")


def test_an_adapter_is_loaded_with_its_own_head_on_a_base_that_has_none(tmp_path):
    tiny.policy("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False)
    model = peft.get_peft_model(base, config).eval()
    folder = tiny.saved(model, tiny.tokenizer(), tmp_path / "judge")
    (reward,) = as_reward_functions(folder, device="cpu")
    assert reward.__name__ == "judge"
    given = completions(texts=("w8", "w9", "w10"), prompt_texts=("w1 ", "w2 ", "w3 "))
    expected = [score_alone(model.get_base_model(), row) for row in ([4, 11], [5, 12], [6, 13])]
    assert reward.score_completions(given) == pytest.approx(expected, abs=1e-5)


def test_a_folder_that_lacks_a_layer_is_refused(tmp_path):
    folder = tiny.saved(tiny.classifier("llama"), tiny.tokenizer(), tmp_path / "judge")
    weights = load_file(f"{folder}/model.safetensors")
    weights = {name: weight for name, weight in weights.items() if "layers.1" not in name}
    save_file(weights, f"{folder}/model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"has no weights for model\.layers\.1"):
        as_reward_functions(folder, device="cpu")


def test_a_model_that_was_never_loaded_is_refused():
    with torch.device("meta"):
        model = tiny.classifier("llama")
    with pytest.raises(UserError, match="never loaded"):
        as_reward_functions(model, device="cpu")


def test_weights_that_are_trained_are_no_reward_models_and_frozen_ones_may_be():
    model = tiny.classifier()
    with pytest.raises(UserError, match=r"shares weights with the policy or value model \(transformer.wte.weight and"):
        as_reward_functions([tiny.length_reward, model], trained=torch.nn.ModuleList([tiny.policy(), model]))
    as_reward_functions(model, trained=tiny.classifier())
    for weight in model.parameters():
        weight.requires_grad_(False)
    as_reward_functions(model, trained=torch.nn.ModuleList([tiny.policy(), model]))


def test_logits_that_are_no_single_number_are_one_line():
    class TwoNumbers(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return SequenceClassifierOutput(logits=torch.zeros(len(input_ids), 2))

    with pytest.raises(RewardError, match=r"gives logits of shape \(3, 2\)"):
        ModelReward(TwoNumbers()).score_completions(completions())


def test_no_gradient_is_kept():
    model = tiny.classifier()
    ModelReward(model).score_completions(completions())
    assert all(weight.grad is None for weight in model.parameters())


def test_a_name_is_the_last_part_of_the_models_path_or_its_class():
    model = tiny.classifier()
    assert ModelReward(model).__name__ == "GPT2ForSequenceClassification"
    model.config._name_or_path = "somebody/judge/"
    assert ModelReward(model).__name__ == "judge"


def test_one_or_a_list_of_functions_and_models_become_reward_functions():
    model = tiny.classifier()
    first, second = as_reward_functions([tiny.length_reward, model], batch_size=3)
    assert first is tiny.length_reward
    assert isinstance(second, ModelReward)
    assert (second.model, second.forward_batch_size, second.tokenizer) == (model, 3, None)
    assert as_reward_functions(tiny.length_reward) == [tiny.length_reward]
    assert len(as_reward_functions((tiny.length_reward, tiny.length_reward))) == 2


def test_a_path_is_loaded_with_its_tokenizer(tmp_path):
    model, tokenizer = tiny.classifier("llama").eval(), tiny.tokenizer()
    model.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    (reward,) = as_reward_functions(str(tmp_path / "judge"), device="cpu")
    assert reward.__name__ == "judge"
    given = completions(texts=("w8", "w9", "w10"), prompt_texts=("w1 ", "w2 ", "w3 "))
    expected = [score_alone(model, row) for row in ([4, 11], [5, 12], [6, 13])]
    assert reward.score_completions(given) == pytest.approx(expected, abs=1e-5)


def test_tokenizers_belong_to_the_rewards_in_their_order():
    tokenizer = tiny.tokenizer()
    _, model = as_reward_functions([tiny.length_reward, tiny.classifier()], [None, tokenizer])
    assert model.tokenizer is tokenizer
    (model,) = as_reward_functions(tiny.classifier(), tokenizer)
    assert model.tokenizer is tokenizer


@pytest.mark.parametrize(
    ("rewards", "tokenizers", "says"),
    [
        (None, None, "No reward"),
        ([], None, "No reward"),
        ([None], None, "No reward"),
        ([tiny.length_reward, 3], None, "must be a function, a model or the path of one, not int"),
        ([tiny.length_reward], [None, None], "has 2 entries for 1 rewards"),
    ],
    ids=["none", "empty", "list of none", "number", "tokenizers"],
)
def test_what_is_no_reward_is_one_line(rewards, tokenizers, says):
    with pytest.raises(UserError) as caught:
        as_reward_functions(rewards, tokenizers)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bert_reward_model_without_a_tokenizer_of_its_own_scores_a_row_as_if_alone():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tiny.VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    scores = ModelReward(model).score_completions(completions())
    with torch.no_grad():
        rows = [torch.tensor([p + c]) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
        expected = [model(row).logits.item() for row in rows]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_a_reward_model_with_an_adapter_scores_the_last_real_token_too():
    base = tiny.classifier("llama")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False)
    scores = ModelReward(peft.get_peft_model(base, config)).score_completions(completions())
    expected = [score_alone(base, p + c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert scores == pytest.approx(expected, abs=1e-5)
