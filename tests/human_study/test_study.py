"""Who is shown what, and that no answer is lost."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections import Counter

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.human_study.judgements import read_judgements
from trl_nlpo.human_study.study import TIE, Study, StudySettings, create, preferences_of
from trl_nlpo.reward_training.comparisons import kind_of
from trl_nlpo.storage.json_lines import write_json_lines


def items(number, k=3, **more):
    systems = ["a", "b", "c", "d"][:k]
    return [
        {
            "item": f"i{n}",
            "prompt": f"prompt {n}",
            "completions": [f"{s}{n}" for s in systems],
            "systems": systems,
            **more,
        }
        for n in range(number)
    ]


def made(folder, number=10, k=3, gold=(), **settings):
    return create(folder / "study", StudySettings(**settings), [*items(number, k), *gold])


def judge(study, annotator, wanted="b", most=1000):
    """Answer everything by the system that a person likes; returns the questions."""
    asked = []
    while len(asked) < most and (question := study.next_question(annotator)) is not None:
        place = next(i for i, text in enumerate(question.completions) if text.startswith(wanted))
        study.answer(annotator, question.shown, place)
        asked.append(question)
    return asked


def test_each_item_goes_to_as_many_people_as_wanted(tmp_path):
    study = made(tmp_path, annotators_per_item=2)
    for annotator in ("ann", "bob", "eve"):
        judge(study, annotator)
    assert set(Counter(row["item"] for row in study.judgements()).values()) == {2}
    assert all(row["systems"][row["choice"]] == "b" for row in study.judgements())


def test_the_order_on_the_screen_is_random_and_recorded(tmp_path):
    study = made(tmp_path, number=60)
    asked = judge(study, "ann")
    first = Counter(question.completions[0][0] for question in asked)
    assert min(first["a"], first["b"], first["c"]) >= 8
    rows = study.judgements()
    for question, row in zip(asked, rows, strict=True):
        number = row["item"][1:]
        assert [f"{row['systems'][index]}{number}" for index in row["order"]] == list(question.completions)


def test_a_question_comes_again_in_the_same_order_until_it_is_answered(tmp_path):
    study = made(tmp_path)
    first = study.next_question("ann")
    assert Study(tmp_path / "study").next_question("ann") == first


def test_a_second_click_is_no_second_answer(tmp_path):
    study = made(tmp_path)
    question = study.next_question("ann")
    study.answer("ann", question.shown, 0)
    study.answer("ann", question.shown, 1)
    assert len(study.judgements()) == 1


def test_an_answer_that_is_undone_is_asked_for_again_and_nothing_is_deleted(tmp_path):
    study = made(tmp_path)
    judge(study, "ann", "b", 2)
    assert study.undo("ann")
    assert len(study.judgements()) == 1
    judge(study, "ann", "c", 1)
    assert [row["systems"][row["choice"]] for row in study.judgements()] == ["b", "c"]
    connection = sqlite3.connect(tmp_path / "study" / "study.sqlite")
    assert connection.execute("SELECT COUNT(*) FROM answers").fetchone() == (3,)
    connection.close()
    assert not study.undo("bob")


def test_repeats_come_later_and_are_marked(tmp_path):
    study = made(tmp_path, number=20, repeat_share=0.2)
    judge(study, "ann")
    rows = study.judgements()
    repeats = [row["item"] for row in rows if row["is_repeat"]]
    assert len(rows) == 24
    assert len(set(repeats)) == 4
    for item in repeats:
        first, again = (index for index, row in enumerate(rows) if row["item"] == item)
        assert again - first > 5
    assert study.progress("ann") == (24, 24)


def test_gold_items_are_for_everybody(tmp_path):
    gold = [{"item": f"gold{n}", "prompt": "p", "completions": ["a", "b", "c"], "systems": ["x"] * 3, "gold": 1}
            for n in range(2)]  # fmt: skip
    study = made(tmp_path, number=8, gold=gold, gold_every=3)
    judge(study, "ann")
    judge(study, "bob")
    rows = study.judgements()
    assert Counter(row["annotator"] for row in rows if row["gold"] is not None) == {"ann": 2, "bob": 2}
    assert [row["gold"] for row in rows if row["annotator"] == "ann"].index(1) == 2


def test_a_tie_is_an_answer_of_pairs_only(tmp_path):
    study = made(tmp_path, k=2, kind="pairwise")
    question = study.next_question("ann")
    study.answer("ann", question.shown, TIE)
    assert study.judgements()[0]["choice"] is None
    other = create(tmp_path / "other", StudySettings(), items(3))
    with pytest.raises(UserError, match="from 0 to 2"):
        other.answer("ann", other.next_question("ann").shown, TIE)


def test_ratings_are_one_row_per_criterion_and_can_be_analysed(tmp_path):
    criteria = {"quality": "How good is it?", "fluency": "How fluent?"}
    study = create(tmp_path / "study", StudySettings(kind="likert", criteria=criteria), items(4, 1))
    for _ in range(4):
        question = study.next_question("ann")
        study.answer("ann", question.shown, {"quality": 4, "fluency": 2})
    write_json_lines(tmp_path / "out.jsonl", study.judgements())
    ratings, _ = read_judgements(tmp_path / "out.jsonl")
    assert Counter((rating.criterion, rating.value) for rating in ratings) == {
        ("quality", 4.0): 4,
        ("fluency", 2.0): 4,
    }
    assert study.next_question("ann") is None


@pytest.mark.parametrize(
    "answer", [{"quality": 6}, {"quality": 0}, {}, {"quality": 3, "more": 1}, 3, {"quality": True}]
)
def test_a_rating_off_the_scale_is_refused(tmp_path, answer):
    study = create(tmp_path / "study", StudySettings(kind="likert", criteria={"quality": "?"}), items(1, 1))
    with pytest.raises(UserError):
        study.answer("ann", study.next_question("ann").shown, answer)
    assert study.judgements() == []


def test_nobody_answers_for_another(tmp_path):
    study = made(tmp_path)
    question = study.next_question("ann")
    with pytest.raises(UserError, match="no question"):
        study.answer("bob", question.shown, 0)


def test_choices_become_rows_to_train_a_reward_model_on(tmp_path):
    study = made(tmp_path, k=2, kind="pairwise", number=3)
    judge(study, "ann", "b", 2)
    study.answer("ann", study.next_question("ann").shown, TIE)
    rows = preferences_of(study)
    assert [kind_of([row], "here") for row in rows] == ["choices", "choices"]
    assert [row["completions"][row["choice"]][0] for row in rows] == ["b", "b"]


def test_ratings_of_one_prompt_become_a_row(tmp_path):
    one = [
        {"item": f"{n} {system}", "prompt_key": str(n), "prompt": f"p{n}", "completions": [f"{system}{n}"],
         "systems": [system]}
        for n in range(2) for system in ("a", "b")
    ]  # fmt: skip
    study = create(tmp_path / "study", StudySettings(kind="likert", criteria={"quality": "?"}), one)
    while (question := study.next_question("ann")) is not None:
        study.answer("ann", question.shown, {"quality": 5 if question.completions[0][0] == "b" else 2})
    for row in preferences_of(study):
        assert dict(zip(row["completions"], row["ratings"], strict=True)) == {
            f"a{row['prompt'][1]}": 2,
            f"b{row['prompt'][1]}": 5,
        }
    assert kind_of(preferences_of(study), "here") == "ratings"


def test_a_question_that_somebody_left_is_asked_of_another_after_a_while(tmp_path):
    study = made(tmp_path, number=1)
    left = study.next_question("ann")
    assert study.next_question("bob") is None
    study.reserved = 0.0
    again = study.next_question("bob")
    assert sorted(again.completions) == sorted(left.completions)
    study.answer("bob", again.shown, 0)
    assert study.next_question("eve") is None
    # Who comes back may still answer.
    study.answer("ann", left.shown, 1)
    assert len(study.judgements()) == 2


def test_messages_are_shown_as_text_and_kept_as_messages(tmp_path):
    prompt = [{"role": "user", "content": "say"}]
    completions = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    item = {"prompt": prompt, "completions": completions, "systems": ["x", "y"]}
    study = create(tmp_path / "study", StudySettings(kind="pairwise"), [item])
    question = study.next_question("ann")
    assert question.prompt == "say"
    assert sorted(question.completions) == ["no", "yes"]
    study.answer("ann", question.shown, question.completions.index("no"))
    assert preferences_of(study) == [{"prompt": prompt, "completions": completions, "choice": 1}]


def test_completions_of_one_prompt_belong_together_without_being_told(tmp_path):
    one = [{"prompt": "p", "completions": [text], "systems": [text]} for text in ("a", "b")]
    study = create(tmp_path / "study", StudySettings(kind="likert", criteria={"quality": "?"}), one)
    while (question := study.next_question("ann")) is not None:
        study.answer("ann", question.shown, {"quality": 1 if question.completions[0] == "a" else 3})
    (row,) = preferences_of(study)
    assert dict(zip(row["completions"], row["ratings"], strict=True)) == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("kind", "k", "gold"),
    [
        ("likert", 1, 6),
        ("likert", 1, "good"),
        ("likert", 1, {"fluency": 3}),
        ("best_of_k", 3, 3),
        ("best_of_k", 3, "b"),
    ],
)
def test_gold_that_is_no_answer_is_refused_before_anybody_works(tmp_path, kind, k, gold):
    with pytest.raises(UserError, match="item 1: gold is"):
        create(tmp_path / "study", StudySettings(kind=kind, criteria={"quality": "?"}), items(1, k, gold=gold))
    assert not (tmp_path / "study").exists()


def test_a_number_is_gold_for_every_criterion(tmp_path):
    criteria = {"quality": "?", "fluency": "?"}
    study = create(tmp_path / "study", StudySettings(kind="likert", criteria=criteria), items(1, 1, gold=4))
    study.answer("ann", study.next_question("ann").shown, {"quality": 4, "fluency": 2})
    assert [(row["criterion"], row["gold"]) for row in study.judgements()] == [("quality", 4), ("fluency", 4)]


def _person(folder, name):
    judge(Study(folder), name)


def test_four_people_at_once_judge_every_item_as_often_as_wanted(tmp_path):
    made(tmp_path, number=30, annotators_per_item=2)
    context = multiprocessing.get_context("fork")
    people = [context.Process(target=_person, args=(tmp_path / "study", f"p{n}")) for n in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    rows = Study(tmp_path / "study").judgements()
    assert set(Counter(row["item"] for row in rows).values()) == {2}
    assert len({(row["item"], row["annotator"]) for row in rows}) == 60


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        ({"kind": "ranking"}, items(1), "kind is 'ranking'"),
        ({"kind": "pairwise"}, items(1), "item 1 has 3 completions of 3 systems; pairwise shows two completions"),
        ({"kind": "likert"}, items(1), "likert shows one completion"),
        ({}, items(1, 1), "best_of_k shows two completions or more"),
        ({}, [], "needs items to judge"),
        ({}, [*items(1), *items(1)], "two items have the same name"),
        ({"annotators_per_item": 0}, items(1), "annotators_per_item is 0"),
        ({"repeat_share": 0.6}, items(1), "repeat_share is 0.6"),
        ({"criteria": {}}, items(1), "criteria has 0 entries"),
    ],
)
def test_a_study_that_cannot_be_is_refused_and_leaves_nothing(tmp_path, settings, rows, message):
    with pytest.raises(UserError, match=message):
        create(tmp_path / "study", StudySettings(**settings), rows)
    assert not (tmp_path / "study").exists()


def test_a_study_is_not_made_over_another(tmp_path):
    made(tmp_path)
    with pytest.raises(UserError, match="holds a study already"):
        made(tmp_path)
    with pytest.raises(UserError, match="holds no study"):
        Study(tmp_path)
