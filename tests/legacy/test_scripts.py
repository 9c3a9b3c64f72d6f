"""Scripts in the form of TRL's old ones: what they import and pass was there, they run, and they learn."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import tiny


SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))
IN_TRL = {
    "AutoModelForCausalLMWithValueHead", "AutoModelForSeq2SeqLMWithValueHead", "PPOConfig", "PPOTrainer",
    "create_reference_model", "set_seed", "LengthSampler", "respond_to_batch",
}  # fmt: skip
"""Names of `trl` and `trl.core` 0.11."""

MOVED = {
    "adaptive_kl": 0.2, "sentiment": 0.15, "summarization": 0.15, "lora": 0.05, "list_and_batch_size": 0.1,
    "single_query": 0.05, "masked_turns": 0.1, "reward_model": 0.01, "accumulation": 0.1, "save_and_load": 0.1,
}  # fmt: skip
"""How much better the mean reward of the last third must be than that of the first."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("gpt2", "t5"):
        tiny.saved(tiny.policy(family), tiny.tokenizer(), folder / family)
    tiny.saved(tiny.classifier("gpt2"), tiny.tokenizer(), folder / "classifier")
    return folder


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_differs_from_its_old_form_by_at_most_three_imports(path):
    source = path.read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    ours = [node for node in imports if "trl_nlpo" in ast.unparse(node)]
    assert 1 <= len(ours) <= 3
    assert source.count("trl_nlpo") == len(ours)
    for node in ours:
        assert isinstance(node, ast.ImportFrom)
        assert node.module == "trl_nlpo.legacy"
        assert {alias.name for alias in node.names} <= IN_TRL


def test_there_are_ten_scripts():
    assert {path.stem for path in SCRIPTS} == set(MOVED)


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_in_a_fresh_process_exactly_and_learns(path, models, tmp_path):
    arguments = [models / ("t5" if path.stem == "summarization" else "gpt2")]
    arguments += [models / "classifier"] if path.stem == "reward_model" else [tmp_path / "saved"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "FutureWarning: trl_nlpo.legacy.PPOTrainer is for scripts" in done.stderr
    assert "of this step" not in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    deviations = [float(line[1]) for line in lines if line and line[0] == "deviation"]
    (rewards,) = [list(map(float, line[1:])) for line in lines if line and line[0] == "rewards"]
    assert len(deviations) == len(rewards)
    assert max(deviations) < 5e-5
    third = len(rewards) // 3
    assert sum(rewards[-third:]) / third - sum(rewards[:third]) / third > MOVED[path.stem]
