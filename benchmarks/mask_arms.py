"""Whose mask, and how old: masks of NLPO and its relatives on one task, paired by seed.

    python benchmarks/mask_arms.py commongen runs/masks --dataset_name FOLDER --seeds 12    # resumable, may be shared
    python benchmarks/mask_arms.py commongen runs/masks --report    # the tables of what is there

Question, arms, endpoints and tests were written down in docs/results/masks.md before the first run. A cell is an arm,
a KL penalty β and a seed: from the seed's supervised model, equal updates on equal prompts with equal random numbers.
The final policy is sampled from as a whole, without any mask and at temperature 1, on held-out prompts; its KL from
the supervised model is summed over the vocabulary at every position, not estimated from the drawn tokens.

IMDB's reward and its judge are two classifiers, each trained on every second review of the train split.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from trl_nlpo import NLPOTrainer
from trl_nlpo.data.splits import load_splits
from trl_nlpo.experiment.experiment import run_experiment
from trl_nlpo.grid.significance import interquartile_mean, interval_of_interquartile_mean, sign_flip_tests
from trl_nlpo.metrics.registry import get_metric
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.reward_training.classifier import ClassifierArguments, train_classifier
from trl_nlpo.rewards.registry import get_reward


_PAPER = {"mask_anchor_coef": 0.0}
ARMS: dict[str, dict[str, Any]] = {
    "no mask": {"mask_strategy": "none"},
    "own nucleus, µ = 1": {**_PAPER, "mask_sync_steps": 1},
    "µ = 5": {**_PAPER, "mask_sync_steps": 5},
    "µ = 20": {**_PAPER, "mask_sync_steps": 20},
    "frozen": {**_PAPER, "mask_sync_steps": None},
    "frozen, floor 100": {**_PAPER, "mask_sync_steps": None, "mask_min_tokens": 100},
    "own top 32, µ = 1": {**_PAPER, "mask_sync_steps": 1, "mask_strategy": "top_k", "mask_top_k": 32},
    "µ = 20, anchored": {"mask_sync_steps": 20, "mask_anchor_coef": 1.0},
}
BETAS = (0.005, 0.02, 0.08, 0.32)
KEYS = {
    "preset": "tiny", "model_type": "gpt2", "max_train_samples": 2000, "max_test_samples": 200, "max_eval_samples": 8,
    "max_prompt_length": 24, "response_length": 20, "max_position_embeddings": 64, "per_device_train_batch_size": 32,
    "num_ppo_epochs": 2, "num_mini_batches": 2, "max_steps": 60, "learning_rate": 3e-4, "eval_strategy": "no",
    "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "num_sample_generations": 0, "use_cpu": True,
    "metrics": "[]",
}  # fmt: skip
TASKS: dict[str, dict[str, Any]] = {
    "commongen": {"supervised_all_references": True, "supervised_num_train_epochs": 3},
    "imdb": {
        "max_train_samples": 1400, "max_prompt_length": 24, "response_length": 24, "max_position_embeddings": 64,
        "supervised_num_train_epochs": 5, "generation_kwargs": '{"min_new_tokens": 24}',
    },
}  # fmt: skip
CLASSIFIERS = {"imdb": ("reward", "judge")}
"""Of a task whose reward is a classifier: it, and another that judges, as folders beside the cells."""
OF_COMPLETION = {"label": 0, "include_prompt": False}
"""A classifier's probability that the completion alone is negative: what the small supervised model writes is read as
positive by both classifiers (0.89 and 0.84 at the pilot), which leaves nothing to learn in that direction."""
BUDGETS = {"commongen": 8.0, "imdb": 16.0}
"""K of each task whose pilot has been run: nats of KL from the supervised model, of a completion."""
SAMPLES = 3
"""Completions of a held-out prompt."""


def words(keys: dict[str, Any]) -> list[str]:
    return [
        word
        for key, value in keys.items()
        for word in (
            f"--{key}",
            "null" if value is None else str(value).lower() if value in (True, False) else str(value),
        )
    ]


def recipe(task: str, dataset_name: str, seed: int, out: Path, **keys: Any) -> Any:
    chosen = {**KEYS, **TASKS[task], "dataset_name": dataset_name, "seed": seed, **keys}
    if task in CLASSIFIERS:
        reward, _ = CLASSIFIERS[task]
        chosen["rewards"] = json.dumps({"name": "classifier", "model": str(out / task / reward), **OF_COMPLETION})
    return load_recipe(task, words(chosen))


def train_classifiers(task: str, dataset_name: str, out: Path) -> None:
    """A task's reward and judge, where they are not there: the first from the even rows, the other from the odd."""
    for part, name in enumerate(CLASSIFIERS.get(task, ())):
        folder = out / task / name
        with locked(folder.with_suffix(".lock")):
            if (folder / "accuracy.json").is_file():
                continue
            rows = Path(dataset_name) / f"{task}_train.jsonl"
            with tempfile.TemporaryDirectory() as data:
                Path(data, "train.jsonl").write_text("".join(every_second(rows.read_text().splitlines(True), part)))
                shutil.copy(rows.with_name(f"{task}_test.jsonl"), Path(data, "test.jsonl"))
                accuracy = train_classifier(ClassifierArguments(data=data, out=str(folder), seed=part))
            (folder / "accuracy.json").write_text(json.dumps(accuracy) + "\n")


