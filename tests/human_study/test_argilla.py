"""A study as Argilla's records, out and in again."""

from __future__ import annotations

import json

import pytest

from support.commands import run_cli
from trl_nlpo.errors import UserError
from trl_nlpo.human_study.argilla import item_of, records_of, rows_of
from trl_nlpo.human_study.judgements import read_judgements
from trl_nlpo.human_study.study import TIE, Study, StudySettings, create


ITEMS = [
    {
        "item": f"i{n}",
        "prompt": f"p{n}",
        "prompt_key": str(n),
        "completions": [f"a{n}", f"b{n}"],
        "systems": ["x", "y"],
    }
    for n in range(4)
]


ONE = {"completion_1": "a"}


@pytest.fixture
def study(tmp_path):
    made = create(tmp_path / "study", StudySettings(kind="pairwise", annotators_per_item=2), ITEMS)
    for annotator, answer in (("ann", 0), ("bob", TIE)):
        while (question := made.next_question(annotator)) is not None:
            made.answer(annotator, question.shown, answer)
    return made


def test_records_have_the_texts_and_what_each_person_said(study):
    (first, *_) = records_of(study.items(), study.judgements())
    assert first["fields"] == {"prompt": "p0", "completion_1": "a0", "completion_2": "b0"}
    assert first["metadata"] == {"prompt_key": "0", "system_1": "x", "system_2": "y"}
    said = {answer["user_id"]: answer["value"] for answer in first["responses"]["best"]}
    assert said["bob"] == "tie"
    assert said["ann"] in ("completion_1", "completion_2")


def test_what_goes_out_comes_in_again(study, tmp_path, monkeypatch, capsys):
    out = tmp_path / "records.jsonl"
    code, _, err = run_cli(monkeypatch, capsys, "study", "export", study.folder, "--out", out, "--as", "argilla")
    assert (code, err) == (0, "")
    _, choices = read_judgements(out)
    found = {(c.item, c.annotator, c.systems, c.choice, c.prompt) for c in choices}
    assert found == {
        (row["item"], row["annotator"], tuple(row["systems"]), row["choice"], row["prompt"])
        for row in study.judgements()
    }
    code, _, err = run_cli(
        monkeypatch, capsys, "study", "create", out, "--out", tmp_path / "again", "--kind", "pairwise"
    )
    assert (code, err) == (0, "")
    assert Study(tmp_path / "again").items() == study.items()


@pytest.mark.parametrize(("kind", "k", "gold"), [("pairwise", 2, 1), ("likert", 1, {"best": 2})])
def test_gold_goes_out_and_comes_in_again(tmp_path, kind, k, gold):
    item = {"item": "g", "prompt": "p", "completions": ["a", "b"][:k], "systems": ["x", "y"][:k], "gold": gold}
    made = create(tmp_path / "study", StudySettings(kind=kind), [item])
    made.answer("ann", made.next_question("ann").shown, 0 if kind == "pairwise" else {"best": 2})
    (record,) = records_of(made.items(), made.judgements())
    assert item_of(record, "here")["gold"] == gold
    assert [row["gold"] for row in rows_of(record, "here")] == [row["gold"] for row in made.judgements()]


def test_ratings_are_numbers_and_drafts_are_left_out():
    answers = [
        {"value": 4, "user_id": "ann"},
        {"value": 1, "user_id": "bob", "status": "draft"},
    ]
    record = {"id": "7", "fields": {"prompt": "p", "completion_1": "a"}, "responses": {"quality": answers}}
    assert rows_of(record, "here") == [
        {"item": "7", "prompt": "7", "annotator": "ann", "criterion": "quality", "system": "1", "rating": 4}
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"fields": {"text": "a"}}, "has no field completion_1; it has: text"),
        ({"fields": {"completion_1": "a"}, "responses": {"q": [{"value": 3}]}}, "an answer to 'q' has no user_id"),
        (
            {"fields": {"completion_1": "a"}, "responses": {"q": [{"value": "b", "user_id": "u"}]}},
            "q is 'b', but must be",
        ),
    ],
)
def test_a_record_that_cannot_be_is_refused(record, message):
    with pytest.raises(UserError, match=message):
        rows_of(json.loads(json.dumps(record)), "here")
    assert item_of({"fields": {"completion_1": "a"}}, "here")["systems"] == ["1"]
