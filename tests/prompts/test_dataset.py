"""From a data set to batches: in which order, and how prompts are read."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, DataCollatorWithPadding, PreTrainedTokenizerFast

from support import tiny
from support.slow import slow_except
from trl_nlpo import UserError
from trl_nlpo.experiment.supervised import _with_prompts_as_reinforced
from trl_nlpo.prompts import RESERVED_COLUMNS, PromptDataset, PromptTokenizer, UpdateSampler, collate_prompts
from trl_nlpo.prompts.tokenized import start_token


def read(rows, **settings):
    settings = {"max_length": None, "truncation_side": "left", "chat_template_kwargs": None, **settings}
    tokenizer = settings.pop("tokenizer", tiny.tokenizer())
    return PromptDataset(Dataset.from_list(rows), PromptTokenizer(tokenizer, **settings), "train_dataset", 8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 6), extra=st.integers(0, 9), seed=st.integers(0, 9), updates=st.integers(1, 9),
    first=st.integers(0, 9),
)  # fmt: skip
def test_every_pass_takes_every_row_once_and_any_update_can_be_the_first(batch, extra, seed, updates, first):
    rows = batch + extra
    order = list(UpdateSampler(rows, batch, updates, seed))
    assert [len(indices) for indices in order] == [batch] * updates
    stream = [index for indices in order for index in indices]
    for start in range(0, len(stream) - rows + 1, rows):
        assert sorted(stream[start : start + rows]) == list(range(rows))
    assert list(UpdateSampler(rows, batch, updates, seed, first_update=min(first, updates))) == order[first:]


def test_two_processes_share_the_batches_of_one():
    alone = list(UpdateSampler(10, 4, 5, seed=3))
    halves = [list(UpdateSampler(10, 4, 5, seed=3, process_index=index, num_processes=2)) for index in (0, 1)]
    assert [left + right for left, right in zip(*halves, strict=True)] == alone


def test_another_seed_gives_another_order():
    assert list(UpdateSampler(50, 10, 5, seed=1)) != list(UpdateSampler(50, 10, 5, seed=2))


def test_every_pass_has_an_order_of_its_own():
    batches = list(UpdateSampler(50, 50, 4, seed=1))
    assert len({tuple(batch) for batch in batches}) == 4


def test_the_order_of_a_pass_is_drawn_once(monkeypatch):
    drawn = []
    order = UpdateSampler._order
    monkeypatch.setattr(UpdateSampler, "_order", lambda self, number: drawn.append(number) or order(self, number))
    list(UpdateSampler(10, 4, 5, seed=1))
    assert drawn == [0, 1]


def test_text_is_tokenized_and_other_columns_are_kept():
    rows = read([{"prompt": "w0 w1", "gold": "a", "level": 2}])
    batch = collate_prompts([rows[0]])
    assert batch.prompt_ids == [[3, 4]]
    assert batch.prompts == ["w0 w1"]
    assert batch.columns == {"gold": ["a"], "level": [2]}


def test_tokenized_prompts_are_taken_as_they_are_and_decoded_for_rewards():
    rows = read([{"input_ids": [3, 4], "attention_mask": [1, 1], "gold": "a"}])
    assert rows[0] == {"prompt_ids": [3, 4], "prompt": "w0 w1", "columns": {"gold": "a"}}


def test_messages_go_through_the_chat_template_and_its_arguments():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if polite %}w5{% endif %}"
    prompt = [{"role": "user", "content": "w0 w1"}]
    assert read([{"prompt": prompt}], tokenizer=tokenizer).prompt_ids == [[3, 4]]
    polite = read([{"prompt": prompt}], tokenizer=tokenizer, chat_template_kwargs={"polite": True})
    assert polite.prompt_ids == [[3, 4, 8]]
    assert polite[0]["prompt"] == prompt


@pytest.mark.parametrize(("side", "expected"), [("left", [5, 6]), ("right", [3, 4])])
def test_long_prompts_are_cut_at_the_side_that_is_asked_for(side, expected):
    assert read([{"prompt": "w0 w1 w2 w3"}], max_length=2, truncation_side=side).prompt_ids == [expected]


def adding(template):
    """The tokenizer of words, with a template of special tokens around them."""
    tokenizer = tiny.tokenizer()
    specials = [("<eos>", 1), ("<pad>", 0)]
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    return tokenizer


TEN_WORDS = " ".join(f"w{number}" for number in range(10))


def cut_in_the_supervised_stage(tokenizer, prompt, limit, side, completion=" w11"):
    rows = Dataset.from_list([{"prompt": prompt, "completion": completion}])
    training = SimpleNamespace(max_prompt_length=limit, prompt_truncation_side=side, chat_template_kwargs=None)
    return _with_prompts_as_reinforced(rows, tokenizer, SimpleNamespace(training=training))[0]


@pytest.mark.parametrize(
    ("template", "side", "expected"),
    [
        ("$A <eos>", "right", "w0 w1 w2 <eos>"),
        ("$A <eos>", "left", "w7 w8 w9 <eos>"),
        ("<pad> $A", "right", "<pad> w0 w1 w2"),
        ("<pad> $A", "left", "<pad> w7 w8 w9"),
        ("<pad> $A <eos>", "left", "<pad> w8 w9 <eos>"),
        ("$A", "left", "w6 w7 w8 w9"),
    ],
)
def test_words_are_cut_and_special_tokens_stay_in_every_stage(template, side, expected):
    tokenizer = adding(template)
    reinforced = PromptTokenizer(tokenizer, 4, side, None)([TEN_WORDS])[0]
    supervised = tokenizer(cut_in_the_supervised_stage(tokenizer, TEN_WORDS, 4, side)["prompt"])["input_ids"]
    assert tokenizer.decode(reinforced) == tokenizer.decode(supervised) == expected


def trained(add_prefix_space, trim_offsets):
    """Byte-level BPE as GPT-2's and BART's: pieces of words, letters of several tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(["a ball a bat an abbot tabs"] * 9, trainer)
    raw.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def pieces(normalizer=None, pre_tokenizer=None):
    """SentencePiece's marks of word beginnings, made by a pre-tokenizer (T5) or a normalizer (the first Llamas)."""
    scores = {"<unk>": -9.0, "</s>": 0.0, "▁": -3.0, "▁▁": -3.5, "▁a": -2.0, "▁ba": -4.0, "ll": -3.0, "at": -3.0}
    scores |= dict.fromkeys("abltnos", -5.0)
    raw = Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    if normalizer is not None:
        raw.normalizer = normalizer
    if pre_tokenizer is not None:
        raw.pre_tokenizer = pre_tokenizer
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {
    "words": tiny.tokenizer,
    "words, end": lambda: adding("$A <eos>"),
    "bert": tiny.wordpiece_tokenizer,
    "gpt2": lambda: trained(add_prefix_space=False, trim_offsets=False),
    "bart": lambda: trained(add_prefix_space=True, trim_offsets=True),
    "t5": lambda: pieces(pre_tokenizer=pre_tokenizers.Metaspace()),
    "llama": lambda: pieces(
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ),
    "slow": ByT5Tokenizer,
}


