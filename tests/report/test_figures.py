"""Figures: what is drawn of a log, group by group."""

from __future__ import annotations

import json

import numpy as np
import pytest

from support.made_up_runs import made_up_run
from trl_nlpo.report.figures import (
    curves_of,
    other_curves_of,
    planes_of,
    smoothed,
    supervised_curves_of,
    window_of,
)
from trl_nlpo.report.runs import read_reported
from trl_nlpo.storage.run_folder import RunFolder


pytest.importorskip("plotly")


def groups(*folders):
    reported = read_reported(folders)
    return reported.groups(reported.tasks[0])


def traces(figures, name):
    (figure,) = (figure for figure in figures if figure.name == name)
    return json.loads(figure.json)["data"]


def numbers(column):
    """A column as plotly packs it."""
    import base64

    return np.frombuffer(
        base64.b64decode(column["bdata"]), dtype={"f4": "<f4", "i4": "<i4", "i1": "i1", "i2": "<i2"}[column["dtype"]]
    )


def test_a_run_has_its_curve_raw_and_smoothed_and_its_evaluation(tmp_path):
    found = traces(curves_of(groups(made_up_run(tmp_path / "a"))), "reward")
    assert [trace["name"] for trace in found] == ["training", "training", "evaluation"]
    raw, smooth, evaluation = found
    assert numbers(raw["y"]) == pytest.approx([n / 40 for n in range(1, 41)])
    # Two points are a twentieth of forty.
    assert numbers(smooth["y"])[[0, 1, 39]] == pytest.approx([1 / 40, 1.5 / 40, 39.5 / 40])
    assert numbers(evaluation["x"]).tolist() == [10, 20, 30, 40]


def test_several_seeds_are_a_mean_and_a_band(tmp_path):
    folders = [made_up_run(tmp_path / str(seed), seed) for seed in (0, 2)]
    low, high, raw, mean, evaluation = traces(curves_of(groups(*folders)), "reward")
    assert numbers(raw["y"])[-1] == pytest.approx(1.1)
    deviation = 0.2 / 2**0.5
    assert numbers(high["y"]) - numbers(mean["y"]) == pytest.approx([deviation] * 40, rel=1e-3)
    assert numbers(mean["y"]) - numbers(low["y"]) == pytest.approx([deviation] * 40, rel=1e-3)
    assert numbers(evaluation["error_y"]["array"]) == pytest.approx([deviation] * 4)


def test_syncs_are_marked_where_their_number_rises(tmp_path):
    found = traces(curves_of(groups(made_up_run(tmp_path / "a"))), "nlpo/mask_mass")
    (marks,) = (trace for trace in found if trace["name"] == "sync")
    assert numbers(marks["x"]).tolist() == [10, 20, 30, 40]


def test_the_reward_is_drawn_against_what_it_cost(tmp_path):
    figures = planes_of(groups(made_up_run(tmp_path / "a")))
    assert [figure.title for figure in figures] == [
        "Reward against KL",
        "Reward against perplexity",
        "Reward against perplexity, in evaluation",
    ]
    points = traces(figures, "reward by objective/kl")[0]
    assert numbers(points["x"]) == pytest.approx(2 * numbers(points["y"]))


def test_every_other_number_has_a_figure_and_none_has_two(tmp_path):
    folder = made_up_run(tmp_path / "a")
    found = groups(folder)
    assert [figure.name for figure in other_curves_of(found)] == ["value/mean"]
    names = [figure.name for figure in (*curves_of(found), *other_curves_of(found))]
    assert len(names) == len(set(names))


def test_several_data_sets_of_evaluation_are_told_apart_from_numbers_that_are_called_alike(tmp_path):
    run = RunFolder(tmp_path)
    run.log("nlpo", 1, {"reward": 1.0, "eval_near_reward": 0.5, "eval_near_completions/mean_length": 3.0})
    run.log("nlpo", 2, {"reward": 1.0, "eval_my_reward": 0.5})
    found = groups(tmp_path)
    assert [trace["name"] for trace in traces(curves_of(found), "reward")] == ["training", "evaluation on near"]
    assert "eval_my_reward" in [figure.name for figure in other_curves_of(found)]


def test_the_supervised_stage_has_figures_of_its_own(tmp_path):
    run = RunFolder(tmp_path)
    run.log("supervised", 5, {"loss": 2.0})
    run.log("nlpo", 1, {"reward": 1.0})
    found = groups(tmp_path)
    assert [figure.name for figure in supervised_curves_of(found)] == ["loss"]
    assert [figure.name for figure in curves_of(found)] == ["reward"]


def test_names_are_no_tags_for_plotly_and_missing_numbers_leave_gaps(tmp_path):
    run = RunFolder(tmp_path)
    evil = '<a href="javascript:alert(1)">x</a>'
    run.log("nlpo", 1, {"reward": 1.0, f"rewards/{evil}/mean": 1.0, "rewards/b/mean": float("nan")})
    run.log(
        "nlpo", 2, {"reward": float("inf"), f"eval_{evil}_reward": 1.0, f"eval_{evil}_completions/mean_length": 1.0}
    )
    figures = curves_of(groups(tmp_path))
    found = traces(figures, "reward")
    assert numbers(found[0]["x"]).tolist() == [1]
    assert not any("<a" in trace["name"] for trace in found)


def test_long_lines_are_thinned_and_keep_their_ends(tmp_path):
    found = traces(curves_of(groups(made_up_run(tmp_path / "a", updates=1500))), "reward")
    steps = numbers(found[0]["x"])
    assert (len(steps), steps[0], steps[-1]) == (500, 1, 1500)


def test_smoothing_is_the_mean_of_the_last_points():
    assert smoothed(np.array([1.0, 2.0, 6.0, 0.0]), 2).tolist() == [1.0, 1.5, 4.0, 3.0]
    assert [window_of(number) for number in (1, 40, 100, 5000)] == [1, 2, 5, 50]
