"""What a report is about: runs by task and group, or one grid; and what is said of anything else."""

from __future__ import annotations

import json
import shutil

import pytest

from support.grids import FakeRun, made_up_grid
from support.made_up_runs import made_up_run
from trl_nlpo.errors import UserError
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.leaderboard import write_leaderboard
from trl_nlpo.report.runs import read_reported


def grid(tmp_path, fails=()):
    subject = made_up_grid(tmp_path)
    run_grid(subject, FakeRun(fails), lambda line: None)
    return subject


def message(*folders):
    with pytest.raises(UserError) as caught:
        read_reported(folders)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_that_differ_by_their_seed_only_are_one_group(tmp_path):
    folders = [made_up_run(tmp_path / f"n{seed}", seed) for seed in (0, 1)]
    reported = read_reported([*folders, made_up_run(tmp_path / "g", gamma=0.5), tmp_path / "g"])
    assert reported.tasks == ("quickstart",)
    groups = reported.groups("quickstart")
    assert {group: [run.name for run in runs] for group, runs in groups.items()} == {
        "nlpo": ["n0", "n1"],
        "nlpo, gamma=0.5": ["g"],
    }
    assert reported.runs[0].versions == "python 3.11.7, trl 1.16.0"


def test_what_an_algorithm_decides_is_not_in_its_name(tmp_path):
    folders = [made_up_run(tmp_path / "a"), made_up_run(tmp_path / "b", algorithm="ppo", mask_strategy="none")]
    assert [run.group for run in read_reported(folders).runs] == ["nlpo", "ppo"]
    folders.append(made_up_run(tmp_path / "c", mask_strategy="none"))
    assert read_reported(folders).runs[2].group == "nlpo, mask_strategy=none"


def test_long_differences_are_called_by_their_folder_and_stay_apart(tmp_path):
    folders = [made_up_run(tmp_path / name, reward_url=f"{'x' * 80}{name}") for name in ("a", "b")]
    assert [run.group for run in read_reported(folders).runs] == ["a", "b"]


def test_runs_of_several_tasks_are_kept_apart(tmp_path):
    folders = [made_up_run(tmp_path / "a"), made_up_run(tmp_path / "b", task="imdb")]
    assert read_reported(folders).tasks == ("quickstart", "imdb")


@pytest.mark.slow
def test_a_grid_is_its_finished_cells_and_its_leaderboard(tmp_path):
    subject = grid(tmp_path, fails=("supervised+ppo",))
    write_leaderboard(subject, "command")
    reported = read_reported([subject.folder])
    assert reported.is_grid
    assert {group: len(runs) for group, runs in reported.groups("commongen").items()} == {
        "zero_shot": 2,
        "supervised+nlpo[mask_sync_steps=null]": 2,
        "supervised": 2,
    }
    assert reported.board["command"] == "command"


@pytest.mark.slow
def test_a_grid_that_is_still_running_has_no_leaderboard_yet(tmp_path):
    reported = read_reported([grid(tmp_path).folder])
    assert reported.board is None
    assert len(reported.runs) == 8


@pytest.mark.slow
def test_a_cell_is_a_run_too(tmp_path):
    reported = read_reported([grid(tmp_path).folder / "commongen" / "zero_shot" / "seed-0"])
    assert not reported.is_grid


def test_what_is_neither_a_run_nor_a_grid_is_said(tmp_path):
    assert "there is no folder" in message(tmp_path / "nowhere")
    assert f"{tmp_path} is neither a run (it has no results.json) nor a grid" in message(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    assert "is neither a run" in message(file)
    assert "nothing to report" in message()


def test_a_run_without_a_log_is_refused(tmp_path):
    folder = made_up_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text("")
    assert "metrics.jsonl is not there or empty" in message(folder)
    (folder / "metrics.jsonl").unlink()
    assert "metrics.jsonl is not there or empty" in message(folder)


@pytest.mark.slow
def test_a_grid_beside_a_run_or_another_grid_is_refused(tmp_path):
    subject, run = grid(tmp_path), made_up_run(tmp_path / "a")
    assert f"{subject.folder} is a grid: report it alone" in message(run, subject.folder)
    shutil.copytree(subject.folder, tmp_path / "other")
    assert "is a grid: report it alone" in message(subject.folder, tmp_path / "other")


def test_a_grid_without_a_finished_cell_and_a_damaged_leaderboard_are_said(tmp_path):
    folder = tmp_path / "grid"
    folder.mkdir()
    (folder / "grid.json").write_text("{}")
    assert "no cell of the grid" in message(folder)
    (folder / "leaderboard.json").write_text(json.dumps({"tasks": {}}))
    assert "leaderboard.json is damaged" in message(folder)
    (folder / "leaderboard.json").write_text(json.dumps({"tasks": {"a": {}}, "better": {}, "comparisons": {}}))
    assert "leaderboard.json is damaged" in message(folder)
    (folder / "leaderboard.json").write_text("{")
    assert "leaderboard.json is damaged" in message(folder)
