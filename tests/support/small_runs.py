"""Runs of recipes that take seconds, and what they leave."""

from __future__ import annotations

import json
import time

import yaml
from transformers import (
    AutoTokenizer,
)

from trl_nlpo.data.splits import load_splits
from trl_nlpo.evaluation.policy import evaluate_policy
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.recipes.recipe import load_recipe


TINY = {
    "algorithm": "supervised+nlpo",
    "dataset_name": "quickstart",
    "max_train_samples": 32,
    "max_eval_samples": 6,
    "max_test_samples": 6,
    "rewards": ["grammatical", {"name": "pleasant_sentence", "weight": 2}],
    "model_type": "gpt2",
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 192,
    "supervised_num_train_epochs": 1,
    "supervised_learning_rate": 1e-3,
    "supervised_batch_size": 8,
    "response_length": 8,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 6,
    "gradient_accumulation_steps": 1,
    "num_ppo_epochs": 1,
    "max_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "use_cpu": True,
    "bf16": False,
}


def tiny(**keys):
    with open("tiny.yaml", "w") as file:
        yaml.safe_dump({**TINY, **keys}, file)
    return load_recipe("tiny.yaml")


def wait_for_step(process, folder, step):
    """Until the run of a process has logged an update, or the process has ended."""
    log = folder / "metrics.jsonl"
    while process.poll() is None and not (log.is_file() and f'"step": {step},' in log.read_text()):
        time.sleep(0.05)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def stages(folder):
    return json.loads((folder / "results.json").read_text())["stages"]


def assert_is_what_was_evaluated(model, folder, stage):
    """The saved model gives the completions of `samples.jsonl`."""
    recipe, tokenizer = load_recipe("tiny.yaml"), AutoTokenizer.from_pretrained(folder)
    test = load_splits(recipe.arguments, recipe.training.seed).test
    found = evaluate_policy(model, tokenizer, test, recipe.arguments.reward_functions(), recipe.training)
    expected = [sample[stage]["completion"] for sample in lines(folder / "samples.jsonl")]
    assert [sample["completion"] for sample in found.samples] == expected


SMALL = [
    "--preset", "tiny", "--max_steps", "2", "--eval_steps", "2", "--max_train_samples", "64",
    "--max_eval_samples", "8", "--max_test_samples", "8",
    "--supervised_num_train_epochs", "1", "--per_device_train_batch_size", "8",
    "--hidden_size", "32", "--vocab_size", "400",
]  # fmt: skip


def train_small():
    """A tiny model of CommonGen's miniature, and the numbers that its run gave."""
    folder = run_experiment(load_recipe("commongen", [*SMALL, "--algorithm", "supervised", "--output_dir", "run"]))
    return folder / "supervised", stages(folder)["supervised"]
