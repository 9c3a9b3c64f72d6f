"""Data of a recipe: files, folders, columns, and what is said when something is missing."""

from __future__ import annotations

from support.data_files import ROW, arguments, folder_of, mistake, write_rows
from trl_nlpo.data.splits import load_splits


def test_a_folder_has_a_file_per_split_and_all_columns_stay(tmp_path):
    splits = load_splits(arguments(folder_of(tmp_path)))
    assert splits.train[2] == {**ROW, "id": "train-2"}
    assert splits.validation[0]["id"] == "validation-0"
    assert splits.test[0]["id"] == "test-0"
    assert splits.supervised is None


def test_samples_are_limited_per_split(tmp_path):
    splits = load_splits(arguments(folder_of(tmp_path), max_train_samples=2, max_eval_samples=1, max_test_samples=2))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (2, 1, 2)


def test_a_validation_split_is_not_needed_but_train_and_test_are(tmp_path):
    folder = folder_of(tmp_path, splits=("train", "test"))
    assert load_splits(arguments(folder)).validation is None
    text = mistake(folder, dataset_test_split="heldout")
    assert "no file for the split 'heldout'" in text
    assert "test.jsonl, train.jsonl" in text


def test_a_single_file_is_divided_into_disjoint_splits_by_the_seed(tmp_path):
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


def test_the_quickstart_comes_from_the_generator():
    splits = load_splits(arguments("quickstart", max_train_samples=5, max_eval_samples=2, max_test_samples=2), seed=3)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (5, 2, 2)
    assert splits.train["prompt"] != load_splits(arguments("quickstart", max_train_samples=5), seed=4).train["prompt"]


def test_a_name_that_the_hub_does_not_have_is_one_line(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert (
        "'owner/nothing' is not a local file or folder and could not be loaded from the Hub: no network at all"
        in mistake("owner/nothing")
    )


def test_splits_of_a_hub_data_set_are_checked(monkeypatch):
    import datasets

    rows = datasets.Dataset.from_list([{"prompt": "a", "references": ["b"]}])
    hub = datasets.DatasetDict(train=rows, dev=rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: hub)
    assert "owner/name has no split 'test'; it has: train, dev." in mistake("owner/name")
    assert load_splits(arguments("owner/name", dataset_test_split="dev")).test[0]["prompt"] == "a"
