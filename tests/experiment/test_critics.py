"""Critics and algorithms through the command line: a process each, and a critic that another run left."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from support.small_runs import TINY


def run(folder, *words):
    """`trl-nlpo run` of the miniature in a fresh process, in this folder."""
    (folder / "mini.yaml").write_text(yaml.safe_dump({**TINY, "algorithm": "ppo", "save_strategy": "no"}))
    return subprocess.run(
        [sys.executable, "-m", "trl_nlpo", "run", "mini.yaml", *map(str, words)],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def log_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "objective/kl" in row]


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", [[], ["--algorithm", "supervised+ppo", "--use_peft", "true", "--lora_target_modules", "all-linear"]]
)
def test_a_run_starts_from_the_critic_that_another_left(tmp_path, keys):
    # A rate at which nothing moves: what the second run saves is what it was given.
    still = ["--learning_rate", "1e-20", "--value_model", "first"]
    assert (
        run(tmp_path, "--output_dir", "first", "--normalize_returns", "true", "--max_steps", "2", *keys).returncode
        == 0
    )
    second = run(tmp_path, "--output_dir", "second", "--max_steps", "1", *keys, *still)
    assert second.returncode == 0, second.stderr
    for name in ("value_model.safetensors", *(["adapter_model.safetensors"] if keys else [])):
        given, saved = (load_file(tmp_path / run_ / "value_model" / name) for run_ in ("first", "second"))
        assert all(torch.equal(given[key], saved[key]) for key in given)
    without = run(tmp_path, "--output_dir", "third", "--max_steps", "1", *keys, *still[:2])
    assert without.returncode == 0
    values = [log_of(tmp_path / name)[0]["value/mean"] for name in ("second", "third")]
    assert values[0] != values[1]


@pytest.mark.slow
def test_a_critic_that_is_not_there_is_one_line_before_anything_is_trained(tmp_path):
    result = run(tmp_path, "--value_model", "./nowhere", "--output_dir", "a")
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("trl-nlpo: command line: value_model './nowhere' holds no value function")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "says"),
    [
        ("a2c", lambda row: row["policy/clipfrac_avg"] == 0.0 and "policy/backtracks" not in row),
        ("trpo", lambda row: row["policy/backtracks"] >= 0.0 and row["policy/approxkl_avg"] <= 0.01),
    ],
)
def test_the_other_algorithms_of_the_seeds_run_by_their_names(tmp_path, algorithm, says):
    result = run(tmp_path, "--algorithm", algorithm, "--output_dir", "a", "--num_ppo_epochs", "2")
    assert result.returncode == 0, result.stderr
    assert algorithm in json.loads((tmp_path / "a" / "results.json").read_text())["stages"]
    assert all(says(row) for row in log_of(tmp_path / "a"))
