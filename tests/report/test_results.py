"""The results of a report: by group and stage, with intervals and comparisons; a leaderboard as it is."""

from __future__ import annotations

import pytest

from support.grids import FakeRun, made_up_grid
from support.made_up_runs import made_up_run
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.leaderboard import write_leaderboard
from trl_nlpo.report.results import results_of
from trl_nlpo.report.runs import read_reported


MEAN = sum(n % 7 for n in range(120)) / 120


def test_a_run_has_a_row_for_each_stage_and_is_compared_with_where_it_began(tmp_path):
    found = results_of(read_reported([made_up_run(tmp_path / "a")]), "quickstart")
    assert list(found.rows) == ["zero-shot", "nlpo"]
    reward = found.rows["nlpo"]["reward"]
    assert reward["mean"] == pytest.approx(MEAN + 1)
    assert reward["low"] < reward["mean"] < reward["high"]
    assert [(c["first"], c["second"], c["score"]) for c in found.comparisons] == [("nlpo", "zero-shot", "score")]
    assert found.comparisons[0]["difference"] == pytest.approx(1.0)
    assert found.comparisons[0]["p_adjusted"] < 0.05


def test_seeds_are_averaged_and_groups_compared(tmp_path):
    folders = [made_up_run(tmp_path / str(seed), seed) for seed in (0, 2)]
    folders.append(made_up_run(tmp_path / "ppo", algorithm="ppo"))
    found = results_of(read_reported(folders), "quickstart")
    assert found.rows["nlpo"]["reward"]["mean"] == pytest.approx(MEAN + 1.1)
    assert found.rows["nlpo"]["reward"]["std"] == pytest.approx(0.2 / 2**0.5)
    differences = {(c["first"], c["second"]): c["difference"] for c in found.comparisons}
    assert differences == {
        ("nlpo", "nlpo: zero-shot"): pytest.approx(1.1),
        ("ppo", "ppo: zero-shot"): pytest.approx(1.0),
        # Both had seed 0, and no other.
        ("ppo", "nlpo"): pytest.approx(0.0),
    }


def test_runs_on_other_prompts_are_not_compared(tmp_path):
    folders = [made_up_run(tmp_path / "nlpo"), made_up_run(tmp_path / "ppo", algorithm="ppo")]
    path = folders[1] / "samples.jsonl"
    path.write_text(path.read_text().replace('"prompt 3"', '"another prompt"'))
    found = results_of(read_reported(folders), "quickstart")
    assert ("ppo", "nlpo") not in {(c["first"], c["second"]) for c in found.comparisons}
    assert len(found.comparisons) == 2


def test_where_the_seed_decides_the_prompts_only_the_same_seeds_are_compared(tmp_path):
    def run(name, seed, algorithm="nlpo"):
        folder = made_up_run(tmp_path / name, seed, algorithm)
        path = folder / "samples.jsonl"
        path.write_text(path.read_text().replace('"prompt ', f'"of seed {seed}: '))
        return folder

    def compared():
        return results_of(read_reported(folders), "quickstart").comparisons

    def pairs():
        return {(c["first"], c["second"]) for c in compared()}

    folders = [run("n1", 1), run("p0", 0, "ppo")]
    assert pairs() == {("nlpo", "nlpo: zero-shot"), ("ppo", "ppo: zero-shot")}
    folders.append(run("n0", 0))
    (both,) = [c for c in compared() if (c["first"], c["second"]) == ("ppo", "nlpo")]
    # Of NLPO only seed 0 counts, whose scores are PPO's.
    assert (both["seeds"], both["difference"]) == (1, pytest.approx(0.0))


@pytest.mark.slow
def test_of_a_grid_the_leaderboard_counts(tmp_path):
    subject = made_up_grid(tmp_path)
    run_grid(subject, FakeRun(fails=("supervised+ppo",)), lambda line: None)
    unwritten = results_of(read_reported([subject.folder]), "commongen")
    assert set(unwritten.rows) == {"zero_shot", "supervised", "supervised+nlpo[mask_sync_steps=null]"}
    write_leaderboard(subject, "command")
    written = results_of(read_reported([subject.folder]), "commongen")
    for label, row in written.rows.items():
        assert row["reward"] == unwritten.rows[label]["reward"]
    assert written.better["metrics/ter"] == "lower"
