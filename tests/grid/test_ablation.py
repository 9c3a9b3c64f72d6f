"""The report of an ablation: means, paired differences, what is missing."""

from __future__ import annotations

import csv
import json
import random
import statistics

import pytest
from numpy import array

from trl_nlpo.errors import UserError
from trl_nlpo.grid.ablation import write_ablation
from trl_nlpo.grid.axes import axes_of, grid_of
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.significance import two_level_bootstraps


TINY = ("--preset", "tiny")


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def score(recipe, prompt):
    """What a made-up run scores: a gain of gamma, a smaller one of p, and luck of seed and prompt."""
    gain = {0.5: 0.0, 0.95: 0.2, 1.0: 0.2}[recipe.training.gamma] + 0.01 * recipe.training.mask_top_p
    return gain + 0.3 * recipe.training.seed + 0.05 * prompt + 0.01 * ((prompt * 7 + recipe.training.seed) % 3)


def made_up(recipe, force, overwrite):
    from pathlib import Path

    path = Path(recipe.training.output_dir)
    path.mkdir(parents=True, exist_ok=True)
    stage = recipe.arguments.algorithm
    scores = [score(recipe, prompt) for prompt in range(6)]
    metrics = {"reward": sum(scores) / 6, "perplexity": 9.0, "completions/mean_length": 12.0}
    (path / "results.json").write_text(json.dumps({"stages": {stage: metrics}}))
    rows = [{"prompt": str(n), stage: {"score": value}} for n, value in enumerate(scores)]
    (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [{"stage": stage, "step": n, "reward": 0.1 * n} for n in (1, 2)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def ablated(tmp_path, overs=("gamma=0.5,0.95,1.0", "mask_top_p=0.5,0.9"), run=made_up, seeds=3):
    axes = axes_of("commongen", overs, TINY)
    grid = grid_of("commongen", axes, seeds, tmp_path / "a", TINY)
    run_grid(grid, run, lambda line: None)
    path = write_ablation(grid, axes, "trl-nlpo ablate")
    return json.loads(path.with_suffix(".json").read_text()), path


def test_each_axis_has_its_means_and_its_differences_from_the_base(tmp_path):
    report, path = ablated(tmp_path)
    gamma, top_p = report["axes"]
    assert gamma["base"] == "0.95"
    # Two cells of three seeds for each value of gamma.
    assert {value: row["reward"]["seeds"] for value, row in gamma["rows"].items()} == {"0.5": 6, "0.95": 6, "1.0": 6}
    worse, same = gamma["comparisons"]
    assert (worse["value"], same["value"]) == ("0.5", "1.0")
    assert worse["difference"] == pytest.approx(-0.2)
    assert worse["high"] < -0.19
    assert worse["by_seed"] == pytest.approx([-0.2] * 3)
    assert worse["p_adjusted"] < 0.001
    assert same["difference"] == pytest.approx(0.0)
    assert same["p_adjusted"] == 1.0
    (lower,) = top_p["comparisons"]
    assert lower["difference"] == pytest.approx(-0.004)
    text = path.read_text()
    assert "| 0.5 | -0.200 |" in text
    assert "| 0 of 3 |" in text
    assert (gamma["equal"], top_p["equal"]) == (["1.0"], [])
    assert text.count("Every score with 1.0 is that with 0.95: here the key changes nothing.") == 1
    assert len(report["cells"]) == 6
    with path.with_suffix(".csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["column"] == "reward"]
    assert [(row["gamma"], row["mask_top_p"]) for row in rows][:2] == [("0.5", "0.5"), ("0.5", "0.9")]


def test_a_value_that_differs_in_one_seed_alone_is_not_called_equal(tmp_path):
    from pathlib import Path

    def run(recipe, force, overwrite):
        made_up(recipe, force, overwrite)
        if (recipe.training.gamma, recipe.training.seed) == (1.0, 1):
            samples = Path(recipe.training.output_dir, "samples.jsonl")
            samples.write_text(samples.read_text().replace('"score": ', '"score": 1'))

    report, path = ablated(tmp_path, ["gamma=0.95,1.0"], run)
    assert report["axes"][0]["equal"] == []
    assert "changes nothing" not in path.read_text()


def test_there_are_curves_with_a_band_where_matplotlib_is_installed(tmp_path):
    pytest.importorskip("matplotlib")
    _, path = ablated(tmp_path)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_that_failed_is_named_and_its_seed_is_not_compared(tmp_path):
    def run(recipe, force, overwrite):
        if (recipe.training.gamma, recipe.training.seed) == (0.5, 1):
            raise UserError("out of luck")
        made_up(recipe, force, overwrite)

    report, path = ablated(tmp_path, ["gamma=0.5,0.95"], run)
    assert [folder.endswith("supervised+nlpo[gamma=0.5]/seed-1") for folder in report["missing"]] == [True]
    assert report["axes"][0]["comparisons"][0]["seeds"] == 2
    assert "## Not there" in path.read_text()


def test_where_nothing_is_done_there_are_no_numbers_and_no_error(tmp_path):
    def run(recipe, force, overwrite):
        raise UserError("out of luck")

    report, _ = ablated(tmp_path, ["gamma=0.5,0.95"], run)
    assert report["axes"][0]["rows"] == {}
    assert report["axes"][0]["comparisons"] == []


def test_seeds_that_disagree_widen_the_interval_and_prompts_alone_do_not_tell():
    # A hundred prompts agree within each seed, but the seeds do not agree with one another.
    seeds = array([[0.5] * 100, [-0.4] * 100, [0.1] * 100, [-0.1] * 100])
    (apart,) = two_level_bootstraps([seeds])
    assert apart.low < 0.0 < apart.high
    assert apart.p_value > 0.3
    (together,) = two_level_bootstraps([array([[0.025] * 100] * 4)])
    assert together.low == pytest.approx(0.025)
    assert together.p_value < 0.001


@pytest.mark.parametrize(("seeds", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776)])
def test_the_interval_over_seeds_is_that_of_students_t(seeds, quantile):
    values = [(-1.0) ** n * (1 + n) for n in range(seeds)]
    (found,) = two_level_bootstraps([array([[value] * 5 for value in values])], num_resamples=40_000)
    error = statistics.stdev(values) / seeds**0.5
    assert found.difference == pytest.approx(statistics.fmean(values))
    assert found.high - found.difference == pytest.approx(quantile * error, rel=0.08)
    assert found.difference - found.low == pytest.approx(quantile * error, rel=0.08)


def test_where_seeds_agree_the_interval_is_that_of_the_prompts():
    rows = [[0.0] * 200 + [1.0] * 200] * 3
    (found,) = two_level_bootstraps([array(rows)])
    # 1.96 standard errors of 400 prompts with a standard deviation of 0.5
    assert found.high - 0.5 == pytest.approx(1.96 * 0.5 / 20, rel=0.05)


@pytest.mark.parametrize(("comparisons", "spread_of_seeds"), [(1, 0.05), (3, 0.05), (1, 0.0)])
def test_chance_is_called_significant_about_as_often_as_is_said(comparisons, spread_of_seeds):
    draws = random.Random(0)
    found = 0
    for _ in range(150):
        family = [
            array(
                [
                    [seed + draws.gauss(0.0, 0.2) for _ in range(30)]
                    for seed in (draws.gauss(0.0, spread_of_seeds) for _ in range(3))
                ]
            )
            for _ in range(comparisons)
        ]
        found += any(entry.p_adjusted < 0.05 for entry in two_level_bootstraps(family, num_resamples=400))
    # 5 % are 7.5 of 150; seeds that are resampled give 29 and 60.
    assert found <= 18


def test_of_one_seed_nothing_is_said_of_others(tmp_path):
    with pytest.raises(UserError, match="of one seed nothing"):
        two_level_bootstraps([array([[0.1, 0.2]])])
    report, path = ablated(tmp_path, ["gamma=0.5,0.95"], made_up, seeds=1)
    assert report["axes"][0]["comparisons"] == []
    assert "One seed has run with every value: what is chance cannot be told." in path.read_text()
