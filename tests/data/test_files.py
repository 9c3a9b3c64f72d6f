"""Data files: formats, and what is said about a damaged one."""

from __future__ import annotations

import csv
import json

import pytest
from datasets import Dataset

from support.data_files import arguments, folder_of, mistake
from trl_nlpo import UserError
from trl_nlpo.data.files import read_file
from trl_nlpo.data.splits import load_splits


def test_the_prefix_of_the_files_is_the_dataset_config(tmp_path):
    folder_of(tmp_path, prefix="one_")
    assert load_splits(arguments(tmp_path)).train[0]["id"] == "train-0"
    folder_of(tmp_path, prefix="two_", count=1)
    assert "has several data sets: set dataset_config to one of one, two." in mistake(tmp_path)
    assert len(load_splits(arguments(tmp_path, dataset_config="two")).train) == 1


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_other_formats_are_read_too(tmp_path, ending):
    rows = Dataset.from_list([{"prompt": f"p{n}", "references": f"r{n}"} for n in range(20)])
    path = tmp_path / f"all.{ending}"
    if ending == "json":
        path.write_text(json.dumps(rows.to_list()))
    else:
        getattr(rows, f"to_{ending}")(str(path))
    splits = load_splits(arguments(path))
    row = splits.test[0]
    assert row["references"] == [row["prompt"].replace("p", "r")]


def test_a_missing_or_broken_file_is_told_with_its_place(tmp_path):
    assert "is not there" in mistake(tmp_path / "no.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    assert "bad.jsonl, line 2: not valid JSON" in mistake(tmp_path / "bad.jsonl")
    (tmp_path / "list.jsonl").write_text('{"prompt": "a"}\n"word"\n')
    assert "line 2: a row must be a JSON object, not str" in mistake(tmp_path / "list.jsonl")
    (tmp_path / "empty").mkdir()
    assert "no data file" in mistake(tmp_path / "empty")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_line_separators_of_unicode_may_be_in_a_text_and_do_not_count_as_lines(tmp_path, separator):
    rows = [{"prompt": f"one{separator}two {number}"} for number in range(20)]
    text = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "all.jsonl").write_bytes(text.encode())
    assert list(read_file(tmp_path / "all.jsonl")) == rows
    (tmp_path / "bad.jsonl").write_bytes(f"{text}\r\n{{".encode())
    assert "bad.jsonl, line 40: not valid JSON" in mistake(tmp_path / "bad.jsonl")


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_data(tmp_path, ending):
    rows = [{"prompt": "a", "references": "b"}] * 2
    texts = {
        "csv": "prompt,references\na,b\na,b\n",
        "json": json.dumps(rows),
        "jsonl": "\n".join(map(json.dumps, rows)),
    }
    (tmp_path / f"all.{ending}").write_text(texts[ending], encoding="utf-8-sig")
    assert list(read_file(tmp_path / f"all.{ending}")) == rows


def test_a_csv_row_with_too_many_fields_is_told_with_its_line(tmp_path):
    (tmp_path / "all.csv").write_text('prompt,references\n"a\nb",c\na,b,c\n')
    text = mistake(tmp_path / "all.csv")
    assert (
        "all.csv, line 4: the row has more fields than the header's 2: put quotes around fields with commas." in text
    )


@pytest.mark.parametrize("damage", [b"", b"nonsense", "middle"])
def test_a_damaged_parquet_file_is_a_mistake(tmp_path, damage):
    path = tmp_path / "all.parquet"
    if damage == "middle":
        Dataset.from_list([{"prompt": f"p{n}"} for n in range(500)]).to_parquet(str(path))
        whole = path.read_bytes()
        damage = whole[:50] + b"\xff" * 200 + whole[250:]
    path.write_bytes(damage)
    assert "all.parquet is not readable as Parquet: " in mistake(path)


@pytest.mark.parametrize("then", ["whole", "broken"])
def test_a_csv_field_may_be_of_any_length_and_pythons_limit_stays_what_it_was(tmp_path, then):
    # Whatever was read before in this process.
    limit = 131_072
    csv.field_size_limit(limit)
    path = tmp_path / "long.csv"
    path.write_text("prompt,references\n" + "w1 " * 60_000 + ",w2\n" + ("a,b,c\n" if then == "broken" else ""))
    if then == "broken":
        with pytest.raises(UserError, match="line 3"):
            read_file(path)
    else:
        assert [len(row["prompt"]) for row in read_file(path)] == [180_000]
    assert csv.field_size_limit() == limit
