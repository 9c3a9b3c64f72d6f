"""Single files: replaced in one step, read with one-line errors, and what is said of a full disk."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest

from trl_nlpo.errors import DiskFullError, UserError
from trl_nlpo.storage import files
from trl_nlpo.storage.files import UNFINISHED, explain_full_disk, is_disk_full, read_json, replace_file


FULL = OSError(errno.ENOSPC, "No space left on device")


def free(monkeypatch, size):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=size))


def said_of_a_full_disk(*arguments):
    with pytest.raises(DiskFullError) as caught, explain_full_disk(*arguments):
        raise FULL
    assert "\n" not in str(caught.value)
    return str(caught.value)


def folder_of(path, size):
    (path / "value_model").mkdir(parents=True)
    (path / "value_model" / "head").write_bytes(b"x" * size)
    return path


def test_the_next_checkpoint_is_taken_to_be_as_large_as_the_last(tmp_path, monkeypatch):
    free(monkeypatch, 123_456)
    last = folder_of(tmp_path / "checkpoint-2", 5_000_000)
    said = said_of_a_full_disk(tmp_path, "a checkpoint", last)
    assert f"no room for a checkpoint of about 5 MB in {tmp_path}, where 123 kB are free" in said
    assert said.endswith(f"{last} is complete, resume from it with --resume.")


def test_what_was_written_so_far_is_the_least_that_is_needed_and_counts_as_free(tmp_path, monkeypatch):
    free(monkeypatch, 1000)
    folder_of(tmp_path / UNFINISHED / "checkpoint-4", 7000)
    last = folder_of(tmp_path / "checkpoint-2", 5000)
    assert "of more than 7 kB in" in said_of_a_full_disk(tmp_path, "a checkpoint", last)
    assert "where 8 kB are free" in said_of_a_full_disk(tmp_path, "a checkpoint")


def test_where_nothing_is_known_of_the_size_none_is_said(tmp_path, monkeypatch):
    free(monkeypatch, 2_500_000_000)
    said = said_of_a_full_disk(tmp_path, "a file", tmp_path / "gone")
    assert f"no room for a file in {tmp_path}, where 2.5 GB are free" in said


@pytest.mark.parametrize(
    ("error", "bytes_free", "expected"),
    [
        (FULL, 10**9, True),
        (OSError(errno.EDQUOT, "quota"), 10**9, True),
        (OSError(errno.EACCES, "denied"), 0, False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 10**9, True),
        (RuntimeError("inline_container.cc:672"), 0, True),
        # torch fails to write for other reasons too
        (RuntimeError("inline_container.cc:672"), 10**9, False),
    ],
)
def test_a_full_disk_is_told_from_other_failures(tmp_path, monkeypatch, error, bytes_free, expected):
    free(monkeypatch, bytes_free)
    assert is_disk_full(error, tmp_path) is expected
    wrapped = ValueError("could not save")
    wrapped.__cause__ = error
    assert is_disk_full(wrapped, tmp_path) is expected


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), explain_full_disk(tmp_path, "a file"):
        raise ZeroDivisionError


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    replace_file(path, "old")

    def full(handle):
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"no room for results\.json"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    replace_file(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.json cannot be read \(No such file or directory\): delete it\."),
        (b'{"a": ', r"a\.json is damaged \(Expecting value.*\): delete it\."),
        (b"\xff", r"a\.json is damaged \(.*invalid start byte\): delete it\."),
        (b"[1]", r"a\.json is damaged \(it holds list instead of an object\): delete it\."),
    ],
)
def test_json_that_cannot_be_read_is_one_line_with_what_to_do(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(tmp_path / "a.json", "delete it")
    assert "\n" not in str(caught.value)
