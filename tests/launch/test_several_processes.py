"""Two processes, started by torchrun on a CPU, train like one with the same batch of all and the same seed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from support import processes
from support.launching import REWARDS_OF_TWO, TINY_RECIPE, assert_close, launch
from support.processes import GLOBAL_BATCH, SCENARIOS
from trl_nlpo.experiment import experiment
from trl_nlpo.recipes.recipe import load_recipe


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both processes wrote down, the folder of their runs, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    result = launch(Path(processes.__file__), folder)
    assert result.returncode == 0, result.stderr[-3000:]
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    return found, folder, result


scenarios = pytest.mark.parametrize("name", list(SCENARIOS))


@scenarios
def test_there_are_two_processes_and_not_twice_one(two, name):
    for found in two[0]:
        assert found[name]["kind"] == "DistributedType.MULTI_CPU"
        assert found[name]["num_processes"] == 2
        assert found[name]["wrapped"] == "DistributedDataParallel"


@scenarios
def test_rollouts_and_advantages_are_those_of_one_process(two, one, name):
    found = [row for process in two[0] for row in process[name]["rows"]]
    expected = one(name)["rows"]
    assert len(found) == len(expected) == 3 * GLOBAL_BATCH
    found, expected = (sorted(rows, key=lambda row: (row["update"], row["number"])) for rows in (found, expected))
    for ours, theirs in zip(found, expected, strict=True):
        for key, value in theirs.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                torch.testing.assert_close(
                    ours[key], value, rtol=1e-3, atol=1e-3, msg=lambda text, key=key: key + text
                )
            else:
                assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(value)), key
    assert len({len(row["completion_ids"]) for row in expected}) > 1


@scenarios
def test_weights_masks_and_kl_coefficient_are_those_of_one_process(two, one, name):
    first, second = (process[name] for process in two[0])
    expected = one(name)
    for kind in ("weights", "mask"):
        assert all(torch.equal(first[kind][key], second[kind][key]) for key in first[kind])
        assert_close(first[kind], expected[kind], kind)
    assert first["mask_syncs"] == second["mask_syncs"] == expected["mask_syncs"] == 1
    assert first["kl_coef"] == second["kl_coef"] == pytest.approx(expected["kl_coef"], rel=1e-4)
    assert expected["kl_coef"] != 0.05


@scenarios
def test_logged_metrics_are_those_of_one_process(two, one, name):
    timed = {"eps", "eval_runtime"}
    first, second = ([without(line, timed) for line in process[name]["lines"]] for process in two[0])
    expected = [without(line, timed) for line in one(name)["lines"]]
    assert [line.keys() for line in first] == [line.keys() for line in expected]
    assert any("eval_one_reward" in line for line in first)
    for ours, also, theirs in zip(first, second, expected, strict=True):
        assert ours == pytest.approx(also, nan_ok=True)
        assert ours == pytest.approx(theirs, rel=5e-3, abs=2e-4, nan_ok=True)


def without(line, keys):
    return {key: value for key, value in line.items() if key not in keys}


def test_processes_whose_completions_end_at_different_lengths_stay_in_step(two):
    first, second = (process["lengths"] for process in two[0])
    assert first["lengths"] == [[1] * 4] * 3
    assert all(max(lengths) > 10 for lengths in second["lengths"])
    assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])


def test_only_the_first_process_prints_and_writes_and_it_does_so_for_all(two, one):
    found, folder, result = two
    # Without a terminal there is a line for every log event.
    logged = [line for name in SCENARIOS for line in found[0][name]["lines"] if "objective/kl" in line]
    assert len(re.findall(r"^\S+ \S+ \S+ \d+/\d+: reward ", result.stdout, re.MULTILINE)) == len(logged) > 0
    assert ": evaluation of five: reward " in result.stdout
    one("value head")
    for update in (1, 2, 3):
        path = Path("value_head") / "completions" / f"completions_{update:05d}.jsonl"
        ours, theirs = ((where / path).read_text().splitlines() for where in (folder, one.folder))
        assert len(ours) == len(theirs) == GLOBAL_BATCH


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "rewards_of_two.py").write_text(REWARDS_OF_TWO)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_RECIPE))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_recipe_runs_on_two_processes_as_on_one_and_leaves_one_folder(recipe, monkeypatch):
    result = launch("-m", "trl_nlpo", "run", recipe, cwd=recipe.parent)
    assert result.returncode == 0, result.stderr[-3000:]
    monkeypatch.chdir(recipe.parent)
    twice = ["--per_device_train_batch_size", "8", "--supervised_batch_size", "8", "--output_dir", "runs/alone"]
    alone = experiment.run_experiment(load_recipe(recipe, twice))
    folder = recipe.parent / "runs" / "tiny"

    for ours, theirs in zip(lines(folder / "metrics.jsonl"), lines(alone / "metrics.jsonl"), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["stage"] == theirs["stage"]
        # `transformers` counts padding as work, and averages the loss of the supervised stage batch by batch.
        for key in theirs.keys() - {"stage", "time", "eps", "total_flos", "train_loss"}:
            if "runtime" not in key and "per_second" not in key:
                assert ours[key] == pytest.approx(theirs[key], rel=5e-3, abs=1e-3), key
    assert [row["prompt"] for row in lines(folder / "samples.jsonl")] == [
        row["prompt"] for row in lines(alone / "samples.jsonl")
    ]
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()}
    assert result.stdout.count("Everything is in") == 1
    assert result.stdout.count("Evaluating") == 3


def test_a_mistake_in_the_recipe_is_one_line_and_exit_code_2_on_both_processes(recipe):
    result = launch("-m", "trl_nlpo", "run", recipe, "--learnin_rate", "1", cwd=recipe.parent)
    assert result.stderr.count("trl-nlpo: command line: unknown key 'learnin_rate'") == 1
    assert exit_codes(result) == [2, 2]
    assert result.stdout == ""


def test_a_reward_that_raises_on_one_process_ends_both_with_a_checkpoint_and_one_line(recipe):
    result = launch("-m", "trl_nlpo", "run", recipe, "--rewards", "rewards_of_two.moody", "--algorithm", "nlpo",
                    "--save_strategy", "steps", "--save_steps", "50", cwd=recipe.parent)  # fmt: skip
    assert result.stderr.count("trl-nlpo: The reward function 'moody' raised ZeroDivisionError: tired") == 1
    assert exit_codes(result) == [2, 2]
    assert (recipe.parent / "runs" / "tiny" / "checkpoint-1" / "nlpo_state.json").is_file()


def exit_codes(result):
    """What torchrun reports about each process that failed."""
    return [int(code) for code in re.findall(r"exitcode\s+: (-?\d+) \(pid", result.stderr)]
