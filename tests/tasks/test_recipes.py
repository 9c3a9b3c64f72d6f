"""Every task's recipe from file to table at `--preset tiny`."""

from __future__ import annotations

import json

import pytest

from support.small_runs import SMALL, stages
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.tasks import task_names


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["supervised+ppo", "supervised+nlpo"])
@pytest.mark.parametrize("name", task_names())
def test_every_recipe_runs_at_the_size_of_a_laptop(name, algorithm, capsys):
    folder = run_experiment(load_recipe(name, [*SMALL, "--algorithm", algorithm]))
    found = stages(folder)
    assert list(found) == ["zero-shot", "supervised", algorithm]
    for metrics in found.values():
        assert metrics["metrics/distinct1"] > 0
        assert metrics["metrics/rouge1"] >= 0 if name != "imdb" else True
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert "diversity" in rows[0][algorithm]["metrics"]
