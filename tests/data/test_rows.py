"""From rows to prompts, references and targets, and what is said about a row that lacks one."""

from __future__ import annotations

import pytest

from support.data_files import ROW, arguments, folder_of, mistake, with_last_row, write_rows
from trl_nlpo.data.rows import target_text
from trl_nlpo.data.splits import load_splits
from trl_nlpo.recipes.recipe import load_recipe


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


@pytest.mark.parametrize(
    ("row", "keys", "says"),
    [
        ({"prompt": None}, {}, "null in the column 'prompt' (prompt_column): write text, or remove the row."),
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
        "test.jsonl, row 1 has null in the column 'gold' (references_column): write text, or remove the row." in text
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
    assert f"train.jsonl, row 3 has {value!r} in the column 'id', which does not fit into one column" in text


def test_an_empty_split_is_a_mistake(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "test.jsonl").write_text("\n")
    assert "the test split of" in mistake(folder)


@pytest.mark.parametrize(
    ("row", "keys", "says"),
    [
        ("w1,", {}, "the column 'references' (references_column)"),
        ("w1, ", {"completion_column": "references"}, "the column 'references' (completion_column)"),
    ],
)
def test_an_empty_cell_is_no_target(tmp_path, row, keys, says):
    (tmp_path / "train.csv").write_text(f"prompt,references\nw1,w2\n{row}\n")
    (tmp_path / "test.csv").write_text("prompt,references\nw1,w2\n")
    line = mistake(tmp_path, algorithm="supervised", dataset_validation_split=None, **keys)
    assert f"row 2 has no text in {says}, which the supervised stage learns from" in line


def test_prompts_and_targets_may_be_in_columns_whose_names_rewards_know_for_something_else(tmp_path):
    folder = folder_of(tmp_path, {"prompts": "w1", "completions": "w2", "references": ["w3"]})
    keys = {"prompt_column": "prompts", "completion_column": "completions", "algorithm": "supervised"}
    splits = load_splits(arguments(folder, **keys))
    assert set(splits.train.column_names) == {"references", "prompt", "id"}
    assert splits.supervised[0] == {"prompt": "w1", "completion": " w2"}


def test_conversations_of_other_shapes_are_the_same_for_every_stage(tmp_path):
    shaped = [{"from": "human", "value": "Hi"}]
    folder = folder_of(tmp_path, {"prompt": shaped, "references": ["Ho"]})
    splits = load_splits(arguments(folder, algorithm="supervised"))
    assert splits.train[0]["prompt"] == splits.supervised[0]["prompt"] == [{"role": "user", "content": "Hi"}]
    folder = folder_of(tmp_path, {"prompt": [{"speaker": "a"}], "references": ["Ho"]})
    assert "row 1 has a message 0 with the keys speaker" in mistake(folder)


def test_the_supervised_stage_may_have_only_some_of_the_rows(tmp_path):
    rows = [{**ROW, "label": number % 2, "id": str(number)} for number in range(6)]
    folder = folder_of(tmp_path)
    write_rows(folder / "train.jsonl", rows)
    keys = {"algorithm": "supervised", "supervised_where": {"label": 1}}
    splits = load_splits(arguments(folder, **keys))
    assert (len(splits.supervised), len(splits.train)) == (3, 6)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"lable": 1}, "has no column 'lable' (supervised_where); it has: "),
        ({"label": "1"}, "supervised_where is {'label': '1'}, and no row of "),
        ({"label": 7}, "is so: label has 0, 1."),
    ],
)
def test_rows_that_are_not_there_are_one_line(tmp_path, wanted, message):
    folder = folder_of(tmp_path)
    write_rows(folder / "train.jsonl", [{**ROW, "label": number} for number in (0, 1, 0)])
    assert message in mistake(folder, algorithm="supervised", supervised_where=wanted)


def test_a_task_prepares_rows_of_files_too(tmp_path):
    rows = [{"prompt": "Who ran?\nAnn ran.", "references": ["Ann"]}]
    for split in ("train", "test"):
        write_rows(tmp_path / f"narrativeqa_{split}.jsonl", rows)
    recipe = load_recipe("narrativeqa", ["--dataset_name", str(tmp_path), "--use_cpu", "true"])
    row = load_splits(recipe.arguments).test[0]
    assert (row["prompt"], row["references"]) == ("who ran? \\n ann ran.", ["ann"])
