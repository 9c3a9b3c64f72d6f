"""PPO with a critic against TRL's GRPO: one model, one reward, the same number of completions and of passes over them.

    python benchmarks/critic_against_grpo.py runs/critic --seeds 10            # resumable: finished runs are kept
    python benchmarks/critic_against_grpo.py runs/critic --tasks commongen --dataset_name FOLDER
    python benchmarks/critic_against_grpo.py runs/critic --report              # the table of what is there

Tasks: `dense`, a reward for each of 64 tokens that follows a rule (GRPO is given their sum, as it takes one number);
`delayed`, the same sum paid with the last token; `commongen`, concepts and overlap with references after a supervised
stage. Methods: `grpo`, TRL's, in groups of 8; `ppo`, a head on the policy's states and the defaults of this package;
`critic`, a value model of its own as the field runs it in 2026 (warm-up, two passes, units, a rate and norm of its
own); one completion a prompt in both. Each method has the learning rate of a grid that was best in training on two
other seeds. The reward is that of 256 completions of other prompts (200 for commongen), sampled from the final policy
at temperature 1 without any mask.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.grid.significance import interquartile_mean, interval_of_interquartile_mean


UPDATES, BATCH, GROUP, PASSES, LENGTH = 70, 64, 8, 2, 64
RATES = (3e-4, 1e-3, 3e-3)
TUNING_SEEDS = (1000, 1001)
NUM_CLASSES, WORDS_PER_CLASS = 4, 16
WORDS = ["<pad>", "<eos>", *(f"w{index}" for index in range(NUM_CLASSES * WORDS_PER_CLASS))]


@dataclass(frozen=True)
class Task:
    """What both methods are given.

    Attributes:
        model: makes the policy of a seed, and its tokenizer.
        prompts: rows to train on and held-out rows, of a seed.
        reward: TRL's signature; a list of numbers, or of lists with a number per token.
        length (`int`): tokens of a completion, at most.
        fixed_length (`bool`): whether no token ends it.
        rates (`tuple[float, ...]`): learning rates to choose from.
    """

    model: Callable[[int], tuple[Any, Any]]
    prompts: Callable[[int], tuple[Dataset, Dataset]]
    reward: Callable[..., list[Any]]
    length: int
    fixed_length: bool
    rates: tuple[float, ...] = RATES


def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def small_model(seed: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=64, n_layer=2, n_head=4, n_positions=LENGTH + 8, pad_token_id=0, eos_token_id=1,
        bos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config), tokenizer()


def one_word_prompts(seed: int) -> tuple[Dataset, Dataset]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(2, len(WORDS), (UPDATES * BATCH + 256,), generator=generator).tolist()
    rows = [{"prompt": WORDS[word]} for word in words]
    return Dataset.from_list(rows[:-256]), Dataset.from_list(rows[-256:])


def follows_the_rule(prompt: str, ids: list[int]) -> list[float]:
    """For each token 1 / 64 if its class is the one after the class of the token before."""
    before = [int(prompt.removeprefix("w")) + 2, *ids[:-1]]
    return [
        float(_class(token) == (_class(last) + 1) % NUM_CLASSES) / LENGTH
        for last, token in zip(before, ids, strict=True)
    ]


def _class(token: int) -> int:
    return (token - 2) % NUM_CLASSES


def dense_reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
    return [follows_the_rule(prompt, ids) for prompt, ids in zip(prompts, completion_ids, strict=True)]


def delayed_reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(rewards) for rewards in dense_reward(prompts, completion_ids)]


def commongen(folder: Path, dataset_name: str) -> Task:
    """The CommonGen recipe's tiny preset with a decoder (TRL's GRPO knows no other), after a supervised stage.

    That of a seed is trained once and kept in `folder`.
    """
    from transformers import AutoTokenizer

    from trl_nlpo.data.splits import load_splits
    from trl_nlpo.experiment.experiment import run_experiment
    from trl_nlpo.recipes.recipe import load_recipe

    def recipe(seed: int) -> Any:
        words = [
            "--preset", "tiny", "--model_type", "llama", "--algorithm", "supervised", "--seed", str(seed),
            "--dataset_name", dataset_name, "--output_dir", str(folder / f"supervised-{seed}"),
            "--max_train_samples", "2000", "--max_test_samples", "200", "--max_prompt_length", "40",
            "--response_length", "24",
            "--max_position_embeddings", "128",
            "--supervised_all_references", "true", "--supervised_num_train_epochs", "5", "--disable_tqdm", "true",
        ]  # fmt: skip
        return load_recipe("commongen", words)

    def model(seed: int) -> tuple[Any, Any]:
        made = folder / f"supervised-{seed}" / "supervised"
        if not (folder / f"supervised-{seed}" / "results.json").is_file():
            run_experiment(recipe(seed), False, True)
        return AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32), AutoTokenizer.from_pretrained(
            made, padding_side="left"
        )

    def prompts(seed: int) -> tuple[Dataset, Dataset]:
        splits = load_splits(recipe(seed).arguments, seed)
        return splits.train, splits.test

    functions = recipe(0).arguments.reward_functions()
    weights = [spec.weight for spec in recipe(0).arguments.reward_specs]

    def reward(**call: Any) -> list[float]:
        scores = [function(**call) for function in functions]
        return [sum(w * s for w, s in zip(weights, row, strict=True)) for row in zip(*scores, strict=True)]

    return Task(model, prompts, reward, length=24, fixed_length=False, rates=(3e-5, 1e-4, 3e-4))


def ours(task: Task, seed: int, rate: float, folder: Path, algorithm: dict[str, Any]) -> tuple[list[float], Any, Any]:
    """`own_model` in `algorithm`: whether the value function is a model of its own, of the policy's shape."""
    policy, tok = task.model(seed)
    value_model = None
    if algorithm.get("own_model"):
        torch.manual_seed(seed)
        config = type(policy.config).from_dict({**policy.config.to_dict(), "num_labels": 1})
        value_model = AutoModelForSequenceClassification.from_config(config)
    args = NLPOConfig(
        output_dir=str(folder), seed=seed, learning_rate=rate, lr_scheduler_type="constant", max_steps=UPDATES,
        per_device_train_batch_size=BATCH, num_ppo_epochs=PASSES, response_length=task.length, temperature=1.0,
        stop_token=None if task.fixed_length else "eos", report_to="none", save_strategy="no", disable_tqdm=True,
        num_sample_generations=0, use_cpu=True,
        generation_kwargs={"suppress_tokens": [0, 1]} if task.fixed_length else None,
        kl_coef=0.0, mask_strategy="none", **{name: value for name, value in algorithm.items() if name != "own_model"},
    )  # fmt: skip
    train, _ = task.prompts(seed)
    trainer = NLPOTrainer(
        args=args, processing_class=tok, model=policy, reward_funcs=task.reward, train_dataset=train,
        value_model=value_model,
    )  # fmt: skip
    trainer.train()
    return [line["reward"] for line in trainer.state.log_history if "reward" in line], policy, tok


