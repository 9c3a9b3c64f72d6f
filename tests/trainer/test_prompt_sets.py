"""Which of several data sets is trained on, and which are held out."""

from __future__ import annotations

import pandas as pd
import pytest
from datasets import DatasetDict

from support import tiny
from trl_nlpo import NLPOConfig, UserError
from trl_nlpo.trainer.prompt_sets import PromptSets


def sets(tmp_path, train, held_out=None):
    args = NLPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    return PromptSets(args, tiny.tokenizer(), tiny.policy(), 8, train, held_out)


def test_the_train_split_of_a_dataset_dict_is_trained_on_and_that_is_said(tmp_path):
    data = DatasetDict(train=tiny.prompts(5), test=tiny.prompts(3))
    with pytest.warns(UserWarning, match=r"train_dataset has several data sets \(train, test\): 'train'"):
        subject = sets(tmp_path, data)
    assert (len(subject.train), subject.held_out) == (5, {})


def test_the_only_data_set_of_a_mapping_is_trained_on(tmp_path):
    assert len(sets(tmp_path, DatasetDict(train=tiny.prompts(5))).train) == 5


def test_without_a_split_to_train_on_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"several data sets \(a, b\): pass one, or name one 'train'"):
        sets(tmp_path, {"a": tiny.prompts(5), "b": tiny.prompts(5)})


def test_held_out_data_sets_keep_their_names_and_columns_are_one_data_set(tmp_path):
    subject = sets(tmp_path, pd.DataFrame({"prompt": ["w0", "w1"]}), DatasetDict(a=tiny.prompts(2), b=tiny.prompts(3)))
    assert {name: len(rows) for name, rows in subject.held_out.items()} == {"a": 2, "b": 3}
    assert list(sets(tmp_path, tiny.prompts(2), {"prompt": ["w0"]}).held_out) == [""]
    with pytest.raises(UserError, match="no eval_dataset 'c'; the trainer's are: 'a', 'b'"):
        subject.to_evaluate("c")


def test_a_bad_row_of_a_named_data_set_is_named_with_it(tmp_path):
    with pytest.raises(UserError, match=r"eval_dataset\['b'\] row 0 "):
        sets(tmp_path, tiny.prompts(2), {"a": tiny.prompts(2), "b": [{"prompt": None}]})


def test_the_policys_kind_decides_what_an_empty_prompt_becomes(tmp_path):
    assert sets(tmp_path, [{"prompt": ""}]).train.prompt_ids == [[1]]
