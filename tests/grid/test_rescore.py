"""Finished cells, scored again without running anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from support.commands import run_cli
from trl_nlpo.data.splits import load_splits
from trl_nlpo.errors import UserError
from trl_nlpo.grid.cells import Grid, parse_variant
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.rescore import rescore_grid
from trl_nlpo.metrics.suite import judge_samples


KEYS = ("--preset", "tiny", "--max_train_samples", "64", "--max_eval_samples", "8", "--max_test_samples", "8")
STAGE = "supervised"


def first_references(recipe, force, overwrite):
    """A run whose policy answers with the first reference, scored as a real one is."""
    folder = Path(recipe.training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    test = load_splits(recipe.arguments, recipe.training.seed).test
    answers = [{"prompt": row["prompt"], "completion": row["references"][0], "score": 1.0} for row in test]
    found = judge_samples(recipe.arguments.metric_specs, answers, test)
    metrics = {"reward": 1.0, "perplexity": 9.0, **found.metrics}
    rows = [{"prompt": row.pop("prompt"), STAGE: row} for row in found.samples]
    results = {"stages": {STAGE: metrics}, "better": {STAGE: {"reward": "higher", **found.better}}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text("# made with a version\n" + yaml.safe_dump(recipe.resolved))


def grid(folder, *metrics):
    return Grid(("commongen",), (parse_variant(STAGE),), 2, folder, (*KEYS, "--metrics", *metrics))


@pytest.fixture
def finished(tmp_path):
    """The folder of a grid that was scored by rouge1."""
    assert run_grid(grid(tmp_path / "grid", "rouge1"), first_references, lambda line: None) == []
    return tmp_path / "grid"


def metrics_of(folder, seed=0):
    return json.loads((folder / "commongen" / STAGE / f"seed-{seed}" / "results.json").read_text())["stages"][STAGE]


def test_a_metric_that_is_added_afterwards_is_in_results_samples_cell_and_recipe_and_nothing_runs(finished):
    said = []
    assert rescore_grid(grid(finished, "rouge1", "concept_coverage"), said.append) == []
    assert [line.rsplit(": ", 1)[1] for line in said] == ["scored."] * 2
    cell = finished / "commongen" / STAGE / "seed-0"
    metrics = metrics_of(finished)
    assert metrics["metrics/rouge1"] == 1.0
    assert 0 < metrics["metrics/concept_coverage"] <= 1
    assert (metrics["reward"], metrics["perplexity"]) == (1.0, 9.0)
    row = json.loads((cell / "samples.jsonl").read_text().splitlines()[0])
    assert set(row[STAGE]["metrics"]) == {"rouge1", "concept_coverage"}
    assert json.loads((cell / "cell.json").read_text())["metrics"] == metrics
    recipe = (cell / "recipe.yaml").read_text()
    assert recipe.startswith("# made with a version\n")
    assert yaml.safe_load(recipe)["metrics"] == ["rouge1", "concept_coverage"]


def test_a_metric_that_is_left_out_is_gone(finished):
    rescore_grid(grid(finished, "concept_coverage"), lambda line: None)
    assert "metrics/rouge1" not in metrics_of(finished)


def test_other_metrics_in_the_recipe_neither_stop_a_grid_nor_run_its_cells_and_a_line_says_what_does(finished):
    said, ran = [], []
    assert run_grid(grid(finished, "rouge2"), lambda *arguments: ran.append(arguments), said.append) == []
    assert ran == []
    assert any("2 cells were scored with other metrics" in line and "--rescore" in line for line in said)
    rescore_grid(grid(finished, "rouge2"), lambda line: None)
    said.clear()
    run_grid(grid(finished, "rouge2"), lambda *arguments: ran.append(arguments), said.append)
    assert not any("--rescore" in line for line in said)


def test_a_metric_that_raises_is_a_named_gap_and_loses_nothing_that_was_known(finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    Path("breaking.py").write_text(
        "from trl_nlpo.metrics.base import Metric\n\n\nclass Breaking(Metric):\n    name = 'breaking'\n"
        "    def score(self, predictions, **columns):\n        raise ZeroDivisionError('tired')\n"
    )
    said = []
    assert rescore_grid(grid(finished, "breaking.Breaking", "rouge2"), said.append) == []
    gaps = [line for line in said if "without" in line]
    assert len(gaps) == 1
    assert "ZeroDivisionError: tired" in gaps[0]
    assert {"metrics/rouge1", "metrics/rouge2"} <= set(metrics_of(finished))


def test_a_misspelt_metric_is_refused_before_anything_is_scored(finished):
    said = []
    with pytest.raises(UserError, match=r"^metrics: unknown metric 'roug1', did you mean 'rouge1'"):
        rescore_grid(grid(finished, "roug1"), said.append)
    assert said == []


def test_a_cell_without_samples_or_with_other_prompts_is_named_and_the_others_are_scored(finished):
    cell = finished / "commongen" / STAGE / "seed-0"
    kept = (cell / "samples.jsonl").read_text()
    for damage, message in ((None, "samples.jsonl"), (kept.replace("generate", "write"), "samples of other prompts")):
        (cell / "samples.jsonl").unlink() if damage is None else (cell / "samples.jsonl").write_text(damage)
        said = []
        failed = rescore_grid(grid(finished, "rouge2"), said.append)
        assert [cell.seed for cell in failed] == [0]
        assert "not scored: " in said[0]
        assert message in said[0]
        assert said[1].endswith("scored.")
        assert "metrics/rouge1" in metrics_of(finished)
        assert "metrics/rouge2" in metrics_of(finished, seed=1)


def test_nothing_to_score_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="has no finished cell of these tasks, algorithms and seeds to score"):
        rescore_grid(grid(tmp_path / "none"), lambda line: None)
    words = ["grue", "--rescore", "--tasks", "commongen", "--out", tmp_path / "none", *KEYS]
    code, _, error = run_cli(monkeypatch, capsys, *words)
    assert code == 2
    assert error.count("\n") == 1


def test_other_keys_than_those_of_the_metrics_are_refused_as_they_are_by_the_grid(finished):
    other = Grid(("commongen",), (parse_variant(STAGE),), 2, finished, (*KEYS, "--gamma", "0.5"))
    with pytest.raises(UserError, match="give the same keys, or another --out"):
        rescore_grid(other, lambda line: None)


def test_the_command_scores_again_and_writes_the_leaderboard_in_every_form(finished, monkeypatch, capsys):
    words = ["grue", "--tasks", "commongen", "--algorithms", STAGE, "--seeds", "2", "--out", finished, *KEYS]
    code, out, _ = run_cli(monkeypatch, capsys, *words, "--metrics", "rouge1", "rouge2", "--rescore")
    assert code == 0
    for ending in ("json", "csv", "tex", "md"):
        assert "rouge2" in (finished / f"leaderboard.{ending}").read_text()
    shutil.rmtree(finished / "commongen" / STAGE / "seed-1")
    code, out, _ = run_cli(monkeypatch, capsys, *words, "--metrics", "rouge1", "rouge2", "--rescore")
    assert code == 0
    assert "(1 of 2 seeds)" in out