def grpo(task: Task, seed: int, rate: float, folder: Path) -> tuple[list[float], Any, Any]:
    from trl import GRPOConfig, GRPOTrainer

    policy, tok = task.model(seed)
    forbidden: dict[str, Any] = {"suppress_tokens": [0, 1], "min_new_tokens": task.length}
    args = GRPOConfig(
        output_dir=str(folder), seed=seed, learning_rate=rate, lr_scheduler_type="constant",
        # A batch of completions is used for as many passes as ours.
        max_steps=UPDATES * PASSES, num_iterations=PASSES, per_device_train_batch_size=BATCH, num_generations=GROUP,
        max_completion_length=task.length, temperature=1.0, report_to="none", save_strategy="no", disable_tqdm=True,
        use_cpu=True, bf16=False, gradient_checkpointing=False, logging_steps=1, disable_dropout=True,
        generation_kwargs=forbidden if task.fixed_length else None,
    )  # fmt: skip
    train, _ = task.prompts(seed)

    def reward(**call: Any) -> list[float]:
        return [sum(value) if isinstance(value, list) else value for value in task.reward(**call)]

    trainer = GRPOTrainer(model=policy, processing_class=tok, reward_funcs=reward, args=args, train_dataset=train)
    trainer.train()
    # Only steps that sampled have rewards in their logs.
    return [line["reward"] for line in trainer.state.log_history if "reward" in line], policy, tok


