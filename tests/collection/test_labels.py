"""The file of questions and answers: it only grows, and loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from trl_nlpo.collection.labels import Labels
from trl_nlpo.errors import UserError


def row(prompt="p", completions=("a", "b", "c"), **columns):
    return {"prompt": prompt, "completions": list(completions), "columns": columns}


@pytest.fixture
def labels(tmp_path):
    made = Labels(tmp_path / "labels.sqlite")
    made.add_items(0, 0, [row("first", references=["r"]), row("second")])
    return made


def test_what_was_asked_and_answered_is_read_by_another_process_of_the_same_file(labels):
    item, _ = labels.items(0)
    labels.add(item, "ann", 2)
    again = Labels(labels.path)
    ((found, annotator, choice),) = again.choices()
    assert (found.prompt, found.completions, found.columns) == ("first", ("a", "b", "c"), {"references": ["r"]})
    assert (annotator, choice) == ("ann", 2)
    assert [item.prompt for item in again.unanswered(0)] == ["second"]


def test_a_second_answer_of_the_same_person_changes_nothing(labels):
    item, _ = labels.items(0)
    labels.add(item, "ann", 2)
    labels.add(item, "ann", 1)
    labels.add(item, "bob", 1)
    assert [(annotator, choice) for _, annotator, choice in labels.choices()] == [("ann", 2), ("bob", 1)]


@pytest.mark.parametrize("choice", [3, -1, "1", None, True, 1.0])
def test_a_choice_that_is_none_of_the_completions_is_refused(labels, choice):
    with pytest.raises(UserError, match=r"but must be a whole number from 0 to 2"):
        labels.add(labels.items(0)[0], "ann", choice)
    assert labels.choices() == []


@pytest.mark.parametrize(
    "statement", ["DELETE FROM judgements", "UPDATE judgements SET choice = 0", "DELETE FROM items"]
)
def test_the_file_refuses_to_change_or_delete_a_row(labels, statement):
    labels.add(labels.items(0)[0], "ann", 2)
    connection = sqlite3.connect(labels.path)
    with pytest.raises(sqlite3.IntegrityError, match="are never changed"):
        connection.execute(statement)
    connection.close()


def test_a_round_is_asked_whole_or_not_at_all(labels):
    with pytest.raises(UserError, match="cannot be used"):
        labels.add_items(0, 0, [row("third")])
    assert len(labels.items()) == 2


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "labels.sqlite").write_text("not a database, but long enough to be taken for one " * 100)
    with pytest.raises(UserError, match=r"labels\.sqlite cannot be used"):
        Labels(tmp_path / "labels.sqlite")


def _answer(path, annotator):
    mine = Labels(path)
    for item in mine.items(0):
        mine.add(item, annotator, 0)


def test_two_processes_answer_at_once_and_nothing_is_lost(tmp_path):
    labels = Labels(tmp_path / "labels.sqlite")
    labels.add_items(0, 0, [row(str(number)) for number in range(20)])
    context = multiprocessing.get_context("fork")
    people = [context.Process(target=_answer, args=(labels.path, name)) for name in ("ann", "bob")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert len(labels.choices()) == 40


@pytest.mark.slow
def test_an_answer_that_was_confirmed_survives_a_kill(tmp_path):
    code = (
        "import sys; from trl_nlpo.collection.labels import Labels; labels = Labels(sys.argv[1])\n"
        "labels.add_items(0, 0, [{'prompt': str(n), 'completions': ['a', 'b'], 'columns': {}} for n in range(500)])\n"
        "for item in labels.items():\n    labels.add(item, 'ann', 1)\n    print(item.id, flush=True)\n"
    )
    path = tmp_path / "labels.sqlite"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    confirmed = [int(process.stdout.readline()) for _ in range(30)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = {item.id for item, _, _ in Labels(path).choices()}
    assert set(confirmed) <= kept