@cache
def tokenizer_named(name):
    return TOKENIZERS[name]()


@pytest.mark.parametrize("name", slow_except(TOKENIZERS, "words", "gpt2", "t5", "slow"))
@pytest.mark.parametrize("side", slow_except(["left", "right"], "left"))
@settings(max_examples=20, deadline=None, derandomize=True)
@given(text=st.text("abltn  é🐕\n", min_size=1, max_size=40), limit=st.integers(6, 12))
def test_every_stage_sees_the_same_ids_whatever_the_tokenizer(name, side, text, limit):
    tokenizer = tokenizer_named(name)
    reinforced = PromptTokenizer(tokenizer, limit, side, None, start_token(tokenizer))([text])[0]
    supervised = cut_in_the_supervised_stage(tokenizer, text, limit, side)["prompt"]
    assert tokenizer(supervised)["input_ids"] == reinforced
    assert len(reinforced) <= limit
    whole = tokenizer(text)["input_ids"]
    if 0 < len(whole) <= limit:
        assert reinforced == whole
        assert supervised == text


def test_a_target_gets_its_space_when_its_prompt_loses_the_line_break_before_it():
    row = cut_in_the_supervised_stage(tiny.tokenizer(), "w0 w1 w2\n", 2, "right", completion="w5")
    assert (row["prompt"], row["completion"]) == ("w0 w1", " w5")
    short = cut_in_the_supervised_stage(tiny.tokenizer(), "w0 w1\n", 2, "right", completion="w5")
    assert (short["prompt"], short["completion"]) == ("w0 w1\n", "w5")


