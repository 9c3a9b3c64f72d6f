"""Data sets of other kinds than `datasets.Dataset`."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from transformers import BatchEncoding

from trl_nlpo import UserError
from trl_nlpo.prompts.tabular import as_rows, check_row, is_columns


ROWS = [{"prompt": "w0", "gold": "a"}, {"prompt": "w1", "gold": None}]
COLUMNS = {"prompt": ["w0", "w1"], "gold": ["a", None]}


@pytest.mark.parametrize(
    "data", [pd.DataFrame(ROWS), pa.table(COLUMNS), COLUMNS, BatchEncoding(COLUMNS), ROWS, Dataset.from_list(ROWS)],
    ids=["pandas", "pyarrow", "columns", "tokenizer's output", "list", "datasets"],
)  # fmt: skip
def test_every_kind_of_table_is_rows(data):
    rows = as_rows(data, "train_dataset")
    assert [dict(rows[index]) for index in range(len(rows))] == ROWS


def test_missing_numbers_of_a_data_frame_are_none_and_its_index_and_names_do_not_matter():
    frame = pd.DataFrame({"prompt": ["w0", "w1"], 3: [1.5, None]}, index=[7, 9])
    assert as_rows(frame, "rows") == [{"prompt": "w0", "3": 1.5}, {"prompt": "w1", "3": None}]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("imdb", "train_dataset is 'imdb': load it first"),
        (iter(ROWS), "train_dataset has no length"),
        ((row for row in ROWS), "no length (generator, a stream)"),
        (Dataset.from_list(ROWS).to_iterable_dataset(), "no length (IterableDataset, a stream)"),
        ({"prompt": ["w0"], "gold": ["a", "b"]}, "columns of unequal length (prompt: 1, gold: 2)"),
        ({"prompt": "w0"}, "columns of unequal length"),
    ],
)
def test_what_has_no_rows_is_one_line(data, says):
    with pytest.raises(UserError) as caught:
        as_rows(data, "train_dataset")
    assert says in str(caught.value)


def test_a_row_without_columns_is_one_line():
    with pytest.raises(UserError, match="row 0 is str, not a mapping"):
        check_row("w0", "row 0")


def test_several_data_sets_by_name_are_not_one():
    assert not is_columns({"train": ROWS})
    assert is_columns(COLUMNS)
