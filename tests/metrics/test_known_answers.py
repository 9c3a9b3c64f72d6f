"""Known answers, worked out by hand or by another library: cases as data, each with its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trl_nlpo.metrics import get_metric


CASES = json.loads((Path(__file__).parent / "known_answers.json").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:metric 'ter'. a text or reference has more than")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['metric']}: {case['source'][:60]}")
def test_a_metric_gives_the_known_answer(case):
    metric = get_metric(case["metric"], **case["options"])
    tolerance = {"rel": 0, "abs": case["tolerance"]}
    if "scores" in case:
        scores = metric.score(case["predictions"], **case["columns"])
        assert scores == pytest.approx(case["scores"], **tolerance)
        if "rewards" in case:
            assert [metric.as_reward(score) for score in scores] == pytest.approx(case["rewards"], **tolerance)
    if "compute" in case:
        assert metric.compute(case["predictions"], **case["columns"]) == pytest.approx(case["compute"], **tolerance)


def test_every_case_says_where_its_numbers_are_from_and_has_some():
    assert all(case["source"].startswith("by hand: ") or "." in case["source"].split(":")[0] for case in CASES)
    assert all("scores" in case or "compute" in case for case in CASES)
