"""Prompts that come as token ids: padding is taken off, whoever put it there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

from support import tiny
from trl_nlpo import UserError
from trl_nlpo.prompts import PromptDataset, PromptTokenizer
from trl_nlpo.prompts.tokenized import read_token_ids, without_padding


REAL = [[3, 4], [5, 6, 7], [8, 9]]


def padded(side, pad, width=5):
    """Rows and their masks, padded to one length."""
    rows, masks = [], []
    for row in REAL:
        padding = [pad] * (width - len(row))
        mask = [0] * len(padding), [1] * len(row)
        rows.append(padding + row if side == "left" else row + padding)
        masks.append(mask[0] + mask[1] if side == "left" else mask[1] + mask[0])
    return rows, masks


@pytest.mark.filterwarnings("ignore:train_dataset has no attention_mask")
@pytest.mark.parametrize("pad_is_eos", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("has_collator", [False, True])
@pytest.mark.parametrize("format", [None, "torch", "numpy"])
def test_padding_never_reaches_the_policy(pad_is_eos, side, has_mask, has_collator, format):
    tokenizer = tiny.tokenizer(pad_is_eos)
    rows, masks = padded(side, tokenizer.pad_token_id)
    data = Dataset.from_dict({"input_ids": rows, **({"attention_mask": masks} if has_mask else {})}).with_format(
        format
    )
    collator = DataCollatorWithPadding(tokenizer) if has_collator else None
    prompts = PromptDataset(data, PromptTokenizer(tokenizer, None, "left", None), "train_dataset", 8, collator)
    assert prompts.prompt_ids == REAL
    assert {type(token) for row in prompts.prompt_ids for token in row} == {int}


def test_a_mask_says_which_pad_tokens_are_meant():
    assert read_token_ids({"input_ids": [0, 0, 3], "attention_mask": [0, 1, 1]}, "row") == ([0, 3], True)


def test_a_pad_token_with_a_meaning_of_its_own_stays_where_rows_are_not_padded():
    tokenizer = tiny.tokenizer(pad_is_eos=True)
    beginnings, ends, alone = [[1, 3], [1, 3, 4]], [[3, 1], [3, 4, 1], [5]], [[1, 3], [1, 4]]
    for rows in (beginnings, ends, alone):
        assert without_padding(rows, tokenizer, "rows") == rows
    assert without_padding([[0, 3], [0, 3, 0]], tiny.tokenizer(), "rows") == [[3], [3]]


def test_what_is_taken_for_padding_is_said_where_it_might_be_meant():
    with pytest.warns(UserWarning, match=r"rows has no attention_mask, and the pad token '<eos>' has another meaning"):
        assert without_padding([[1, 1, 3], [1, 3, 4]], tiny.tokenizer(pad_is_eos=True), "rows") == [[3], [3, 4]]


def test_pad_tokens_between_words_are_words():
    assert without_padding([[0, 3, 0, 4, 0]], tiny.tokenizer(), "rows") == [[3, 0, 4]]


@pytest.mark.parametrize("ids", [[3, 4], (3, 4), np.array([3, 4]), torch.tensor([3, 4]), [np.int64(3), 4]], ids=repr)
def test_token_ids_may_be_held_by_anything(ids):
    assert read_token_ids({"input_ids": ids}, "row") == ([3, 4], False)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"input_ids": [[3, 4]]}, "one list of token ids per row"),
        ({"input_ids": [3.5]}, "3.5"),
        ({"input_ids": [3, -100]}, "-100"),
        ({"input_ids": ["w0"]}, "'w0'"),
        ({"input_ids": "w0"}, "no token ids"),
        ({"input_ids": [3, 4], "attention_mask": [1]}, "2 input_ids but an attention_mask of another length"),
    ],
)
def test_what_is_no_row_of_token_ids_is_one_line(row, says):
    with pytest.raises(UserError, match="row 7 ") as caught:
        read_token_ids(row, "row 7")
    assert says in str(caught.value)
