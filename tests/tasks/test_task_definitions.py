"""GRUE's seven tasks: their miniatures, and how rows of the Hub become prompts and references."""

from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import metric_names
from trl_nlpo.rewards import built_in_names, get_reward
from trl_nlpo.tasks import HubData, Portion, Task, get_task, task_names
from trl_nlpo.tasks.base import distinct_rows, needs_download
from trl_nlpo.tasks.hub import rows_from_hub
from trl_nlpo.tasks.totto import linearized


SEVEN = ["imdb", "commongen", "cnndm", "totto", "iwslt", "narrativeqa", "dailydialog"]


def name_of(spec):
    return spec if isinstance(spec, str) else spec["name"]


def test_there_are_seven():
    assert task_names() == SEVEN


@pytest.mark.parametrize("name", SEVEN)
def test_every_reward_and_metric_of_a_task_exists(name):
    task = get_task(name)
    assert task.name == name
    assert {name_of(spec) for spec in (*task.rewards, *task.offline_rewards)} <= set(built_in_names())
    assert {name_of(spec) for spec in (*task.metrics, *task.naturalness)} <= set(metric_names())
    assert not any(needs_download(spec) for spec in task.offline_rewards)


@pytest.mark.parametrize("name", SEVEN)
def test_a_miniature_has_the_rows_of_its_task_without_repetition(name):
    task = get_task(name)
    splits = distinct_rows(task, {"test": 20, "train": 80}, seed=0)
    rows = splits["test"] + splits["train"]
    assert len({row["prompt"] for row in rows}) == 100
    for row in rows:
        assert row["references"]
        assert all(isinstance(text, str) and text for text in row["references"])
        task.prompt_template.format(**row)
    assert distinct_rows(task, {"test": 20, "train": 10}, seed=0)["test"] == splits["test"]
    assert distinct_rows(task, {"test": 20}, seed=1)["test"] != splits["test"]


@pytest.mark.parametrize("ends", [True, False])
def test_a_miniature_with_too_few_rows_is_one_line(ends):
    def rows(rng):
        yield from ({"prompt": str(n), "references": ["x"]} for n in range(5))
        while not ends:
            yield {"prompt": str(rng.randrange(5)), "references": ["x"]}

    small = Task("small", "s", iter, rows, "small", 4, ("rougeL",), ("rouge",))
    assert len(distinct_rows(small, {"test": 2, "train": 3}, seed=0)["train"]) == 3
    with pytest.raises(UserError, match=r"'small' has only 5 different prompts, and 6 are wanted: lower max_train"):
        distinct_rows(small, {"test": 2, "train": 4}, seed=0)


@pytest.mark.parametrize("name", SEVEN)
def test_a_reference_earns_more_offline_than_the_reference_of_another_row(name):
    rows = list(islice(get_task(name).miniature(random.Random(3)), 40))
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    columns["prompts"] = columns.pop("prompt")
    own = [row["references"][0] for row in rows]
    for spec in get_task(name).offline_rewards:
        reward = get_reward(spec)
        right = sum(reward(completions=own, **columns)) / 40
        wrong = sum(reward(completions=own[1:] + own[:1], **columns)) / 40
        # A sentiment is one whatever the row.
        assert right > wrong or spec == "positive_words"


