"""The arithmetic of benchmarks whose figures are compared, against values worked out by hand."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def arms():
    return benchmark("mask_arms")


def test_the_area_under_a_frontier_is_that_of_the_upper_concave_hull(arms):
    # From (0, 1) to (2, 3) by a line, then nothing better: (2 x 2 + 2 x 3) / 4.
    assert arms.area_under_frontier([(2.0, 3.0)], start=1.0, budget=4.0) == pytest.approx(2.5)
    # What lies below the line between others, or costs more and earns less, changes nothing.
    assert arms.area_under_frontier([(2.0, 3.0), (1.0, 1.5), (3.0, 2.0)], 1.0, 4.0) == pytest.approx(2.5)
    # What is worse than the start is not taken, and a line is cut at the budget: (1 + 2) / 2.
    assert arms.area_under_frontier([(1.0, 0.5)], 1.0, 4.0) == pytest.approx(1.0)
    assert arms.area_under_frontier([(4.0, 3.0)], 1.0, 2.0) == pytest.approx(1.5)


def test_reward_and_judge_learn_from_different_rows_that_have_equally_many_of_each_label(arms):
    lines = [json.dumps({"label": label, "row": row}) for row, label in enumerate("aaaabbcc")]
    halves = [arms.every_second(lines, part) for part in (0, 1)]
    assert sorted([*halves[0], *halves[1]]) == sorted(lines)
    labels = [[json.loads(line)["label"] for line in half] for half in halves]
    assert labels == [list("aabc")] * 2


def test_holms_correction_goes_step_by_step_and_keeps_the_order(arms):
    assert arms.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert arms.holm([0.9, 0.6]) == [1.0, 1.0]


def test_the_operations_of_an_update_are_those_of_its_passes():
    costs = benchmark("costs")
    model = costs.Model(weights=10.0, layers=1, hidden=2, vocabulary=5, key_value=2)
    update = costs.Update(completions=3, prompt=1, response=3, passes=2)
    # 2 x 10 x 12 tokens, and attention's 4 x 2 x 12 x 2; the output layer's 2 x 2 x 5 x 9.
    assert costs.forward(model, update) == (432.0, 180.0)
    assert costs.operations(model, update) == {
        "rollout": 612.0, "evaluation": 1224.0, "training": 2 * (3 * 432.0 + 4 * 180.0),
    }  # fmt: skip
    old = costs.Update(3, 1, 3, 2, old_mask=True, lora=True, checkpointing=True)
    assert costs.operations(model, old)["rollout"] == 1224.0
    # The value function's adapter has passes of its own, through the layers alone.
    assert costs.operations(model, old)["evaluation"] == 3 * 432.0 + 2 * 180.0
    assert costs.operations(model, old)["training"] == 2 * (2 * 3 * 432.0 + 3 * 180.0)
