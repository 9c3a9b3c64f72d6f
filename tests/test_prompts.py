"""From a data set to batches: in which order, and how prompts are read."""

from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DataCollatorWithPadding

import tiny
from trl_nlpo import UserError
from trl_nlpo.prompts import PromptDataset, PromptTokenizer, UpdateSampler, collate_prompts


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


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "w0"}], "needs a column 'prompt' (text or messages) or 'input_ids'; it has: text."),
        ([{"prompt": "w0"}, {"prompt": ""}], "row 1 has an empty prompt"),
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
    rows = read([{"prompt": "w0", "completion": "w1", "completion_ids": [4], "gold": "a"}])
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
    "row", [{"prompt": None}, {"prompt": ""}, {"prompt": "w0 " * 9}], ids=["none", "empty", "long"]
)
def test_a_bad_row_is_counted_from_the_first_of_the_data_set(row):
    rows = [{"prompt": "w0"}] * 1500 + [row] + [{"prompt": "w0"}] * 10
    with pytest.raises(UserError, match="row 1500 "):
        PromptDataset(rows, PromptTokenizer(tiny.tokenizer(), None, "left", None), "rows", 8)