CRITIC = {
    "own_model": True, "gamma": 1.0, "lam": 0.95, "normalize_returns": True, "critic_warmup_steps": 5,
    "critic_updates_per_step": 2, "critic_learning_rate": 1e-3, "critic_max_grad_norm": 1.0, "vf_coef": 1.0,
}  # fmt: skip
METHODS: dict[str, Callable[..., tuple[list[float], Any, Any]]] = {
    "grpo": grpo,
    "ppo": lambda *run: ours(*run, {}),
    "critic": lambda *run: ours(*run, CRITIC),
}


@torch.no_grad()
def held_out_reward(task: Task, policy: Any, tok: Any, seed: int) -> float:
    """Mean reward of a completion for each held-out prompt."""
    _, rows = task.prompts(seed)
    torch.manual_seed(seed)
    policy.eval()
    columns = rows.to_dict()
    inputs = tok(columns["prompt"], return_tensors="pt", padding=True)
    kwargs = {"suppress_tokens": [0, 1]} if task.fixed_length else {}
    output = policy.generate(
        **inputs, max_new_tokens=task.length, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
        pad_token_id=tok.pad_token_id, eos_token_id=None if task.fixed_length else tok.eos_token_id, **kwargs,
    )[:, inputs["input_ids"].shape[1] :]  # fmt: skip
    ids = [row if task.fixed_length else _until(row, tok.eos_token_id) for row in output.tolist()]
    call = {"completions": tok.batch_decode(ids, skip_special_tokens=True), "completion_ids": ids}
    rest = {name: values for name, values in columns.items() if name != "prompt"}
    values = task.reward(prompts=columns["prompt"], **call, **rest)
    return float(torch.tensor([sum(value) if isinstance(value, list) else value for value in values]).mean())


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def run(task_name: str, task: Task, method: str, seed: int, rate: float, out: Path) -> dict[str, Any]:
    """A run, or what it gave when it was run before."""
    path = out / "results.jsonl"
    key = {"task": task_name, "method": method, "seed": seed, "rate": rate}
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    for record in done:
        if all(record[name] == value for name, value in key.items()):
            return record
    start = time.time()
    curve, policy, tok = METHODS[method](task, seed, rate, out / f"trainer-{task_name}")
    record = {
        **key, "held_out": held_out_reward(task, policy, tok, seed), "mean": sum(curve) / len(curve),
        "curve": [round(value, 4) for value in curve], "seconds": round(time.time() - start, 1),
    }  # fmt: skip
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print({name: value for name, value in record.items() if name != "curve"}, flush=True)
    return record


def best_rate(task_name: str, task: Task, method: str, out: Path) -> float:
    """The learning rate whose training rewards were the highest in the mean, on seeds of their own."""
    means = {
        rate: sum(run(task_name, task, method, seed, rate, out)["mean"] for seed in TUNING_SEEDS)
        for rate in task.rates
    }
    return max(means, key=lambda rate: means[rate])


def report(out: Path) -> str:
    """A table: of each task and method the interquartile mean over seeds, with its interval."""
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    records = [record for record in records if record["seed"] not in TUNING_SEEDS]
    lines = [
        "| task | method | learning rate | seeds | held-out reward | in training |",
        "|---|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(record["task"] for record in records):
        for method in METHODS:
            mine = [r for r in records if r["task"] == task and r["method"] == method]
            if not mine:
                continue
            cells = []
            for column in ("held_out", "mean"):
                values = [r[column] for r in mine]
                low, high = interval_of_interquartile_mean([values])
                cells.append(f"{interquartile_mean(values):.3f} ({low:.3f} to {high:.3f})")
            lines.append(f"| {task} | {method} | {mine[0]['rate']:g} | {len(mine)} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", default="dense,delayed,commongen")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--dataset_name", default="miniature", help="of commongen: a folder with its rows")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        for name in arguments.tasks.split(","):
            rewards = {"dense": dense_reward, "delayed": delayed_reward}
            task = (
                commongen(arguments.out / "commongen", arguments.dataset_name)
                if name == "commongen"
                else Task(small_model, one_word_prompts, rewards[name], LENGTH, fixed_length=True)
            )
            for method in arguments.methods.split(","):
                rate = best_rate(name, task, method, arguments.out)
                for seed in range(arguments.seeds):
                    run(name, task, method, seed, rate, arguments.out)
    print(report(arguments.out))


if __name__ == "__main__":
    main()
