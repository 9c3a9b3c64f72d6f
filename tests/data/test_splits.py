"""Data of a recipe: files, folders, columns, and what is said when something is missing."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from trl_nlpo.data.files import read_file
from trl_nlpo.data.rows import target_text
from trl_nlpo.data.splits import load_splits
from trl_nlpo.errors import UserError
from trl_nlpo.recipes.arguments import RecipeArguments


ROW = {"prompt": "dog ball", "references": ["A dog has a ball.", "The ball."], "concepts": ["dog", "ball"], "id": "x"}


def arguments(name, **keys):
    return RecipeArguments(rewards=["rougeL"], dataset_name=str(name), **keys)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def folder_of(tmp_path, row=None, prefix="", splits=("train", "validation", "test"), count=3):
    for split in splits:
        write_rows(tmp_path / f"{prefix}{split}.jsonl", [{**(row or ROW), "id": f"{split}-{n}"} for n in range(count)])
    return tmp_path


def mistake(*args, **keys):
    with pytest.raises(UserError) as caught:
        load_splits(arguments(*args, **keys))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_has_a_file_per_split_and_all_columns_stay(tmp_path):
    splits = load_splits(arguments(folder_of(tmp_path)))
    assert splits.train[2] == {**ROW, "id": "train-2"}
    assert splits.validation[0]["id"] == "validation-0"
    assert splits.test[0]["id"] == "test-0"
    assert splits.supervised is None


def test_the_prefix_of_the_files_is_the_dataset_config(tmp_path):
    folder_of(tmp_path, prefix="one_")
    assert load_splits(arguments(tmp_path)).train[0]["id"] == "train-0"
    folder_of(tmp_path, prefix="two_", count=1)
    assert "has several data sets: set dataset_config to one of one, two." in mistake(tmp_path)
    assert len(load_splits(arguments(tmp_path, dataset_config="two")).train) == 1


def test_samples_are_limited_per_split(tmp_path):
    splits = load_splits(arguments(folder_of(tmp_path), max_train_samples=2, max_eval_samples=1))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (2, 1, 1)


def test_a_validation_split_is_not_needed_but_train_and_test_are(tmp_path):
    folder = folder_of(tmp_path, splits=("train", "test"))
    assert load_splits(arguments(folder)).validation is None
    text = mistake(folder, dataset_test_split="heldout")
    assert "no file for the split 'heldout'" in text
    assert "test.jsonl, train.jsonl" in text


def test_a_single_file_is_cut_into_disjoint_splits_by_the_seed(tmp_path):
    write_rows(tmp_path / "all.jsonl", [{**ROW, "id": str(n)} for n in range(40)])
    first, again = (load_splits(arguments(tmp_path / "all.jsonl"), seed=1) for _ in range(2))
    ids = [split["id"] for split in (first.train, first.validation, first.test)]
    assert [len(part) for part in ids] == [32, 4, 4]
    assert len({row for part in ids for row in part}) == 40
    assert ids == [split["id"] for split in (again.train, again.validation, again.test)]
    assert ids[2] != load_splits(arguments(tmp_path / "all.jsonl"), seed=2).test["id"]


def test_a_file_too_small_to_hold_rows_out_is_refused(tmp_path):
    write_rows(tmp_path / "all.jsonl", [ROW] * 9)
    assert "has 9 rows, too few" in mistake(tmp_path / "all.jsonl")


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


def test_the_quickstart_comes_from_the_generator():
    splits = load_splits(arguments("quickstart", max_train_samples=5, max_eval_samples=2), seed=3)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (5, 2, 2)
    assert splits.train["prompt"] != load_splits(arguments("quickstart", max_train_samples=5), seed=4).train["prompt"]


def test_a_template_may_name_any_column_and_lists_are_joined_by_spaces(tmp_path):
    folder = folder_of(tmp_path, {**ROW, "topic": "pets"})
    splits = load_splits(arguments(folder, prompt_template="{topic}: {concepts} ({prompt}) =  "))
    assert splits.train[0]["prompt"] == "pets: dog ball (dog ball) ="


def test_columns_may_have_other_names(tmp_path):
    folder = folder_of(tmp_path, {"question": ["what", "now"], "answer": "Nothing."})
    keys = {"prompt_column": "question", "references_column": "answer", "algorithm": "supervised"}
    splits = load_splits(arguments(folder, **keys))
    assert splits.train[0]["prompt"] == "what now"
    assert splits.train[0]["references"] == ["Nothing."]
    assert splits.supervised[0] == {"prompt": "what now", "completion": " Nothing."}


def test_the_supervised_target_is_the_first_reference_or_all_or_a_column(tmp_path):
    folder = folder_of(tmp_path, {**ROW, "target": "Own."}, count=1)

    def targets(**keys):
        return load_splits(arguments(folder, algorithm="supervised+nlpo", **keys)).supervised["completion"][:]

    assert targets() == [" A dog has a ball."]
    assert targets(supervised_all_references=True) == [" A dog has a ball.", " The ball."]
    assert targets(completion_column="target") == [" Own."]


@pytest.mark.parametrize(
    ("prompt", "target", "continuation"),
    [("dog =", "A dog.", " A dog."), ("dog =", " A dog.", " A dog."), ("dog\n", "A dog.", "A dog."), ("", "A.", "A.")],
)
def test_a_target_begins_with_the_space_that_belongs_to_its_first_word(prompt, target, continuation):
    assert target_text(prompt, target) == continuation


def test_conversational_prompts_get_conversational_targets(tmp_path):
    messages = [{"role": "user", "content": "Hi"}]
    folder = folder_of(tmp_path, {"prompt": messages, "references": ["Ho"]})
    splits = load_splits(arguments(folder, algorithm="supervised"))
    assert splits.train[0]["prompt"] == messages
    assert splits.supervised[0]["completion"] == [{"role": "assistant", "content": "Ho"}]
    assert "prompt_template cannot format" in mistake(folder, prompt_template="Q: {prompt}")


def test_columns_that_the_trainer_makes_itself_are_left_out(tmp_path):
    folder = folder_of(tmp_path, {**ROW, "completion": "x", "completion_ids": [1], "input_ids": [2]})
    assert set(load_splits(arguments(folder)).train.column_names) == {"prompt", "references", "concepts", "id"}


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    folder = folder_of(tmp_path, {"text": "a", "label": 1})
    text = mistake(folder)
    assert "row 1 has no column 'prompt' (prompt_column); it has: text, label, id." in text
    assert "prompt_template names {topic}" in mistake(folder, prompt_column="text", prompt_template="{topic}")
    assert "no column 'gold' (references_column)" in mistake(folder, prompt_column="text", references_column="gold")
    assert "which the supervised stage" in mistake(folder, prompt_column="text", algorithm="supervised")
    assert "(completion_column)" in mistake(
        folder, prompt_column="text", algorithm="supervised", completion_column="gold"
    )


def test_references_are_not_needed_where_nothing_reads_them(tmp_path):
    folder = folder_of(tmp_path, {"prompt": "a"})
    assert "references" not in load_splits(arguments(folder)).train.column_names


def test_a_template_that_is_none_is_explained(tmp_path):
    assert "prompt_template is '{prompt'" in mistake(folder_of(tmp_path), prompt_template="{prompt")


def test_a_missing_or_broken_file_is_told_with_its_place(tmp_path):
    assert "is not there" in mistake(tmp_path / "no.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    assert "bad.jsonl, line 2: not valid JSON" in mistake(tmp_path / "bad.jsonl")
    (tmp_path / "list.jsonl").write_text('{"prompt": "a"}\n"word"\n')
    assert "line 2: a row must be a JSON object, not str" in mistake(tmp_path / "list.jsonl")
    (tmp_path / "empty").mkdir()
    assert "no data file" in mistake(tmp_path / "empty")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_line_separators_of_unicode_may_stand_in_a_text_and_do_not_count_as_lines(tmp_path, separator):
    rows = [{"prompt": f"one{separator}two {number}"} for number in range(20)]
    text = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "all.jsonl").write_bytes(text.encode())
    assert list(read_file(tmp_path / "all.jsonl")) == rows
    (tmp_path / "bad.jsonl").write_bytes(f"{text}\r\n{{".encode())
    assert "bad.jsonl, line 40: not valid JSON" in mistake(tmp_path / "bad.jsonl")


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path, ending):
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


def with_last_row(tmp_path, row, name="train"):
    """A folder whose split has the usual row twice, a blank line between, and then this one."""
    folder = folder_of(tmp_path)
    usual = {**ROW, "target": "Own."}
    (folder / f"{name}.jsonl").write_text("\n\n".join(json.dumps(row) for row in [usual, usual, {**usual, **row}]))
    return folder


@pytest.mark.parametrize(
    ("row", "keys", "says"),
    [
        ({"prompt": None}, {}, "null in the column 'prompt' (prompt_column): write text, or leave the row out."),
        ({"prompt": ["a", None]}, {}, "null in the column 'prompt' (prompt_column)"),
        ({"id": None}, {"prompt_template": "{id} {prompt}"}, "null in the column 'id' (prompt_template)"),
        ({"target": None}, {"completion_column": "target"}, "null in the column 'target' (completion_column): write"),
        ({"references": None}, {}, "null in the column 'references' (references_column), which the supervised stage"),
        ({"references": []}, {}, "an empty list in the column 'references' (references_column), which the supervised"),
        ({"references": [None]}, {}, "None in the column 'references' (references_column), but the supervised stage"),
        ({"references": 5}, {}, "5 in the column 'references' (references_column): write text, or a list of texts."),
        ({"references": {"a": ["b"]}}, {}, "{'a': ['b']} in the column 'references' (references_column): write text"),
    ],
)  # fmt: skip
def test_a_row_without_a_prompt_or_target_is_told_with_file_and_row(tmp_path, row, keys, says):
    text = mistake(with_last_row(tmp_path, row), algorithm="supervised", **keys)
    assert f"{tmp_path / 'train.jsonl'}, row 3 has {says}" in text


def test_a_target_that_is_no_text_or_a_null_under_another_name_is_told_as_such(tmp_path):
    folder = folder_of(tmp_path)
    text = mistake(folder, algorithm="supervised", completion_column="concepts")
    assert "train.jsonl, row 1 has ['dog', 'ball'] in the column 'concepts' (completion_column): write text." in text
    text = mistake(folder_of(tmp_path, {"prompt": "a", "gold": None}), references_column="gold")
    assert (
        "test.jsonl, row 1 has null in the column 'gold' (references_column): write text, or leave the row out."
        in text
    )


def test_a_row_of_a_single_file_is_named_as_it_stands_there(tmp_path):
    rows = [{"prompt": "a"}] * 40
    for row in (0, 17, 39):
        write_rows(tmp_path / "all.jsonl", [*rows[:row], {"prompt": None}, *rows[row + 1 :]])
        assert f"all.jsonl, row {row + 1} has null" in mistake(tmp_path / "all.jsonl")


def test_a_prompt_that_no_template_reads_may_be_null(tmp_path):
    folder = with_last_row(tmp_path, {"prompt": None})
    assert load_splits(arguments(folder, prompt_template="{concepts}")).train[2]["prompt"] == "dog ball"


def test_a_test_row_may_have_no_references_where_nothing_learns_from_them(tmp_path):
    folder = with_last_row(tmp_path, {"references": None}, name="test")
    assert load_splits(arguments(folder, algorithm="supervised")).test[2]["references"] is None


def test_a_column_that_the_first_row_lacks_is_kept(tmp_path):
    folder = with_last_row(tmp_path, {"gold": "x"})
    assert load_splits(arguments(folder)).train["gold"][:] == [None, None, "x"]
    write_rows(folder / "train.jsonl", [{"prompt": "a"}, ROW])
    assert load_splits(arguments(folder)).train["references"][:] == [None, ROW["references"]]


@pytest.mark.parametrize("value", [5, ["x"], {"a": 1}, "\ud800"])
def test_values_that_cannot_be_one_column_are_told_with_file_row_and_column(tmp_path, value):
    text = mistake(with_last_row(tmp_path, {"id": value}))
    assert f"train.jsonl, row 3 has {value!r} in the column 'id', which cannot stand in one column" in text


def test_an_empty_split_is_a_mistake(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "test.jsonl").write_text("\n")
    assert "the test split of" in mistake(folder)


def test_a_name_that_the_hub_does_not_have_is_one_line(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert "'owner/nothing' is no file or folder, and not to be had from the Hub: no network at all" in mistake(
        "owner/nothing"
    )


def test_splits_of_a_hub_data_set_are_checked(monkeypatch):
    import datasets

    rows = datasets.Dataset.from_list([{"prompt": "a", "references": ["b"]}])
    hub = datasets.DatasetDict(train=rows, dev=rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: hub)
    assert "owner/name has no split 'test'; it has: train, dev." in mistake("owner/name")
    assert load_splits(arguments("owner/name", dataset_test_split="dev")).test[0]["prompt"] == "a"
