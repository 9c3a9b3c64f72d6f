"""Learning curves: a point per log line of the stage that counts."""

from __future__ import annotations

import csv
import sys

import pytest

from support.grids import FakeRun, made_up_grid
from trl_nlpo.grid.curves import write_curves
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.storage.results import RunResults


def points_of(folder):
    with open(folder / "learning_curves.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two tasks, four algorithms and two seeds, each with two log lines."""
    monkeypatch.chdir(tmp_path)
    subject = made_up_grid(tmp_path, recipes=("commongen", "imdb"))
    run_grid(subject, FakeRun(), lambda line: None)
    return {cell: RunResults.read(cell.folder) for cell in subject.cells()}


@pytest.mark.slow
def test_every_log_line_of_the_stage_is_a_point(tmp_path, runs):
    write_curves(runs, tmp_path)
    curves = points_of(tmp_path)
    assert len(curves) == 2 * 8 * 2
    assert (curves[1]["task"], curves[1]["update"], curves[1]["reward"]) == ("commongen", "2", "0.2")


def test_other_stages_final_evaluations_and_lines_without_a_curve_are_no_points(tmp_path, runs):
    cell = next(iter(runs))
    line = {"stage": cell.stage, "step": 3, "objective/kl": 0.5, "loss": 9.0}
    others = [{**line, "step": 0}, {**line, "stage": "another"}, {"stage": cell.stage, "step": 4, "loss": 1.0}]
    run = RunResults(cell.folder, {}, {}, (), (*others, line))
    write_curves({cell: run}, tmp_path)
    (point,) = points_of(tmp_path)
    assert (point["update"], point["objective/kl"], point["reward"]) == ("3", "0.5", "")
    assert "loss" not in point


@pytest.mark.slow
def test_without_matplotlib_there_is_the_table_alone(tmp_path, runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_curves(runs, tmp_path)
    assert (tmp_path / "learning_curves.csv").is_file()
    assert not (tmp_path / "learning_curves.png").exists()
