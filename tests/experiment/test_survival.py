"""Killed with -9 and resumed, with real processes: equal to the last bit. `benchmarks/survival.py` does more of it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file


spec = importlib.util.spec_from_file_location("survival", Path(__file__).parents[2] / "benchmarks" / "survival.py")
survival = importlib.util.module_from_spec(spec)
spec.loader.exec_module(survival)


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_equals_one_that_is_not(tmp_path):
    assert survival.survive(tmp_path, num_kills=3, seed=0) == (3, [])


def folder(path, weight=1.0, reward=0.1, seconds=1.0, text="p", better="higher", log_lines=1):
    (path / "value_model").mkdir(parents=True)
    save_file({"w": torch.tensor([weight])}, path / "model.safetensors")
    save_file({"w": torch.tensor([2.0])}, path / "value_model" / "value_model.safetensors")
    (path / "metrics.jsonl").write_text(json.dumps({"step": 1, "time": seconds, "reward": reward}) + "\n")
    (path / "samples.jsonl").write_text(json.dumps({"prompt": text}) + "\n")
    results = {"better": {"reward": better}, "metrics_lines": log_lines, "started": seconds}
    results["stages"] = {"nlpo": {"reward": 1.0, "seconds": seconds}}
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"seconds": 2.0}, []),
        ({"weight": 1.0000001}, ["model.safetensors differs"]),
        ({"reward": 0.10000000000000002}, ["metrics.jsonl differs, 1 and 1 lines, first at 0"]),
        ({"text": "q"}, ["samples.jsonl differs, 1 and 1 lines, first at 0"]),
        ({"better": "lower"}, ["results.json differs, 1 and 1 lines, first at 0"]),
        ({"log_lines": 2}, ["results.json differs, 1 and 1 lines, first at 0"]),
    ],
)
def test_the_comparison_sees_the_last_bit_and_no_times(tmp_path, changes, found):
    assert survival.differences(folder(tmp_path / "a"), folder(tmp_path / "b", **changes)) == found


def test_the_moments_are_spread_over_the_run_and_over_its_phases():
    phases = [(f"{kind}:{number}", 1.0) for number in range(10) for kind in ("rollout", "update", "checkpoint")]
    moments = survival.choose_moments(phases, 6, survival.random.Random(0))
    kinds = [phase.partition(":")[0] for phase, _ in moments]
    assert sorted(kinds) == ["checkpoint"] * 2 + ["rollout"] * 2 + ["update"] * 2
    places = [phases.index((phase, 1.0)) // 5 for phase, _ in moments]
    assert places == [0, 1, 2, 3, 4, 5]
    assert all(0 <= delay <= 1 for _, delay in moments)
