"""The files of a run after it died: nothing is missing, nothing is there twice, nothing is half."""

from __future__ import annotations

import errno
import json
import os
from types import SimpleNamespace

import pytest

from trl_nlpo.errors import DiskFullError, UserError
from trl_nlpo.experiment.callbacks import MetricsLog
from trl_nlpo.storage import run_folder
from trl_nlpo.storage.files import replace_file
from trl_nlpo.storage.run_folder import RunFolder


def logged(folder):
    return [
        (line["stage"], line["step"]) for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    ]


def sample(text):
    return [{"prompt": "p", "completion": text, "score": 1.0}]


@pytest.fixture
def died(tmp_path):
    """Zero-shot is done; the supervised stage, and four updates, are logged."""
    folder = RunFolder(tmp_path)
    folder.add_result("zero-shot", {"reward": 0.1}, sample("a"), 0.0)
    folder.log("supervised", 10, {"loss": 1.0})
    folder.add_result("supervised", {"reward": 0.2}, sample("b"), 1.0)
    for step in (1, 2, 3, 4):
        folder.log("nlpo", step, {"reward": 0.3})
    return tmp_path


BEFORE = [("zero-shot", 0), ("supervised", 10), ("supervised", 0)]


@pytest.mark.parametrize("half", ['{"stage": "nlpo", "st', '{"stage": "nlpo", "step": 5}', "\x00\x00", "\x00\x00\n"])
def test_a_line_without_its_end_is_dropped_and_the_next_begins_a_line_of_its_own(died, half):
    with (died / "metrics.jsonl").open("a") as file:
        file.write(half)
    folder = RunFolder(died, resume=True)
    folder.log("nlpo", 5, {"reward": 0.4})
    assert logged(died) == [*BEFORE, *(("nlpo", step) for step in (1, 2, 3, 4, 5))]


@pytest.mark.parametrize("step", [0, 1, 3, 4])
def test_a_stage_that_goes_on_forgets_what_comes_after_its_checkpoint(died, step):
    folder = RunFolder(died, resume=True)
    MetricsLog(folder, "nlpo").on_train_begin(None, SimpleNamespace(global_step=step), None)
    assert logged(died) == [*BEFORE, *(("nlpo", number) for number in range(1, step + 1))]


def test_the_supervised_stage_begins_again_with_a_log_of_its_own(tmp_path):
    folder = RunFolder(tmp_path)
    folder.add_result("zero-shot", {"reward": 0.1}, sample("a"), 0.0)
    folder.log("supervised", 10, {"loss": 1.0})
    folder = RunFolder(tmp_path, resume=True)
    folder.begin_stage("supervised", 0)
    assert logged(tmp_path) == BEFORE[:1]


def test_the_log_of_an_evaluation_whose_result_was_not_kept_is_dropped(died):
    # killed between the line and the result
    folder = RunFolder(died, resume=True)
    folder.log("nlpo", 0, {"test_reward": 0.9})
    assert logged(died)[-1] == ("nlpo", 0)
    RunFolder(died, resume=True)
    assert logged(died)[-1] == ("nlpo", 4)


def test_a_finished_stage_that_goes_on_to_more_steps_is_evaluated_anew(died):
    folder = RunFolder(died, resume=True)
    folder.add_result("nlpo", {"reward": 0.9}, sample("c"), 1.0)
    folder = RunFolder(died, resume=True)
    assert logged(died)[-1] == ("nlpo", 0)
    folder.begin_stage("nlpo", 4)
    assert logged(died)[-1] == ("nlpo", 4)


def test_a_new_stage_drops_nothing(died):
    folder = RunFolder(died, resume=True)
    folder.begin_stage("ppo", 0)
    assert len(logged(died)) == 7


def test_samples_are_kept_before_the_result_that_says_the_stage_is_done(died, monkeypatch):
    folder = RunFolder(died, resume=True)

    def kill(path, text):
        if path.name == "results.json":
            raise SystemExit
        replace_file(path, text)

    monkeypatch.setattr(run_folder, "replace_file", kill)
    with pytest.raises(SystemExit):
        folder.add_result("nlpo", {"reward": 0.9}, sample("c"), 1.0)
    monkeypatch.undo()
    assert "nlpo" in json.loads((died / "samples.jsonl").read_text())
    again = RunFolder(died, resume=True)
    assert "nlpo" not in again.results
    again.add_result("nlpo", {"reward": 0.9}, sample("d"), 1.0)
    assert json.loads((died / "samples.jsonl").read_text())["nlpo"]["completion"] == "d"
    assert list(RunFolder(died, resume=True).results) == ["zero-shot", "supervised", "nlpo"]


def test_separators_that_are_no_line_ends_stay_in_samples(tmp_path):
    RunFolder(tmp_path).add_result("zero-shot", {"reward": 0.1}, sample("one\u2028two\x85three"), 0.0)
    RunFolder(tmp_path, resume=True).add_result("supervised", {"reward": 0.1}, sample("x"), 0.0)
    assert json.loads((tmp_path / "samples.jsonl").read_text())["zero-shot"]["completion"] == "one\u2028two\x85three"


def test_processes_that_do_not_write_leave_the_log_alone(died):
    before = (died / "metrics.jsonl").read_bytes()
    folder = RunFolder(died, resume=True, writes=False)
    folder.begin_stage("nlpo", 1)
    folder.log("nlpo", 2, {"reward": 1.0})
    assert (died / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "text"), [("metrics.jsonl", "{}\n"), ("config.json", "{}"), ("results.json", "{"), ("checkpoint-3", None)]
)
def test_a_run_is_not_begun_where_something_would_be_lost(tmp_path, name, text):
    (tmp_path / name).mkdir() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"holds an earlier run .* --resume, replace it with --overwrite"):
        RunFolder(tmp_path)
    assert (tmp_path / name).exists()


def test_a_finished_run_stays_until_it_is_replaced_on_purpose(died):
    before = {name: (died / name).read_bytes() for name in os.listdir(died)}
    with pytest.raises(UserError, match=r"\(results of zero-shot, supervised, metrics\.jsonl\)"):
        RunFolder(died)
    assert {name: (died / name).read_bytes() for name in os.listdir(died)} == before
    (died / "notes.txt").write_text("mine")
    (died / "supervised").mkdir()
    new = RunFolder(died, overwrite=True)
    assert new.results == {}
    assert sorted(os.listdir(died)) == ["notes.txt", "results.json"]


def test_a_run_that_left_nothing_is_begun_again_without_asking(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    assert first.run != second.run
    assert RunFolder(tmp_path, resume=True).run == second.run


def test_a_full_disk_leaves_the_log_whole_and_is_one_line(died, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (died / "metrics.jsonl").read_bytes()
    folder = RunFolder(died, resume=True)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"no room for a line of metrics\.jsonl .* are free") as caught:
        folder.log("nlpo", 5, {"reward": 0.1})
    assert "\n" not in str(caught.value)
    assert (died / "metrics.jsonl").read_bytes() == before
