"""What choices buy: a reward model of simulated choices against supervised training on more references.

    python benchmarks/preferences.py runs/preferences --dataset_name FOLDER --seeds 5    # resumable
    python benchmarks/preferences.py runs/preferences --report                           # what is there

CommonGen's tiny preset. The hidden metric is overlap with the references (rougeL), which no policy is trained on: a
judge that sees it answers which of four completions is best and errs in a fifth of its answers. Arms, of a seed:

- `supervised`: the start of all others;
- `more references`: supervised on `MORE` times as many rows (the paper's question, section 5.2);
- `offline`: reinforcement on a reward model of all labels, asked before the first update;
- `online`: the same number of labels, most of them asked while the policy trains (Ziegler's question);
- `hidden`: reinforcement on the hidden metric itself, normalized to the variance of a reward model, so that the same
  `kl_coef` weighs as much: what a perfect reward model would give.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path


LABELS, NOISE, MORE, ROWS = 1000, 0.2, 5, 400
COMMON = {
    "preset": "tiny", "max_prompt_length": 40, "response_length": 24, "max_position_embeddings": 128,
    "supervised_all_references": "true", "supervised_num_train_epochs": 5, "max_test_samples": 200,
    "max_eval_samples": 50, "max_steps": 60, "learning_rate": 3e-4, "kl_coef": 0.05, "eval_strategy": "no",
    "save_strategy": "no", "rewards": "rougeL", "disable_tqdm": "true",
}  # fmt: skip
COLLECT = {
    "num_labels": LABELS, "noise": NOISE, "reward_learning_rate": 1e-3, "reward_epochs": 3, "num_completions": 4,
}  # fmt: skip
ARMS = {
    "more references": ("run", {"algorithm": "supervised", "max_train_samples": ROWS * MORE}),
    "offline": ("collect", {**COLLECT, "retrainings": 0, "initial_labels": LABELS, "max_train_samples": ROWS}),
    "online": ("collect", {**COLLECT, "retrainings": 4, "max_train_samples": ROWS}),
    "hidden": ("run", {"algorithm": "supervised+nlpo", "max_train_samples": ROWS, "normalize_rewards": "true"}),
}


def run(arm: str, seed: int, out: Path, dataset_name: str) -> None:
    """A run of the command line in a process of its own, unless it is finished; of a seed all start from one model."""
    folder = out / arm.replace(" ", "-") / str(seed)
    if (folder / "finished").is_file():
        return
    command, keys = ARMS[arm]
    keys = {**COMMON, **keys, "seed": seed, "dataset_name": dataset_name, "output_dir": str(folder)}
    start = out / "online" / str(seed) / "supervised"
    if arm in ("offline", "hidden") and start.is_dir():
        keys["supervised_model"] = str(start)
    words = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
    print(f"{arm}, seed {seed} ...", flush=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with (out / "log.txt").open("a") as log:
        subprocess.run(
            [sys.executable, "-m", "trl_nlpo", command, "commongen", "--overwrite", *words],
            check=True, stdout=log, stderr=log, env=environment,
        )  # fmt: skip
    (folder / "finished").touch()


def stages(out: Path, arm: str, seed: int) -> dict[str, dict[str, float]]:
    path = out / arm.replace(" ", "-") / str(seed) / "results.json"
    return json.loads(path.read_text())["stages"] if path.is_file() else {}


def report(out: Path, seeds: int) -> str:
    """Of each arm the hidden metric and the perplexity on the test prompts, and the last reward model's accuracy."""
    rows: dict[str, list[dict[str, float]]] = {"supervised": []}
    for seed in range(seeds):
        for arm in ARMS:
            found = stages(out, arm, seed)
            if arm == "online" and "supervised" in found:
                rows["supervised"].append(found["supervised"])
            if found:
                rows.setdefault(arm, []).append(found[list(found)[-1]])
    lines = ["| arm | seeds | rougeL (hidden) | perplexity | tokens |", "|---|---|---|---|---|"]
    for arm, measured in rows.items():
        cells = [_cell([row[name] for row in measured if name in row]) for name in ("reward", "perplexity")]
        lengths = [row.get("completions/mean_length", row.get("tokens", float("nan"))) for row in measured]
        lines.append(f"| {arm} | {len(measured)} | {cells[0]} | {cells[1]} | {_cell(lengths)} |")
    lines += [
        "",
        "| arm | after update | labels | accuracy (chance 0.25) | the judge's score |",
        "|---|---|---|---|---|",
    ]
    for arm in ("offline", "online"):
        lines += _rounds(out, arm, seeds)
    return "\n".join(lines)


def _rounds(out: Path, arm: str, seeds: int) -> list[str]:
    histories = []
    for seed in range(seeds):
        path = out / arm / str(seed) / "collection.jsonl"
        if path.is_file():
            histories.append([json.loads(line) for line in path.read_text().splitlines()])
    lines = []
    for parts in zip(*histories, strict=False):
        accuracy, score = (_cell([part[name] for part in parts]) for name in ("accuracy", "judge_score"))
        lines.append(f"| {arm} | {parts[0]['update']} | {parts[0]['labels']} | {accuracy} | {score} |")
    return lines


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dataset_name", default="miniature", help="a folder with commongen_train.jsonl and so on")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        for seed in range(arguments.seeds):
            for arm in ("online", "offline", "hidden", "more references"):
                run(arm, seed, arguments.out, arguments.dataset_name)
    print(report(arguments.out, arguments.seeds))


if __name__ == "__main__":
    main()
