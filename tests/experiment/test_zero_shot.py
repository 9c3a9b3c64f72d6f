"""The starting model, evaluated once for all runs that share it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.small_runs import lines, stages, tiny
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.experiment.zero_shot import zero_shot_of


STAGE = "zero-shot"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run with zero-shot results only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("other"))
        return run_experiment(tiny(algorithm="zero_shot", metrics=["rouge1"], output_dir="runs/other")).resolve()


def prompts(folder):
    return [row["prompt"] for row in lines(folder / "samples.jsonl")]


def test_results_of_a_run_with_the_same_start_are_taken_and_nothing_is_evaluated(other, capsys):
    folder = run_experiment(tiny(algorithm="nlpo", metrics=["rouge1"], zero_shot_results=str(other)))
    said = capsys.readouterr().out.replace("\n", "")
    assert f"Zero-shot results are those of {other}." in said
    assert f"Evaluating {STAGE}" not in said
    assert list(stages(folder)) == [STAGE, "nlpo"]
    own, theirs = (dict(stages(where)[STAGE]) for where in (folder, other))
    assert {name: own[name] for name in own if name != "seconds"} == {
        name: theirs[name] for name in theirs if name != "seconds"
    }
    assert [row[STAGE] for row in lines(folder / "samples.jsonl")] == [
        row[STAGE] for row in lines(other / "samples.jsonl")
    ]


# What decides what the starting model says, or how it is scored.
@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"seed": 5}, "has another seed"),
        ({"temperature": 0.5}, "has another temperature"),
        ({"hidden_size": 32}, "has another hidden_size"),
        ({"metrics": ["rouge2"]}, "has another metrics"),
        ({"response_length": 6}, "has another response_length"),
        ({"rewards": ["grammatical"]}, "has another rewards"),
        ({"judge_model": "gpt2"}, "another model judged"),
    ],
)
def test_what_the_results_depend_on_is_compared(other, keys, reason):
    recipe = tiny(algorithm="nlpo", **{"metrics": ["rouge1"], **keys})
    assert reason in zero_shot_of(other, recipe, prompts(other))


@pytest.mark.parametrize("keys", [{"learning_rate": 1e-3}, {"mask_top_p": 0.5}, {"max_steps": 7}, {"kl_coef": 0.5}])
def test_how_the_policy_is_trained_makes_no_difference(other, keys):
    assert not isinstance(zero_shot_of(other, tiny(algorithm="nlpo", metrics=["rouge1"], **keys), prompts(other)), str)


def test_other_prompts_and_folders_without_results_are_told(other):
    recipe = tiny(algorithm="nlpo", metrics=["rouge1"])
    assert "has other test prompts" in zero_shot_of(other, recipe, prompts(other)[::-1])
    assert "results" in zero_shot_of(Path("nowhere"), recipe, prompts(other))


def test_a_run_whose_start_differs_says_so_and_evaluates(other, capsys):
    folder = run_experiment(tiny(algorithm="nlpo", temperature=0.5, metrics=["rouge1"], zero_shot_results=str(other)))
    said = capsys.readouterr().out.replace("\n", "")
    assert "Zero-shot is evaluated here: " in said
    assert "another temperature" in said
    assert "reward" in stages(folder)[STAGE]
