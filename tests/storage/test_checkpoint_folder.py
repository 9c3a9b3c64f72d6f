"""A checkpoint is complete or absent; what was damaged since is noticed."""

from __future__ import annotations

import json
import os
import shutil
import zlib

import pytest
from transformers.trainer_utils import get_last_checkpoint

from trl_nlpo.errors import UserError
from trl_nlpo.storage import checkpoint_folder
from trl_nlpo.storage.checkpoint_folder import (
    UNFINISHED,
    checkpoints_by_age,
    damage,
    newest_complete_checkpoint,
    publish_checkpoint,
    remove_leftovers,
    remove_old_checkpoints,
)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A second passes between two checkpoints."""
    seconds = iter(range(1000))
    monkeypatch.setattr(checkpoint_folder.time, "time", lambda: float(next(seconds)))


def stage(folder, step, text="weights"):
    source = folder / UNFINISHED / f"checkpoint-{step}"
    (source / "value_model").mkdir(parents=True)
    (source / "model.safetensors").write_text(text)
    (source / "value_model" / "head").write_text("head")


def written(folder, step, text="weights", run=""):
    stage(folder, step, text)
    return publish_checkpoint(folder, f"checkpoint-{step}", run)


FILES = {"model.safetensors": b"weights", "value_model/head": b"head"}


def names(folder):
    return sorted(os.listdir(folder))


def test_a_checkpoint_gets_its_name_when_it_is_whole_and_nothing_else_stays(tmp_path):
    stage(tmp_path, 3)
    assert get_last_checkpoint(tmp_path) is None
    checkpoint = publish_checkpoint(tmp_path, "checkpoint-3")
    assert names(tmp_path) == ["checkpoint-3"]
    assert json.loads((checkpoint / "manifest.json").read_text()) == {
        "written": 0.0, "run": "", "number": 1, "files": {"model.safetensors": 7, "value_model/head": 4},
        "crc32": {name: f"{zlib.crc32(text):08x}" for name, text in FILES.items()},
    }  # fmt: skip
    assert damage(checkpoint) is None


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda c: (c / "value_model" / "head").unlink(), "value_model/head is missing"),
        (lambda c: (c / "model.safetensors").write_text("wei"), "model.safetensors has 3 bytes instead of 7"),
        (
            lambda c: (c / "model.safetensors").write_text("weighTs"),
            "model.safetensors has changed since it was written",
        ),
        (lambda c: (c / "manifest.json").unlink(), "manifest.json is missing or unreadable"),
        (lambda c: (c / "manifest.json").write_text('{"fil'), "manifest.json is missing or unreadable"),
        (lambda c: (c / "manifest.json").write_text("[]"), "manifest.json is missing or unreadable"),
    ],
)
def test_damage_is_named_and_the_checkpoint_before_is_used(tmp_path, harm, says):
    before, newest = written(tmp_path, 3), written(tmp_path, 4)
    harm(newest)
    assert damage(newest) == says
    reports = []
    assert newest_complete_checkpoint(tmp_path, reports.append) == before
    assert len(reports) == 1
    assert "checkpoint-4" in reports[0]
    assert says in reports[0]


def test_files_that_were_added_are_no_damage(tmp_path):
    checkpoint = written(tmp_path, 3)
    (checkpoint / "notes.txt").write_text("mine")
    assert damage(checkpoint) is None


def test_where_there_is_none_there_is_none_and_where_all_are_damaged_that_is_said(tmp_path):
    assert newest_complete_checkpoint(tmp_path, print) is None
    shutil.rmtree(written(tmp_path, 3) / "value_model")
    with pytest.raises(
        UserError, match=r"No checkpoint in .* is complete \(checkpoint-3: value_model/head is missing"
    ):
        newest_complete_checkpoint(tmp_path, lambda line: None)


def test_the_newest_is_the_one_written_last_whatever_its_number(tmp_path):
    for step in (80, 90, 4, 10):
        written(tmp_path, step)
    assert [path.name for path in checkpoints_by_age(tmp_path)] == [f"checkpoint-{n}" for n in (80, 90, 4, 10)]
    assert newest_complete_checkpoint(tmp_path, print).name == "checkpoint-10"


def test_what_is_no_checkpoint_is_not_taken_for_one(tmp_path):
    (tmp_path / "checkpoint-old").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert checkpoints_by_age(tmp_path) == []


def test_a_checkpoint_of_the_same_number_is_replaced(tmp_path):
    written(tmp_path, 3, "old")
    written(tmp_path, 3, "new!")
    assert names(tmp_path) == ["checkpoint-3"]
    assert (tmp_path / "checkpoint-3" / "model.safetensors").read_text() == "new!"


@pytest.mark.parametrize("calls_before_the_crash", [0, 1, 2])
def test_a_crash_at_any_rename_leaves_a_whole_checkpoint(tmp_path, monkeypatch, calls_before_the_crash):
    written(tmp_path, 3, "old")
    stage(tmp_path, 3, "new!")
    real, calls = os.replace, []

    def replace(source, target):
        if len(calls) == calls_before_the_crash:
            raise SystemExit("killed")
        calls.append(source)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        if calls_before_the_crash < 2:
            with pytest.raises(SystemExit):
                publish_checkpoint(tmp_path, "checkpoint-3")
        else:
            publish_checkpoint(tmp_path, "checkpoint-3")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["checkpoint-3"]
    expected = "new!" if calls_before_the_crash == 2 else "old"
    assert (tmp_path / "checkpoint-3" / "model.safetensors").read_text() == expected
    assert damage(tmp_path / "checkpoint-3") is None


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    written(tmp_path, 3)
    stage(tmp_path, 4)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["checkpoint-3"]


def test_the_oldest_go_and_the_protected_stay(tmp_path):
    paths = [written(tmp_path, step) for step in (1, 2, 3, 4, 5)]
    remove_old_checkpoints(tmp_path, 2, {paths[0], paths[4]})
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-5"]


def test_a_damaged_checkpoint_goes_before_a_good_one(tmp_path):
    paths = [written(tmp_path, step) for step in (1, 2, 3)]
    (paths[1] / "model.safetensors").unlink()
    remove_old_checkpoints(tmp_path, 2, {paths[2]})
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]


def test_checkpoints_of_another_run_neither_count_nor_go(tmp_path):
    for step in (1, 2, 3):
        written(tmp_path, step, run="other")
    for step in (4, 5, 6):
        written(tmp_path, step, run="own")
    remove_old_checkpoints(tmp_path, 2, set(), "own")
    assert names(tmp_path) == [f"checkpoint-{step}" for step in (1, 2, 3, 5, 6)]


def test_a_checkpoint_of_another_run_that_is_in_the_way_is_kept_elsewhere(tmp_path):
    written(tmp_path, 3, "theirs", run="a")
    written(tmp_path, 3, "own", run="b")
    assert (tmp_path / "checkpoint-3" / "model.safetensors").read_text() == "own"
    aside = tmp_path / "_earlier" / "a" / "checkpoint-3"
    assert (aside / "model.safetensors").read_text() == "theirs"
    assert damage(aside) is None


def test_the_order_is_by_count_where_the_clock_went_backwards(tmp_path, monkeypatch):
    seconds = iter((100.0, 50.0))
    monkeypatch.setattr(checkpoint_folder.time, "time", lambda: next(seconds))
    written(tmp_path, 1)
    second = written(tmp_path, 2)
    assert newest_complete_checkpoint(tmp_path, print) == second


def test_a_checkpoint_that_cannot_be_removed_is_a_line(tmp_path, monkeypatch):
    paths = [written(tmp_path, step) for step in (1, 2, 3)]
    real = os.replace

    def refuse(source, target):
        if source == paths[0]:
            raise PermissionError(1, "Operation not permitted")
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    reports = []
    remove_old_checkpoints(tmp_path, 1, set(), "", reports.append)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]
    assert reports == [f"The old checkpoint {paths[0]} cannot be removed (Operation not permitted)."]


@pytest.mark.parametrize("limit", [None, 0])
def test_without_a_limit_all_stay(tmp_path, limit):
    for step in (1, 2):
        written(tmp_path, step)
    remove_old_checkpoints(tmp_path, limit, set())
    assert len(names(tmp_path)) == 2


def test_checkpoints_of_a_run_before_are_not_looked_at(tmp_path):
    written(tmp_path, 9, run="before")
    assert newest_complete_checkpoint(tmp_path, print, "own") is None
    own = written(tmp_path, 2, run="own")
    reports = []
    assert newest_complete_checkpoint(tmp_path, reports.append, "own") == own
    (own / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"No checkpoint in .* is complete \(checkpoint-2"):
        newest_complete_checkpoint(tmp_path, reports.append, "own")
    assert newest_complete_checkpoint(tmp_path, reports.append).name == "checkpoint-9"
