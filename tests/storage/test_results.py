"""What a run left, read back: equal to what was written, and one line where it is damaged."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.storage.results import RunResults
from trl_nlpo.storage.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    """Two finished stages and a log line of training."""
    run = RunFolder(tmp_path)
    row = {"prompt": "p", "completion": "one\u2028two", "score": 0.5}
    run.add_result("zero-shot", {"reward": 0.5}, [row], 0.0, {"reward": "higher"})
    run.log("nlpo", 1, {"reward": 0.7})
    better = {"metrics/ter": "lower", "mean_length": None}
    run.add_result("nlpo", {"reward": 0.8, "metrics/ter": float("inf")}, [{**row, "score": 0.8}], 2.0, better)
    return tmp_path


def test_everything_that_was_written_is_read(folder):
    (folder / "recipe.yaml").write_text("task: imdb\nseed: 3\n")
    (folder / "cell.json").write_text('{"status": "done"}')
    run = RunResults.read(str(folder))
    assert run.folder == folder
    assert run.stages == {
        "zero-shot": {"reward": 0.5, "seconds": 0.0},
        "nlpo": {"reward": 0.8, "metrics/ter": None, "seconds": 2.0},
    }
    assert run.better == {"reward": "higher", "metrics/ter": "lower", "mean_length": None}
    one, other = {"completion": "one\u2028two", "score": 0.5}, {"completion": "one\u2028two", "score": 0.8}
    assert run.samples == ({"prompt": "p", "zero-shot": one, "nlpo": other},)
    assert [(line["stage"], line["step"]) for line in run.log] == [("zero-shot", 0), ("nlpo", 1), ("nlpo", 0)]
    assert run.log_lines == 3
    assert run.started > 0
    assert run.recipe == {"task": "imdb", "seed": 3}
    assert run.cell == {"status": "done"}


def test_the_record_cannot_be_changed(folder):
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunResults.read(folder).stages = {}


def test_a_run_that_is_still_going_or_was_killed_is_read_up_to_its_last_complete_line(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "nlpo", "st')
    assert len(RunResults.read(folder).log) == 3


def test_a_folder_of_an_earlier_version_has_no_directions_and_needs_no_other_file(tmp_path):
    (tmp_path / "results.json").write_text('{"stages": {"ppo": {"reward": 1.0}}}')
    run = RunResults.read(tmp_path)
    assert run.stages == {"ppo": {"reward": 1.0}}
    assert (run.better, run.samples, run.log, run.recipe, run.cell) == ({}, (), (), None, None)
    assert (run.started, run.log_lines) == (0.0, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", None, r"has no results\.json: give the output_dir of a run"),
        ("results.json", '{"stages": ', r"results\.json is damaged \(.*\): restore it, or run the recipe again"),
        ("results.json", '{"metrics": {}}', r"results\.json is damaged \(it has no metrics under 'stages'\)"),
        ("results.json", '{"stages": {"ppo": 1.0}}', r"results\.json is damaged"),
        ("samples.jsonl", '{"prompt": "p"}\n{"pro\n', r"samples\.jsonl, line 2: not valid JSON"),
        ("samples.jsonl", "[]\n", r"samples\.jsonl, line 1: a row must be a JSON object, not list"),
        ("metrics.jsonl", "\x00\x00\n", r"metrics\.jsonl, line 1: not valid JSON"),
        ("recipe.yaml", "a: [", r"recipe\.yaml is damaged \(.*\): restore it"),
        ("recipe.yaml", "word", r"recipe\.yaml is damaged \(it holds no keys\)"),
        ("cell.json", "{", r"cell\.json is damaged \(.*\): delete .* to run the cell again"),
    ],
)
def test_what_is_missing_or_damaged_is_one_line_with_the_file_and_what_to_do(folder, name, content, message):
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        RunResults.read(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_run_with_damaged_results_is_not_resumed_as_if_it_had_none(folder):
    (folder / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        RunFolder(folder, resume=True)


def test_what_is_better_is_kept_over_a_resumed_run(folder):
    run = RunFolder(folder, resume=True)
    run.add_result("ppo", {"reward": 0.1}, [{"prompt": "p"}], 0.0, {"perplexity": "lower"})
    kept = json.loads((folder / "results.json").read_text())["better"]
    assert kept == {"reward": "higher", "metrics/ter": "lower", "mean_length": None, "perplexity": "lower"}


def test_reading_loads_neither_torch_nor_transformers():
    code = "import sys, trl_nlpo.storage.results; assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