# Rows as the Hub's pages document them, two or three of each.
HUB_ROWS = {
    "imdb": [{"text": "one two three four five", "label": 1}, {"text": "word", "label": 0}],
    "commongen": [
        {"concept_set_idx": 0, "concepts": ["ski", "mountain"], "target": "He skis."},
        {"concept_set_idx": 0, "concepts": ["ski", "mountain"], "target": "A mountain."},
        {"concept_set_idx": 1, "concepts": ["dog"], "target": ""},
    ],
    "cnndm": [{"article": "Long text.", "highlights": "Short .\nText .", "id": "1"}],
    "totto": [
        {
            "table_page_title": "Ann",
            "table_section_title": "Prizes",
            "table": [
                [{"value": "Year", "is_header": True, "column_span": 1, "row_span": 1}],
                [{"value": "1901", "is_header": False, "column_span": 1, "row_span": 1}],
            ],
            "highlighted_cells": [[1, 0]],
            "overlap_subset": True,
            "sentence_annotations": {"final_sentence": ["Ann won in 1901.", "In 1901 Ann won."]},
        }
    ],
    "iwslt": [{"translation": {"en": "Thank you.", "de": "Danke."}}],
    "narrativeqa": [
        {
            "question": {"text": "Who?", "tokens": []},
            "document": {"summary": {"text": "A story.", "title": "T"}, "text": "The book."},
            "answers": [{"text": "She", "tokens": []}, {"text": "A woman", "tokens": []}],
        }
    ],
    "dailydialog": [{"dialog": [f" turn {n} . " for n in range(7)], "act": [1, 2, 3, 4, 1, 2, 3], "emotion": [0] * 7}],
}  # fmt: skip
EXPECTED = {
    "imdb": [{"prompt": "one two", "references": ["three four five"], "label": 1}],
    "commongen": [
        {"prompt": "ski mountain", "references": ["He skis.", "A mountain."], "concepts": ["ski", "mountain"]}
    ],
    "cnndm": [{"prompt": "Long text.", "references": ["Short .\nText ."]}],
    "totto": [
        {
            "prompt": "<page_title> Ann </page_title> <section_title> Prizes </section_title> <table> <cell> 1901 "
            "<col_header> Year </col_header> </cell> </table>",
            "references": ["Ann won in 1901.", "In 1901 Ann won."],
            "page_title": "Ann",
            "section_title": "Prizes",
            "section_text": "",
            "subset": "overlap",
            "table": [["Year"], ["1901"]],
            "highlighted_cells": [[1, 0]],
        }
    ],
    "iwslt": [{"prompt": "Thank you.", "references": ["Danke."]}],
    "narrativeqa": [
        {"prompt": "Who?\nA story.", "references": ["She", "A woman"], "question": "Who?", "story": "A story."}
    ],
    "dailydialog": [
        {
            "prompt": "turn 0 . <EOU> turn 1 . <EOU> turn 2 . <EOU> turn 3 . <EOU> turn 4 . <EOU>",
            "references": ["turn 5 ."],
            "act": 2,
            "emotion": 0,
        },
        {
            "prompt": "turn 1 . <EOU> turn 2 . <EOU> turn 3 . <EOU> turn 4 . <EOU> turn 5 . <EOU>",
            "references": ["turn 6 ."],
            "act": 3,
            "emotion": 0,
        },
    ],
}


@pytest.mark.parametrize("name", SEVEN)
def test_rows_of_the_hub_become_prompts_and_references(name):
    task = get_task(name)
    assert list(task.rows(HUB_ROWS[name])) == EXPECTED[name]
    # The miniature has every column that the Hub's rows have.
    assert set(EXPECTED[name][0]) == set(next(task.miniature(random.Random(0))))


def hub_task(**hub):
    splits = {"train": Portion("train", 0.0, 0.75), "validation": Portion("train", 0.75, 1.0), "test": Portion("test")}
    return Task(
        name="own",
        summary="",
        rows=lambda rows: ({"prompt": row["text"], "references": ["x"]} for row in rows),
        miniature=lambda rng: iter(()),
        files="own",
        response_length=4,
        rewards=("rougeL",),
        metrics=(),
        hub=HubData("owner/data", splits, {"revision": "main"}, **hub),
    )


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def load_dataset(path, split, **options):
        calls.append((path, split, options))
        return Dataset.from_list([{"text": f"{split} {n}"} for n in range(8)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_portions_of_a_split_on_the_hub_do_not_overlap(asked):
    parts = {split: [row["prompt"] for row in rows_from_hub(hub_task(), split)] for split in ("train", "validation")}
    assert parts == {"train": [f"train {n}" for n in range(6)], "validation": ["train 6", "train 7"]}
    assert asked[0] == ("owner/data", "train", {"revision": "main"})


def test_a_sorted_split_is_shuffled_before_portions_are_taken(asked):
    parts = [
        [row["prompt"] for row in rows_from_hub(hub_task(shuffle_seed=0), split)] for split in ("train", "validation")
    ]
    assert sorted(parts[0] + parts[1]) == [f"train {n}" for n in range(8)]
    assert parts[0] != [f"train {n}" for n in range(6)]


def test_what_the_hub_does_not_give_is_one_line_with_the_way_out(monkeypatch, asked):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: Dataset.from_list([{"other": 1}]))
    with pytest.raises(UserError, match=r"owner/data has other columns than task 'own' expects \('text'.*other"):
        rows_from_hub(hub_task(), "train")

    def offline(*args, **kwargs):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"own_train\.jsonl, or to 'miniature'") as caught:
        rows_from_hub(hub_task(), "train")
    assert "\n" not in str(caught.value)


def test_another_number_of_rows_than_the_task_was_made_for_is_one_line(asked):
    hub = {"rows": {"train": 8, "test": 9}}
    assert len(rows_from_hub(hub_task(**hub), "train")) == 6
    with pytest.raises(UserError, match=r"owner/data at revision main has 8 rows in its split 'test', .* expects 9"):
        rows_from_hub(hub_task(**hub), "test")