def test_messages_stay_whole_in_the_supervised_stage():
    row = {"prompt": [{"role": "user", "content": TEN_WORDS}], "completion": [{"role": "assistant", "content": "w1"}]}
    assert cut_in_the_supervised_stage(tiny.tokenizer(), **row, limit=4, side="left") == row


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_without_room_for_words_is_one_line_if_a_prompt_needs_cutting(limit):
    tokenizer = tiny.wordpiece_tokenizer()
    with pytest.raises(UserError) as caught:
        read([{"prompt": TEN_WORDS}], tokenizer=tokenizer, max_length=limit)
    assert str(caught.value) == (
        f"train_dataset row 0: max_prompt_length={limit} leaves no room for words of the prompt, which begins with "
        "'w0 w1 w2 w3 w4 w5 w6': the tokenizer adds 2 special tokens to every prompt; raise it."
    )
    assert len(read([{"prompt": TEN_WORDS}], tokenizer=tokenizer, max_length=3).prompt_ids[0]) == 3


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "w0"}], "needs a column 'prompt' (text or messages) or 'input_ids'; it has: text."),
        (
            [{"messages": [], "x": 1}],
            "Make one of 'messages': dataset.map(lambda row: {'prompt': row['messages'][:-1]})",
        ),
        ([{"prompt": "w0 " * 9}], "row 0 has a prompt of 9 tokens, but the model's context leaves room for 8"),
    ],
)
def test_bad_rows_are_named(rows, says):
    with pytest.raises(UserError) as caught:
        read(rows)
    assert says in str(caught.value)


def test_a_streaming_data_set_is_refused():
    stream = Dataset.from_list([{"prompt": "w0"}]).to_iterable_dataset()
    with pytest.raises(UserError, match="has no length"):
        PromptDataset(stream, PromptTokenizer(tiny.tokenizer(), None, "left", None), "train_dataset", None)


@pytest.mark.parametrize("padding", [True, "max_length"])
@pytest.mark.parametrize("mask", [True, False])
def test_the_padding_of_a_collator_is_taken_off_again(padding, mask):
    rows = [{"input_ids": [3, 4]}, {"input_ids": [5, 6, 7]}]
    if mask:
        rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
    tokenizer = tiny.tokenizer()
    collator = DataCollatorWithPadding(tokenizer, padding=padding, max_length=8 if padding == "max_length" else None)
    subject = PromptDataset(
        Dataset.from_list(rows), PromptTokenizer(tokenizer, None, "left", None), "train_dataset", 8, collator
    )
    assert subject.prompt_ids == [[3, 4], [5, 6, 7]]


def test_a_mask_of_a_collators_own_says_what_is_padding():
    def collator(rows):
        return {"input_ids": [[0, 9, *row["input_ids"]] for row in rows], "attention_mask": [[0, 1, 1, 0]]}

    subject = PromptDataset(
        [{"input_ids": [3, 4], "gold": "a"}],
        PromptTokenizer(tiny.tokenizer(), None, "left", None),
        "rows",
        8,
        collator,
    )
    assert subject[0] == {"prompt_ids": [9, 3], "prompt": "w6 w0", "columns": {"gold": "a"}}


def test_columns_that_stand_for_something_else_do_not_reach_reward_functions():
    rows = read([{"prompt": "w0", "completion": "w1", "gold": "a"}])
    assert rows[0]["columns"] == {"gold": "a"}
    both = read([{"prompt": "w0 w1", "input_ids": [7, 8], "attention_mask": [1, 1]}])
    assert both[0] == {"prompt_ids": [7, 8], "prompt": "w0 w1", "columns": {}}


def test_a_column_that_a_row_lacks_is_none():
    rows = [
        {"prompt_ids": [3], "prompt": "a", "columns": {"x": 1}},
        {"prompt_ids": [4], "prompt": "b", "columns": {"y": 2}},
    ]
    assert collate_prompts(rows).columns == {"x": [1, None], "y": [None, 2]}


def test_more_rows_than_are_tokenized_at_once_keep_their_order():
    subject = read([{"prompt": f"w{index % 30}"} for index in range(2100)])
    assert subject.prompt_ids == [[3 + index % 30] for index in range(2100)]


