"""How far a grid is, and its table at any time, from its folder alone."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from support.commands import run_cli
from support.grids import VARIANTS, FakeRun, made_up_grid
from support.terminal import on_terminal
from trl_nlpo.errors import UserError
from trl_nlpo.grid.asked import asked_cells, whole_grid
from trl_nlpo.grid.cells import Grid, parse_variant
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.launchers.launching import log_of, record_of
from trl_nlpo.grid.status import CellStatus, show_status, statuses
from trl_nlpo.storage.run_lock import Owner


ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def half_done(tmp_path):
    """A grid with a cell in each state: its folder."""
    names = ["ppo", "nlpo", "supervised+ppo", "a2c", "trpo", "zero_shot"]
    subject = Grid(("commongen",), tuple(map(parse_variant, names)), 1, tmp_path / "grid")
    run_grid(subject, FakeRun(fails=names[1:]), lambda line: None)
    cells = {cell.variant.label: cell for cell in subject.cells()}
    for name in names[2:]:
        shutil.rmtree(cells[name].folder)
    running = cells["supervised+ppo"].folder
    running.mkdir()
    (running / "_lock.json").write_text(json.dumps({"host": "node-7", "pid": 1}))
    (running / "recipe.yaml").write_text(yaml.safe_dump({"max_steps": 50}))
    lines = [{"stage": "supervised+ppo", "step": step, "reward": 0.5} for step in (1, 12)]
    (running / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"sta')
    log = log_of(subject.folder, cells["supervised+ppo"])
    log.parent.mkdir(parents=True)
    log.write_text("first\n12/50: reward 0.5\x1b[2J\n\n")
    record = record_of(subject.folder, cells["a2c"])
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"launcher": "slurm", "id": "12_3"}))
    cells["trpo"].folder.mkdir()
    (cells["trpo"].folder / "cell.json").write_text('{"recipe": "x"}')
    return subject.folder


@pytest.mark.parametrize(("changes", "state"), [({}, "waiting"), ({"host": "node-7"}, "submitted")])
def test_a_job_of_this_machine_that_has_ended_is_not_shown_as_submitted_for_ever(half_done, changes, state):
    cell = next(cell for cell in asked_cells(half_done) if cell.variant.label == "a2c")
    process = {**vars(Owner.here()), "pid": 2**22 + 1, **changes}
    record_of(half_done, cell).write_text(json.dumps({**process, "gpus": [], "launcher": "local", "id": "1"}))
    found = {status.cell.variant.label: status.state for status in statuses(half_done)}
    assert found["a2c"] == state


def test_cells_that_were_copied_in_from_another_machine_are_in_the_table_too(tmp_path):
    for folder, seeds in (("here", (0, 1)), ("there", (2, 3))):
        run_grid(Grid(("commongen",), (parse_variant("ppo"),), seeds, tmp_path / folder), FakeRun(), lambda line: None)
    for seed in (2, 3):
        name = Path("commongen", "ppo", f"seed-{seed}")
        shutil.copytree(tmp_path / "there" / name, tmp_path / "here" / name)
    assert whole_grid(tmp_path / "here").seeds == (0, 1, 2, 3)
    assert [cell.status for cell in whole_grid(tmp_path / "here").cells()] == ["done"] * 4
    # Cells that were asked for are not there twice.
    assert len(asked_cells(tmp_path / "here")) == 4


def test_every_cell_has_its_state_and_what_is_known_of_it(half_done):
    found = {status.cell.variant.label: status for status in statuses(half_done)}
    assert {label: status.state for label, status in found.items()} == {
        "ppo": "done", "nlpo": "failed", "supervised": "done", "supervised+ppo": "running", "a2c": "submitted",
        "trpo": "stopped", "zero_shot": "waiting",
    }  # fmt: skip
    assert found["ppo"].line == "reward 0.500"
    assert found["nlpo"].line == "out of luck"
    running = found["supervised+ppo"]
    assert (running.progress, running.host) == ("supervised+ppo 12/50", "node-7")
    assert running.line == r"12/50: reward 0.5\x1b[2J"
    assert found["a2c"].line == "slurm job 12_3"


@pytest.mark.slow
def test_without_a_terminal_there_is_a_line_for_each_cell(half_done):
    command = [sys.executable, "-m", "trl_nlpo", "grue", "status", str(half_done)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    running = (
        r"running    commongen, supervised+ppo, seed 0  supervised+ppo 12/50  on node-7  12/50: reward 0.5\x1b[2J"
    )
    assert running in lines
    assert lines[-1] == "7 cells: 2 done, 1 running, 1 failed, 1 submitted, 1 stopped, 1 waiting"
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_on_a_terminal_there_is_a_table_until_nothing_runs(half_done):
    for path in (
        half_done / "commongen" / "supervised+ppo" / "seed-0" / "_lock.json",
        *half_done.rglob("_jobs/*/a2c/*"),
    ):
        path.unlink()
    command = [sys.executable, "-m", "trl_nlpo", "grue", "status", str(half_done)]
    shown = on_terminal(command, ENVIRONMENT, cwd=half_done, columns=140)
    assert shown.code == 0, shown.raw
    text = "\n".join(shown.lines)
    assert "commongen  supervised+ppo  0     stopped  supervised+ppo 12/50" in text
    assert "7 cells: 2 done, 1 failed, 2 stopped, 2 waiting" in text


def test_a_folder_without_a_grid_is_one_line(tmp_path, monkeypatch, capsys):
    for command in ("status", "leaderboard"):
        code, _, error = run_cli(monkeypatch, capsys, "grue", command, tmp_path)
        assert code == 2
        assert error.count("\n") == 1
        assert "has no grid" in error


def test_cells_of_all_commands_of_a_folder_are_there_once(tmp_path):
    run_grid(made_up_grid(tmp_path, seeds=1), FakeRun(), lambda line: None)
    run_grid(made_up_grid(tmp_path, seeds=2), FakeRun(), lambda line: None)
    other = Grid(("commongen",), (parse_variant("nlpo"),), (7,), tmp_path / "grid", ("--preset", "tiny"))
    run_grid(other, FakeRun(), lambda line: None)
    assert len(asked_cells(tmp_path / "grid")) == 9
    whole = whole_grid(tmp_path / "grid")
    assert whole.seeds == (0, 1, 7)
    assert whole.variants == (*VARIANTS, parse_variant("nlpo"))


def test_a_grid_of_an_earlier_version_is_known_by_the_cells_that_began(tmp_path):
    run_grid(made_up_grid(tmp_path, seeds=1), FakeRun(fails=["supervised+ppo"]), lambda line: None)
    shutil.rmtree(tmp_path / "grid" / "_asked")
    found = {status.cell.variant.label: status.state for status in statuses(tmp_path / "grid")}
    assert found["supervised+ppo"] == "failed"
    assert found["supervised+nlpo[mask_sync_steps=null]"] == "done"
    assert len(found) == 4


def test_a_damaged_list_of_cells_is_one_line(tmp_path):
    run_grid(made_up_grid(tmp_path, seeds=1), FakeRun(), lambda line: None)
    (path,) = (tmp_path / "grid" / "_asked").iterdir()
    path.write_text('{"recipes": []}')
    with pytest.raises(UserError, match="written down without its 'variants'"):
        statuses(tmp_path / "grid")


def test_the_leaderboard_is_written_at_any_time_from_what_is_done(half_done, monkeypatch, capsys):
    code, out, _ = run_cli(monkeypatch, capsys, "grue", "leaderboard", half_done)
    assert code == 0
    assert "| ppo | " in out
    assert "| nlpo | " not in out
    assert out.splitlines()[-1] == "2 cells are done."
    board = json.loads((half_done / "leaderboard.json").read_text())
    assert board["runs"]["commongen"] == {"ppo": 1, "supervised": 1}


def test_before_a_cell_is_done_there_is_no_table(half_done, monkeypatch, capsys):
    for name in ("ppo", "supervised"):
        shutil.rmtree(half_done / "commongen" / name)
    code, _, error = run_cli(monkeypatch, capsys, "grue", "leaderboard", half_done)
    assert code == 2
    assert "no cell of the grid" in error


def test_the_table_waits_between_two_cells_and_ends_when_none_has_begun_for_long(monkeypatch, tmp_path):
    # Seconds pass only where the table waits.
    now = [0.0]
    clock = SimpleNamespace(sleep=lambda seconds: now.__setitem__(0, now[0] + seconds), monotonic=lambda: now[0])
    monkeypatch.setattr("trl_nlpo.grid.status.time", clock)
    monkeypatch.setattr("trl_nlpo.grid.status.Console", lambda: Console(force_terminal=True, file=io.StringIO()))
    cell = made_up_grid(tmp_path, seeds=1).cells()[0]
    seen = []

    def looks(folder):
        # Busy, nothing for 20 seconds, busy once more, then nothing for ever.
        seen.append(now[0])
        return [CellStatus(cell, "running" if now[0] < 4 or now[0] == 24 else "waiting")]

    monkeypatch.setattr("trl_nlpo.grid.status.statuses", looks)
    show_status(tmp_path, print)
    assert seen[-1] == 24 + 30