EXPORTS = {"totto": "totto", "iwslt": "iwslt2017-en-de", "dailydialog": "default"}


@pytest.mark.parametrize("name", EXPORTS)
def test_no_other_folder_of_an_export_gets_into_a_split(name, tmp_path):
    own = EXPORTS[name]
    others = ("challenge_train_sample", "challenge_validation_sample", "challenge_test_scramble", "train_old")
    for folder in (own, "another-config"):
        for split in ("train", "validation", "test", *others):
            (tmp_path / folder / split).mkdir(parents=True)
            Dataset.from_list([{"from": f"{folder}/{split}"}]).to_parquet(tmp_path / folder / split / "0000.parquet")
    options = {key: value for key, value in get_task(name).hub.options.items() if key != "revision"}
    for split in ("train", "validation", "test"):
        rows = datasets.load_dataset(str(tmp_path), split=split, cache_dir=str(tmp_path / "cache"), **options)
        assert rows["from"] == [f"{own}/{split}"]


@pytest.mark.parametrize("name", SEVEN)
def test_what_is_on_the_hub_is_pinned_or_the_code_says_why_not(name):
    hub, code = get_task(name).hub, Path(get_task.__code__.co_filename).with_name(f"{name}.py").read_text()
    assert set(hub.rows) == {portion.split for portion in hub.splits.values()}
    is_pinned = re.fullmatch("[0-9a-f]{40}", hub.options.get("revision", ""))
    assert bool(is_pinned) != ("# Not pinned: " in code)


def test_rows_of_totto_know_their_subset_and_train_rows_have_none():
    row = HUB_ROWS["totto"][0]
    found = [
        next(get_task("totto").rows([{**row, "overlap_subset": value}]))["subset"]
        for value in (True, "False", "none", None)
    ]
    assert found == ["overlap", "non_overlap", None, None]


def test_questions_are_asked_as_unifiedqa_was_trained_whatever_the_row_has():
    prepare = get_task("narrativeqa").prepare
    by_columns = prepare({"prompt": "x", "question": "Who? ", "story": "A Story.", "references": [" She ", "A Woman"]})
    by_prompt = prepare({"prompt": "Who?\nA Story.", "references": "She"})
    assert by_columns["prompt"] == by_prompt["prompt"] == "who? \\n a story."
    assert (by_columns["references"], by_prompt["references"]) == (["she", "a woman"], ["she"])
    assert "references" not in prepare({"prompt": "Who?\nA story."})


def test_headers_of_a_cell_are_those_above_it_also_where_cells_span_columns():
    def cell(value, span=1, is_header=False):
        return {"value": value, "column_span": span, "is_header": is_header}

    table = [
        [cell("Season", is_header=True), cell("League", span=2, is_header=True)],
        [cell("", is_header=True), cell("Games", is_header=True), cell("Goals", is_header=True)],
        [cell("1990"), cell("20"), cell("7")],
    ]
    text = linearized("Page", "Section", table, [[2, 2]])
    assert "<cell> 7 <col_header> League </col_header> <col_header> Goals </col_header> </cell>" in text
    plain = linearized("Page", "Section", [["Year", "Team"], ["1990", "Lions"], ["1991", "Bears"]], [[2, 1]])
    assert "<cell> Bears <col_header> Team </col_header> </cell>" in plain


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("comongen", "unknown task 'comongen', did you mean 'commongen'"),
        ("own_tasks:missing", "own_tasks has no 'missing'"),
        ("own_tasks:number", "task 'own_tasks:number' is int, but must be"),
        ("no_such_tasks:task", "there is no module 'no_such_tasks'"),
    ],
)
def test_a_wrong_name_is_one_line(name, message, tmp_path, monkeypatch):
    (tmp_path / "own_tasks.py").write_text("number = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        get_task(name)


def test_ones_own_task_is_found_by_its_path_and_as_an_entry_point(tmp_path, monkeypatch):
    (tmp_path / "eighth.py").write_text(
        "from trl_nlpo.tasks import Task\n"
        "TASK = Task(name='eighth', summary='', rows=iter, miniature=iter, files='eighth', response_length=3,"
        " rewards=('rougeL',), metrics=())\n"
    )
    monkeypatch.chdir(tmp_path)
    assert get_task("eighth:TASK").name == "eighth"
    package = tmp_path / "eighth-1.0.dist-info"
    package.mkdir()
    (package / "entry_points.txt").write_text("[trl_nlpo.tasks]\neighth = eighth:TASK\n")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: eighth\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert task_names()[-1] == "eighth"
    assert get_task("eighth").response_length == 3
