"""Two nodes of two processes each, on loopback: they train like one process, and one that dies ends the other."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from support import sharded_processes
from support.launching import REWARDS_OF_TWO, TINY_RECIPE, Nodes, assert_close
from trl_nlpo.experiment import experiment
from trl_nlpo.recipes.recipe import load_recipe


# Each starts four processes two or three times.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RECIPE = {
    **TINY_RECIPE, "algorithm": "nlpo", "per_device_train_batch_size": 2, "max_steps": 6, "eval_strategy": "no",
    "mask_sync_steps": 2, "save_total_limit": None,
}  # fmt: skip
RUN = {
    "ddp": ("-m", "trl_nlpo", "run", "tiny.yaml"),
    "fsdp2": (sharded_processes.__file__, "run", "tiny.yaml"),
    "zero2": ("-m", "trl_nlpo", "run", "tiny.yaml", "--use_cpu", "false", "--ddp_backend", "gloo"),
}
ENVIRONMENT = {
    "ddp": {},
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    },
    "zero2": {
        "DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=list(RUN))
def kind(request):
    """How they train."""
    if request.param == "zero2":
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    return request.param


@pytest.fixture(scope="module")
def nodes(kind, tmp_path_factory):
    """Starts both nodes in a folder that they share; the folder."""
    folder = tmp_path_factory.mktemp(kind)
    (folder / "rewards_of_two.py").write_text(REWARDS_OF_TWO)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder, lambda *words: Nodes(*RUN[kind], *words, cwd=folder, environment=ENVIRONMENT[kind])


@pytest.fixture(scope="module")
def whole(nodes):
    """The folder of a run that nothing happened to."""
    folder, start = nodes
    both = start("--output_dir", "whole")
    assert both.wait(timeout=600) == [0, 0], both.said(0) + both.said(1)
    return folder / "whole"


def weights(folder):
    return load_file(folder / "model.safetensors")


def rewards(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["reward"] for line in lines if "objective/kl" in line]


def test_four_processes_of_two_nodes_train_like_one(whole, nodes, monkeypatch):
    folder, _ = nodes
    monkeypatch.chdir(folder)
    words = ["--per_device_train_batch_size", "8", "--output_dir", "alone"]
    alone = experiment.run_experiment(load_recipe("tiny.yaml", words))
    assert_close(weights(whole), weights(alone), "weights")
    assert rewards(whole) == pytest.approx(rewards(alone), rel=5e-3)
    state = json.loads((whole / "checkpoint-6" / "nlpo_state.json").read_text())
    assert state["batches"]["processes"] == 4


def test_a_node_that_dies_ends_the_other_and_the_run_goes_on_from_a_whole_checkpoint_to_equal_weights(whole, nodes):
    folder, start = nodes
    run = folder / "killed"
    both = start("--output_dir", "killed")
    while not (run / "checkpoint-2").is_dir():
        assert both.running[0].poll() is None, both.said(0)
        time.sleep(0.05)
    both.kill(1)
    codes = both.wait(timeout=300)
    assert codes[0] != 0
    assert "Another process of this run has gone" in both.said(0), both.said(0)
    done = [path for path in Path(run).glob("checkpoint-*") if (path / "manifest.json").is_file()]
    assert 2 <= len(done) < 6

    again = start("--output_dir", "killed", "--resume")
    assert again.wait(timeout=600) == [0, 0], again.said(0) + again.said(1)
    ours, theirs = weights(run), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert rewards(run) == rewards(whole)
