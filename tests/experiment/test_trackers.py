"""Trackers: a run of a recipe is one run there, with all its stages and its results."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.small_runs import TINY, lines, tiny, wait_for_step
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.experiment.trackers import Trackers


ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def scalars(folder):
    """All numbers of a TensorBoard run by name, each a list of steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = EventAccumulator(str(folder))
    run.Reload()
    return {name: [(event.step, event.value) for event in run.Scalars(name)] for name in run.Tags()["scalars"]}


@pytest.mark.slow
def test_all_stages_of_a_run_and_its_results_are_one_run_of_tensorboard():
    folder = run_experiment(
        tiny(report_to="tensorboard", output_dir="out", supervised_num_train_epochs=3, eval_strategy="no")
    )
    (run,) = (Path(folder) / "runs").iterdir()
    found = scalars(run)
    log = lines(folder / "metrics.jsonl")
    losses = [(line["step"], line["loss"]) for line in log if line["stage"] == "supervised" and "loss" in line]
    assert [step for step, _ in losses] == [10]
    assert found["train/supervised/loss"] == [(10, pytest.approx(losses[0][1]))]
    rewards = [(line["step"], pytest.approx(line["reward"])) for line in log if "reward" in line]
    assert len(rewards) == 2
    assert found["train/reward"] == rewards
    for stage in ("supervised", "supervised+nlpo"):
        (result,) = (line for line in log if line["stage"] == stage and "test_reward" in line)
        assert found[f"test/{stage}/reward"] == [(0, pytest.approx(result["test_reward"]))]
    # As a trainer without a supervised stage before it logs, so that runs can be laid over one another.
    assert "train/loss" not in found


def test_a_failure_before_a_tracker_has_begun_is_raised_as_it_is(tmp_path):
    args = tiny(report_to="tensorboard", output_dir="out").training
    trackers = Trackers(args, tmp_path, "0a1b")
    with pytest.raises(ZeroDivisionError), trackers.closed():
        raise ZeroDivisionError
    assert args.run_name == f"{tmp_path.name}-0a1b"


def test_without_a_tracker_nothing_is_named_or_written(tmp_path):
    args = tiny(output_dir="out").training
    trackers = Trackers(args, tmp_path / "out", "0a1b")
    with trackers.closed():
        trackers.log_results({"nlpo": {"reward": 1.0}})
    assert not (tmp_path / "out").exists()
    assert not trackers.callbacks


@pytest.mark.slow
def test_weights_and_biases_has_one_run_for_all_stages_which_ends_with_it(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged, runs, ended = [], [], []
    init, finish, log = wandb.init, wandb.finish, wandb.Run.log
    monkeypatch.setattr(wandb, "init", lambda *args, **kwargs: runs.append(kwargs) or init(*args, **kwargs))
    monkeypatch.setattr(wandb, "finish", lambda exit_code: ended.append(exit_code) or finish(exit_code))
    # A run puts its own `log` in the place of the module's.
    monkeypatch.setattr(wandb.Run, "log", lambda run, data, *args: logged.append(data) or log(run, data, *args))
    run_experiment(tiny(report_to="wandb", output_dir="out", log_completions=True, supervised_num_train_epochs=3))
    assert len(runs) == 1
    assert ended == [0]
    names = {name for data in logged for name in data}
    assert {"train/supervised/loss", "train/reward", "test/supervised+nlpo/reward", "completions"} <= names
    tables = [data["completions"] for data in logged if "completions" in data]
    assert [table.columns[:3] for table in tables] == [["step", "prompt", "completion"]] * 2
    assert wandb.run is None


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_run_of_every_tracker(tmp_path):
    """In processes of their own, the first of which is stopped between two updates."""
    trackers = [name for name in ("tensorboard", "wandb", "trackio") if importlib.util.find_spec(name) is not None]
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }  # fmt: skip
    keys = {"report_to": trackers, "output_dir": "out", "algorithm": "nlpo", "max_steps": 60, "eval_strategy": "no"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**TINY, **keys}))
    command = [sys.executable, "-m", "trl_nlpo", "run", "own.yaml"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for_step(process, tmp_path / "out", 2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 143, said
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    stopped = int(checkpoint.name.partition("-")[2])
    further = [*command, "--resume", "--max_steps", str(stopped + 2), "--force"]
    subprocess.run(further, cwd=tmp_path, env=environment, check=True)
    steps = list(range(1, stopped + 3))
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert [step for step, _ in scalars(folder)["train/reward"]] == steps
    if "wandb" in trackers:
        runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
        assert len(runs) == 2
        assert {run.name.rpartition("-")[2] for run in runs} == {folder.name}
    if "trackio" in trackers:
        (found,) = (tmp_path / "trackio").glob("*.db")
        with contextlib.closing(sqlite3.connect(found)) as database:
            rows = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
        assert {name for name, _ in rows} == {f"out-{folder.name}"}
        logged = [json.loads(metrics) for _, metrics in rows]
        assert [line["train/global_step"] for line in logged if "train/reward" in line] == steps