def every_second(lines: Sequence[str], part: int) -> list[str]:
    """Even or odd ones, counted within each label, as files may be in its order."""
    counts: dict[Any, int] = {}
    kept = []
    for line in lines:
        label = json.loads(line)["label"]
        if counts.setdefault(label, 0) % 2 == part:
            kept.append(line)
        counts[label] += 1
    return kept


def supervised(task: str, dataset_name: str, seed: int, out: Path) -> Path:
    """The folder of a seed's supervised model, trained when it is not there."""
    folder = out / task / f"supervised-{seed}"
    with locked(folder.with_suffix(".lock")):
        if not (folder / "results.json").is_file():
            run_experiment(
                recipe(task, dataset_name, seed, out, algorithm="supervised", output_dir=folder, max_test_samples=32),
                False, True,
            )  # fmt: skip
    return folder / "supervised"


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Whether this process alone has the file, until the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def run(task: str, dataset_name: str, arm: str, beta: float, seed: int, out: Path, start: Path) -> dict[str, Any]:
    """Train a cell and measure its final policy."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = recipe(
            task, dataset_name, seed, out, algorithm="supervised+nlpo", supervised_model=start, output_dir=folder,
            kl_coef=beta, **ARMS[arm],
        )  # fmt: skip
        splits = load_splits(chosen.arguments, seed)
        tokenizer = AutoTokenizer.from_pretrained(start, padding_side="left")
        policy = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        began = time.time()
        trainer = NLPOTrainer(
            args=chosen.training, processing_class=tokenizer, model=policy,
            reward_funcs=chosen.arguments.reward_functions(), train_dataset=splits.train,
        )  # fmt: skip
        trainer.train()
        seconds = time.time() - began
        log = [line for line in trainer.state.log_history if "objective/kl" in line]
    reference = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    masses = [[line["nlpo/mask_age"], round(line["nlpo/mask_mass"], 4)] for line in log if "nlpo/mask_mass" in line]
    return {
        "task": task, "arm": arm, "beta": beta, "seed": seed,
        **held_out(chosen, splits.test, policy, reference, tokenizer, judge_of(task, out)),
        "curve": [round(line["reward"], 4) for line in log], "mass": masses, "seconds": round(seconds, 1),
    }  # fmt: skip


@torch.no_grad()
def held_out(chosen: Any, rows: Any, policy: Any, reference: Any, tokenizer: Any, judge: Any) -> dict[str, float]:
    """What the whole policy does on held-out prompts: reward, judge, tokens, and KL from the reference in nats."""
    policy.eval(), reference.eval()
    columns = {name: values * SAMPLES for name, values in rows.to_dict().items()}
    prompts = columns.pop("prompt")
    inputs = tokenizer(
        prompts, return_tensors="pt", padding=True, truncation=True, max_length=chosen.training.max_prompt_length
    )
    width = inputs["input_ids"].shape[1]
    torch.manual_seed(chosen.training.seed)
    length = chosen.training.response_length
    least = (chosen.training.generation_kwargs or {}).get("min_new_tokens")
    assert least in (None, length), "neither more nor less, or as it comes"
    ids = policy.generate(
        **inputs, max_new_tokens=length, min_new_tokens=least, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    new = ids[:, width:]
    # The end itself is a choice of the policy; what comes after it is not.
    ended = (new == tokenizer.eos_token_id).cumsum(-1)
    real = (ended == 0) | ((ended == 1) & (new == tokenizer.eos_token_id))
    attention = torch.cat([inputs["attention_mask"], real.long()], 1)
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    logits = [
        model(ids, attention_mask=attention, position_ids=positions).logits[:, width - 1 : -1].double()
        for model in (policy, reference)
    ]
    if least is not None:
        # The end is never drawn: the policy and its reference are what is left without it.
        for of_model in logits:
            of_model[..., tokenizer.eos_token_id] = torch.finfo(of_model.dtype).min
    logprobs = [of_model.log_softmax(-1) for of_model in logits]
    kl = ((logprobs[0].exp() * (logprobs[0] - logprobs[1])).sum(-1) * real).sum(-1)
    lists = [row[keep].tolist() for row, keep in zip(new, real, strict=True)]
    texts = tokenizer.batch_decode(lists, skip_special_tokens=True)
    call = {"completions": texts, "completion_ids": lists, "prompts": prompts, **columns}
    specs = chosen.arguments.reward_specs
    scores = [function(**call) for function in chosen.arguments.reward_functions()]
    reward = [sum(spec.weight * s for spec, s in zip(specs, row, strict=True)) for row in zip(*scores, strict=True)]
    judged = judge(**call)
    return {
        "reward": statistics.fmean(reward), "judge": statistics.fmean(judged), "kl": float(kl.mean()),
        "tokens": float(real.sum(-1).float().mean()),
        "entropy": float(-(logprobs[0].exp() * logprobs[0]).sum(-1)[real].mean()),
    }  # fmt: skip


def judge_of(task: str, out: Path) -> Callable[..., list[float]]:
    """What scores completions and was never trained on: another classifier, or chrF of the references."""
    if task in CLASSIFIERS:
        return get_reward("classifier", model=str(out / task / CLASSIFIERS[task][1]), **OF_COMPLETION)
    chrf = get_metric("chrf")
    return lambda completions, references, **others: chrf.score(completions, references=references)


def area_under_frontier(points: Sequence[tuple[float, float]], start: float, budget: float) -> float:
    """The best reward that a KL of at most k buys, averaged over k from 0 to `budget`.

    Choosing one of several policies at random before a completion earns the mean of their rewards with at most the
    mean of their KLs, so that the upper concave hull of the points is within reach; beyond the last of its corners
    the reward stays.

    Args:
        points: `(kl, reward)` of each policy.
        start (`float`): reward of the model from which the KL is measured, a policy of KL 0.
        budget (`float`): nats.
    """
    hull: list[tuple[float, float]] = []
    for x, y in sorted([(0.0, start), *points]):
        if hull and y <= hull[-1][1]:
            continue
        while hull and (x <= hull[-1][0] or _is_below(hull, (x, y))):
            hull.pop()
        hull.append((x, y))
    grid = np.union1d([0.0, budget], [x for x, _ in hull if x < budget])
    values = np.interp(grid, [x for x, _ in hull], [y for _, y in hull])
    return float(np.trapezoid(values, grid) / budget)


def _is_below(hull: Sequence[tuple[float, float]], new: tuple[float, float]) -> bool:
    """Whether the last corner lies below the line from the one before it to a new point."""
    if len(hull) < 2:
        return False
    (x0, y0), (x1, y1) = hull[-2:]
    return (y1 - y0) * (new[0] - x0) <= (new[1] - y0) * (x1 - x0)


def starting_point(task: str, dataset_name: str, seed: int, out: Path, start: Path) -> dict[str, Any]:
    """The supervised model, measured as a final policy is."""
    keys = {"algorithm": "supervised+nlpo", "supervised_model": start, "output_dir": "runs"}
    chosen = recipe(task, dataset_name, seed, out, **keys)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    rows = load_splits(chosen.arguments, seed).test
    tokenizer = AutoTokenizer.from_pretrained(start, padding_side="left")
    found = held_out(chosen, rows, model, model, tokenizer, judge_of(task, out))
    return {"task": task, "arm": "supervised", "beta": 0.0, "seed": seed, **found}


def run_seed(task: str, dataset_name: str, seed: int, out: Path, arms: Sequence[str]) -> None:
    """What is left of a seed's cells; those that another process has are its own."""
    start = supervised(task, dataset_name, seed, out)
    cells: list[tuple[str, float]] = [("supervised", 0.0), *((arm, beta) for beta in BETAS for arm in arms)]
    for arm, beta in cells:
        path = out / task / "cells" / f"{arm.replace(' ', '')}-{beta:g}-{seed}.json"
        with locked(path.with_suffix(".lock"), wait=False) as mine:
            if not mine or path.is_file():
                continue
            found = (
                starting_point(task, dataset_name, seed, out, start)
                if arm == "supervised"
                else run(task, dataset_name, arm, beta, seed, out, start)
            )
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found) + "\n")
            part.replace(path)
            shown = {name: value for name, value in found.items() if name not in ("curve", "mass")}
            print(json.dumps(shown, ensure_ascii=False), flush=True)


