"""One command with one seed gives the same weights, also where a model is loaded, in any process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from support.small_runs import TINY, tiny
from trl_nlpo.data.splits import load_splits
from trl_nlpo.experiment.starting_model import starting_model, starting_tokenizer
from trl_nlpo.experiment.supervised import train_supervised
from trl_nlpo.experiment.trackers import Trackers
from trl_nlpo.storage.run_folder import RunFolder


FILES = ("model.safetensors", "adapter_model.safetensors", "value_model/value_model.safetensors")


def weights(folder):
    return {
        f"{file}: {name}": tensor
        for file in FILES
        if (folder / file).is_file()
        for name, tensor in load_file(folder / file).items()
    }


def assert_equal(first, second):
    assert first
    assert first.keys() == second.keys()
    assert not [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("adapter", [{}, {"use_peft": True, "lora_target_modules": "all-linear"}], ids=["all", "lora"])
def test_a_supervised_stage_ends_with_the_same_weights_under_any_global_random_state(
    request, family, adapter, tmp_path
):
    found = []
    for state in (1, 2):
        recipe = tiny(
            model_name_or_path=request.getfixturevalue(family),
            output_dir=f"run{state}",
            max_train_samples=8,
            **adapter,
        )
        splits = load_splits(recipe.arguments, recipe.training.seed)
        tokenizer = starting_tokenizer(recipe, splits)
        torch.manual_seed(state)
        model = starting_model(recipe, tokenizer)
        torch.manual_seed(state)
        folder = RunFolder(str(recipe.training.output_dir))
        trackers = Trackers(recipe.training, folder.path, folder.run)
        train_supervised(recipe, model, tokenizer, splits.supervised, folder, trackers)
        found.append(weights(tmp_path / f"run{state}" / "supervised"))
    assert_equal(*found)


def run(name, working_directory, **keys):
    """A recipe through the real command line, in a process of its own; the weights that it leaves."""
    (working_directory / f"{name}.yaml").write_text(yaml.safe_dump({**TINY, "output_dir": name, **keys}))
    command = [sys.executable, "-m", "trl_nlpo", "run", f"{name}.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command, check=False, cwd=working_directory, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return weights(working_directory / name)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [{}, {"use_peft": True, "lora_target_modules": "all-linear"}], ids=["all", "lora"])
def test_two_processes_with_a_loaded_model_end_in_equal_weights(llama, working_directory, adapter):
    keys = {"model_name_or_path": llama, "algorithm": "nlpo", "max_train_samples": 8, "eval_strategy": "no", **adapter}
    first, second = (run(name, working_directory, **keys) for name in ("first", "second"))
    assert_equal(first, second)


@pytest.mark.slow
def test_ppo_and_nlpo_with_a_mask_that_allows_everything_end_in_equal_weights(llama, working_directory):
    keys = {"model_name_or_path": llama, "max_train_samples": 8, "eval_strategy": "no"}
    ppo = run("ppo", working_directory, algorithm="ppo", **keys)
    assert_equal(ppo, run("nlpo", working_directory, algorithm="nlpo", mask_top_p=1.0, **keys))
