"""Who is asked: a judge that errs as often as it is told, and people, by files."""

from __future__ import annotations

import json

import pytest

from trl_nlpo.collection.askers import Files, Judge
from trl_nlpo.collection.labels import Labels
from trl_nlpo.errors import UserError


def longest(completions, **_):
    return [float(len(text)) for text in completions]


@pytest.fixture
def labels(tmp_path):
    made = Labels(tmp_path / "labels.sqlite")
    rows = [{"prompt": str(n), "completions": ["a", "abc", "ab"], "columns": {"wanted": "b"}} for n in range(200)]
    made.add_items(0, 0, rows)
    return made


def chosen(judge, labels):
    judge.ask(labels.unanswered(0), labels)
    return [choice for _, _, choice in labels.choices()]


def test_a_judge_without_noise_chooses_what_scores_highest(labels):
    assert set(chosen(Judge([longest], [1.0]), labels)) == {1}


def test_a_negative_weight_turns_the_choice(labels):
    assert set(chosen(Judge([longest], [-1.0]), labels)) == {0}


def test_a_judge_errs_as_often_as_it_is_told(labels):
    # Half of the answers are by chance, of which a third are right anyway.
    right = chosen(Judge([longest], [1.0], noise=0.5), labels).count(1) / 200
    assert 0.57 < right < 0.76


def test_a_judge_says_the_same_again_of_the_same_question(labels, tmp_path):
    again = Labels(tmp_path / "again.sqlite")
    again.add_items(0, 0, [vars(item) for item in labels.items()])
    assert chosen(Judge([longest], [1.0], 0.5, 3), labels) == chosen(Judge([longest], [1.0], 0.5, 3), again)


def test_of_equals_the_judge_takes_one_by_chance(labels):
    choices = chosen(Judge([lambda completions, **_: [0.0] * len(completions)], [1.0]), labels)
    assert {choices.count(index) > 40 for index in range(3)} == {True}


def test_a_judge_sees_the_columns_of_the_data(labels):
    def has_wanted(completions, wanted, **_):
        return [float(word in text) for text, word in zip(completions, wanted, strict=True)]

    assert set(chosen(Judge([has_wanted], [1.0]), labels)) == {1, 2}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda completions, completion_ids, **_: completions,
            "'<lambda>' failed .*completion_ids.*as a judge it is given",
        ),
        (lambda completions, **_: [float("nan")] * len(completions), "returned a number that is not finite"),
        (lambda completions, **_: [1.0], "returned 1 values for 600 texts"),
        (lambda completions, **_: completions, "failed .ValueError"),
    ],
)
def test_a_judge_whose_function_fails_is_one_line(labels, function, message):
    with pytest.raises(UserError, match=message):
        Judge([function], [1.0]).ask(labels.items(), labels)


def test_a_judge_adds_up_rewards_per_token(labels):
    judge = Judge([lambda completions, **_: [[1.0] * len(text) for text in completions]], [1.0])
    assert judge.scores(labels.items()[:1]) == [[1.0, 3.0, 2.0]]


def write_answers(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / "answers-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_people_answer_by_files(labels, tmp_path):
    said = []
    items = labels.items(0)
    write_answers(tmp_path / "q", [{"item": item.id, "choice": 2, "annotator": "ann"} for item in items])
    Files(tmp_path / "q", said.append).ask(items, labels)
    assert len(labels.choices()) == 200
    (first, *_) = (tmp_path / "q" / "questions-0.jsonl").read_text().splitlines()
    assert json.loads(first) == {"item": 1, "prompt": "0", "completions": ["a", "abc", "ab"]}
    assert "200 questions are in" in said[0]


def test_answers_may_be_added_to_those_that_were_taken(labels, tmp_path):
    files, questions = Files(tmp_path / "q", lambda _: None), tmp_path / "q" / "questions-0.jsonl"
    rows = [{"item": item.id, "choice": 1} for item in labels.items(0)]
    write_answers(tmp_path / "q", rows[:150])
    with pytest.raises(UserError, match="no answer to 50 of 200 questions, the first is item 151"):
        files.ask(labels.unanswered(0), labels)
    assert len(labels.choices()) == 150
    write_answers(tmp_path / "q", rows)
    files.ask(labels.unanswered(0), labels)
    assert len(labels.choices()) == 200
    assert len(questions.read_text().splitlines()) == 200


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item": 999, "choice": 0}], "line 1: there is no item 999"),
        ([{"choice": 0}], "line 1: there is no item None"),
        ([{"item": 1, "choice": 3}], "choice for item 1 is 3, but must be a whole number from 0 to 2"),
        ([{"item": 1, "choice": 0}], "has no answer to 199 of 200 questions, the first is item 2"),
        ([[1, 0]], "line 1: an answer must be a JSON object"),
    ],
)
def test_answers_that_do_not_fit_the_questions_are_refused(labels, tmp_path, rows, message):
    write_answers(tmp_path / "q", rows)
    with pytest.raises(UserError, match=message):
        Files(tmp_path / "q", lambda _: None).ask(labels.items(0), labels)