def test_no_limit_lets_every_length_pass():
    tokenizer = PromptTokenizer(tiny.tokenizer(), None, "left", None)
    subject = PromptDataset([{"prompt": "w0 " * 99}], tokenizer, "rows", None)
    assert [len(ids) for ids in subject.prompt_ids] == [99]


def test_a_prompt_of_exactly_the_longest_length_is_fine():
    assert len(read([{"prompt": "w0 " * 8}]).prompt_ids[0]) == 8


MESSAGES = [{"role": "user", "content": "w0"}]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "w0"}, {"prompt": MESSAGES}],
        [{"prompt": MESSAGES}, {"prompt": "w0"}],
        [{"prompt": "w0"}, {"prompt": None}],
        [{"prompt": None}],
        [{"prompt": 3}],
        [{"input_ids": None}],
        [{"prompt": MESSAGES}],  # the tokenizer has no chat template
    ],
    ids=["text, messages", "messages, text", "text, none", "none", "number", "no tokens", "no chat template"],
)
def test_a_prompt_that_cannot_be_read_is_one_line_that_names_the_data_set(rows):
    with pytest.raises(UserError) as caught:
        PromptDataset(rows, PromptTokenizer(tiny.tokenizer(), None, "left", None), "train_dataset", 8)
    assert "train_dataset" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row", [{"prompt": None}, {"prompt": []}, {"prompt": "w0 " * 9}], ids=["none", "no messages", "long"]
)
def test_a_bad_row_is_counted_from_the_first_of_the_data_set(row):
    rows = [{"prompt": "w0"}] * 1500 + [row] + [{"prompt": "w0"}] * 10
    with pytest.raises(UserError, match="row 1500 "):
        PromptDataset(rows, PromptTokenizer(tiny.tokenizer(), None, "left", None), "rows", 8)


@pytest.mark.parametrize("name", RESERVED_COLUMNS)
def test_a_column_whose_name_reward_functions_know_for_something_else_is_refused(name):
    with pytest.raises(UserError, match=f"train_dataset has a column '{name}'.*rename"):
        read([{"prompt": "w0", name: "x"}])


def start_of(tokenizer, **config):
    return start_token(tokenizer, SimpleNamespace(config=SimpleNamespace(**config)))


def test_an_unconditional_generator_starts_from_bos_or_else_from_eos():
    tokenizer = tiny.tokenizer()
    assert (start_of(tokenizer), start_of(tokenizer, bos_token_id=0), start_of(tokenizer, bos_token_id=7)) == (1, 0, 1)
    tokenizer.bos_token = "w0"
    assert (start_of(tokenizer), start_token(tokenizer)) == (3, 3)
    assert start_of(tokenizer, is_encoder_decoder=True) == 1


@pytest.mark.parametrize("row", [{"prompt": ""}, {"input_ids": []}, {"input_ids": [0, 0]}], ids=str)
def test_an_empty_prompt_is_the_start_token(row):
    tokenizer = PromptTokenizer(tiny.tokenizer(), None, "left", None, start=5)
    assert PromptDataset([row], tokenizer, "rows", 8)[0] == {
        "prompt_ids": [5],
        "prompt": row.get("prompt", "w2"),
        "columns": {},
    }


def test_without_any_token_to_start_from_an_empty_prompt_is_one_line():
    with pytest.raises(UserError, match=r"row 1 has an empty prompt, .* neither a BOS nor an EOS token"):
        read([{"prompt": "w0"}, {"prompt": ""}])


def test_the_supervised_stage_learns_from_the_start_token_too():
    tokenizer = tiny.tokenizer()
    row = cut_in_the_supervised_stage(tokenizer, "", None, "left", completion="w11")
    assert row == {"prompt": "<eos>", "completion": "w11"}
    assert tokenizer(row["prompt"])["input_ids"] == [1]


def test_a_batch_of_ones_own_prompts_has_them_as_reward_functions_read_them():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    batch = PromptTokenizer(tokenizer, None, "left", None).batch([[{"from": "human", "value": "w0 w1"}]])
    assert batch.prompt_ids == [[3, 4]]
    assert batch.prompts == [[{"role": "user", "content": "w0 w1"}]]