def records(out: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / task / "cells").glob("*.json"))]


def areas(found: Sequence[dict[str, Any]], endpoint: str, budget: float) -> dict[str, dict[int, float]]:
    """Of each arm and each seed with all of its cells the area under the frontier."""
    start = {record["seed"]: record[endpoint] for record in found if record["arm"] == "supervised"}
    table: dict[str, dict[int, float]] = {}
    for arm in ARMS:
        for seed, value in sorted(start.items()):
            points = [(r["kl"], r[endpoint]) for r in found if r["arm"] == arm and r["seed"] == seed]
            if len(points) == len(BETAS):
                table.setdefault(arm, {})[seed] = area_under_frontier(points, value, budget)
    return table


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, step by step from the smallest (Holm 1979)."""
    order = np.argsort(p_values)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = largest
    return adjusted


def report(task: str, found: Sequence[dict[str, Any]], control: str = "no mask") -> str:
    """Tables: areas of each endpoint, differences from a control arm, and what each β gave."""
    lines: list[str] = []
    budget = BUDGETS.get(task)
    for endpoint in ("reward", "judge") if budget is not None else ():
        table = areas(found, endpoint, budget)
        if control not in table:
            continue
        others = [arm for arm in table if arm != control]
        shared = sorted(set.intersection(*(set(values) for values in table.values())))
        differences = {arm: [table[arm][seed] - table[control][seed] for seed in shared] for arm in others}
        tests = dict(zip(others, sign_flip_tests([differences[arm] for arm in others]), strict=True))
        adjusted = dict(zip(others, holm([test.p_value for test in tests.values()]), strict=True))
        lines += [
            f"### {endpoint}: area under the frontier up to {budget:g} nats, {len(shared)} seeds", "",
            f"| arm | IQM | interval | less {control} | interval | p (Holm) | seeds above |",
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for arm in table:
            values = [table[arm][seed] for seed in shared]
            low, high = interval_of_interquartile_mean([values])
            cells = [f"{interquartile_mean(values):.4f}", f"{low:.4f} to {high:.4f}"]
            if arm == control:
                cells += ["", "", "", ""]
            else:
                mine = differences[arm]
                rng = np.random.default_rng(0)
                means = rng.choice(mine, (10_000, len(mine))).mean(1)
                least, most = np.percentile(means, [2.5, 97.5])
                cells += [
                    f"{tests[arm].difference:+.4f}", f"{least:+.4f} to {most:+.4f}", f"{adjusted[arm]:.4f}",
                    f"{tests[arm].above} of {len(mine)}",
                ]  # fmt: skip
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
        lines.append("")
    if budget is None:
        lines += [f"No areas: {task} needs a pilot seed first, which decides K (BUDGETS).", ""]
    lines += [
        "### Every β",
        "",
        "| arm | β | runs | KL | reward | judge | tokens | entropy | mean in training |",
        "|---" * 9 + "|",
    ]
    for arm in ("supervised", *ARMS):
        for beta in sorted({record["beta"] for record in found if record["arm"] == arm}):
            mine = [record for record in found if record["arm"] == arm and record["beta"] == beta]
            cells = [
                f"{statistics.fmean(r[name] for r in mine):.3f}"
                for name in ("kl", "reward", "judge", "tokens", "entropy")
            ]
            curves = [statistics.fmean(r["curve"]) for r in mine if r.get("curve")]
            cells.append(f"{statistics.fmean(curves):.3f}" if curves else "")
            lines.append(f"| {arm} | {beta:g} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="12", help="how many, or FROM:TO")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--dataset_name", default="miniature", help="a folder with the task's rows")
    parser.add_argument("--json", type=Path, help="write all cells there")
    parser.add_argument("--report", action="store_true", help="only the tables")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    if not options.report:
        train_classifiers(options.task, options.dataset_name, options.out)
        first, _, last = options.seeds.rpartition(":")
        for seed in range(int(first or 0), int(last)):
            run_seed(options.task, options.dataset_name, seed, options.out, options.arms)
    found = records(options.out, options.task)
    if options.json:
        options.json.write_text(
            "[\n" + ",\n".join(json.dumps(record, ensure_ascii=False) for record in found) + "\n]\n"
        )
    print(report(options.task, found))


if __name__ == "__main__":
    main()
