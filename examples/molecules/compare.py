"""How many molecules must be scored before good ones are found: NLPO, PPO and REINVENT from one supervised model.

    python compare.py results --prior runs/recipe/supervised --seeds 10      # resumable: finished runs are kept
    python compare.py results --report                                       # the tables of what is there

Every run scores the same number of molecules, by their similarity to celecoxib, and pays for none twice
(`DiversityMemory`). The measure is that of the Practical Molecular Optimization benchmark (Gao et al. 2022): the mean
similarity of the 100 (10) best different molecules so far, averaged over the run; what is no molecule, or is repeated,
counts as scored. A learning rate of a grid is chosen for each method by the same measure on two other seeds.
`prior` and `prior_top_p` sample without learning.

Each run is a file of its own, `<method>-<rate>-<seed>.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from datasets import Dataset
from molecule_rewards import DiversityMemory, Similarity, canonical, scaffold
from reinvent import ReinventTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.errors import UserError
from trl_nlpo.grid.significance import sign_flip_tests
from trl_nlpo.storage.files import replace_file


SIGMA = 120.0
BATCH = 32
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
TUNING_SEEDS = (1000, 1001)
SEEDS_OF_INTERVALS = 6
"""With fewer no exact test can reject anything."""

PPO = {"mask_strategy": "none", "num_ppo_epochs": 4}
NLPO = {"mask_strategy": "top_p", "mask_top_p": 0.9, "mask_sync_steps": 20, "num_ppo_epochs": 4}
METHODS: dict[str, dict[str, Any]] = {
    # Without learning: from all tokens, and from those that NLPO's mask would allow.
    "prior": PPO,
    "prior_top_p": {**PPO, "generation_kwargs": {"top_p": 0.9}},
    # Olivecrona et al. 2017: one step for a batch, no critic.
    "reinvent": {"mask_strategy": "none", "num_ppo_epochs": 1, "vf_coef": 0.0},
    "ppo": PPO,
    # The package's defaults.
    "nlpo": NLPO,
    # The reward of the last token reaches all tokens alike, as in REINVENT, and not through a critic that is new.
    "ppo_lam1": {**PPO, "lam": 1.0},
    "nlpo_lam1": {**NLPO, "lam": 1.0},
    # The objective of the paper, without the anchor of the mask.
    "nlpo_paper": {**NLPO, "mask_anchor_coef": 0.0},
}
UNTRAINED = ("prior", "prior_top_p")


@dataclass
class Found:
    """What has been scored, in its order.

    Attributes:
        completions (`list[str]`), scores (`list[float]`): one of each, whatever the memory pays.
    """

    completions: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def scored_by(self, reward: Any) -> Any:
        """The same reward, and everything that it is asked about is noted here."""

        def noting(completions: list[str], **columns: Any) -> list[float]:
            scores = reward(completions=completions, **columns)
            self.completions += completions
            self.scores += scores
            return scores

        return noting


def best_means(molecules: Sequence[str | None], scores: Sequence[float], k: int, step: int) -> list[float]:
    """After every `step` molecules the mean score of the `k` best different ones so far; fewer count as k with zeros.

    Args:
        molecules (`Sequence[str]`): canonical SMILES, None for what is no molecule.
        scores (`Sequence[float]`)
        k, step (`int`)
    """
    best: dict[str, float] = {}
    means = []
    for number, (smiles, score) in enumerate(zip(molecules, scores, strict=True), start=1):
        if smiles is not None:
            best[smiles] = score
        if number % step == 0:
            means.append(sum(sorted(best.values(), reverse=True)[:k]) / k)
    return means


def area_under(means: Sequence[float]) -> float:
    """The area under a curve of equal steps that starts at 0, by trapezoids, for a run of length 1."""
    return sum((before + after) / 2 for before, after in zip([0.0, *means], means)) / len(means)  # noqa: B905


def trained(method: str, prior: Path, seed: int, rate: float, updates: int, reward: Any) -> None:
    """Sample and score `updates` batches, and learn from each."""
    policy = AutoModelForCausalLM.from_pretrained(prior)
    tokenizer = AutoTokenizer.from_pretrained(prior, padding_side="left")
    with tempfile.TemporaryDirectory() as folder:
        args = NLPOConfig(
            output_dir=folder, seed=seed, learning_rate=rate, lr_scheduler_type="constant", max_steps=updates,
            per_device_train_batch_size=BATCH, num_mini_batches=1, response_length=64, temperature=1.0,
            stop_token="eos", gamma=1.0, kl_coef=1 / SIGMA, report_to="none", save_strategy="no", disable_tqdm=True,
            num_sample_generations=0, use_cpu=True, **METHODS[method],
        )  # fmt: skip
        made, options = (ReinventTrainer, {"sigma": SIGMA}) if method == "reinvent" else (NLPOTrainer, {})
        trainer = made(
            args=args, processing_class=tokenizer, model=policy, reward_funcs=reward,
            train_dataset=Dataset.from_dict({"prompt": [""] * BATCH}), **options,
        )  # fmt: skip
        if method in UNTRAINED:
            for batch in trainer.get_train_dataloader():
                trainer.score_rollout(trainer.collect_rollout(batch))
        else:
            trainer.train()


def digest(model: Path) -> str:
    """What tells a model's weights from others."""
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:12]


def run(out: Path, method: str, prior: Path, seed: int, rate: float, updates: int) -> dict[str, Any]:
    """A run, or what it gave when it was run before.

    Raises:
        UserError: it was run with another number of molecules or another supervised model.
    """
    path = out / f"{method}-{rate:g}-{seed}.json"
    settings = {"scored": updates * BATCH, "prior": digest(prior)}
    if path.is_file():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if record[name] != value:
                raise UserError(f"{path} is of another comparison: {name} is {record[name]!r} there, here {value!r}.")
        return record
    start = time.time()
    found = Found()
    reward = DiversityMemory(found.scored_by(Similarity()))
    trained(method, prior, seed, rate, updates, reward)
    molecules = [canonical(smiles) for smiles in found.completions]
    top10, top100 = (best_means(molecules, found.scores, k, BATCH) for k in (10, 100))
    real = [smiles for smiles in molecules if smiles is not None]
    best = dict(sorted(zip(molecules, found.scores, strict=True), key=lambda pair: pair[1]))
    record = {
        "method": method, "rate": rate, "seed": seed, **settings,
        "auc_top100": round(area_under(top100), 5), "auc_top10": round(area_under(top10), 5),
        "last_batches": round(statistics.fmean(found.scores[-8 * BATCH :]), 5),
        "valid": round(len(real) / len(molecules), 4), "different": len(set(real)),
        "scaffolds": len({scaffold(smiles) for smiles in set(real)}), "best": list(best)[-1],
        "curve_top100": [round(value, 4) for value in top100], "curve_top10": [round(value, 4) for value in top10],
        "seconds": round(time.time() - start, 1),
    }  # fmt: skip
    replace_file(path, json.dumps(record) + "\n")
    print({name: value for name, value in record.items() if not name.startswith("curve")}, flush=True)
    return record


def best_rate(records: Sequence[dict[str, Any]], method: str) -> float | None:
    """The rate with the largest area on the tuning seeds; None where one of the grid is not done."""
    means = {}
    for rate in RATES:
        values = [
            r["auc_top100"] for r in records
            if r["method"] == method and r["rate"] == rate and r["seed"] in TUNING_SEEDS
        ]  # fmt: skip
        if len(values) < len(TUNING_SEEDS):
            return None
        means[rate] = statistics.fmean(values)
    return max(means, key=lambda rate: means[rate])


def run_all(out: Path, prior: Path, methods: Sequence[str], seeds: int, updates: int) -> None:
    """Rates first, then seed by seed all methods, so that what is there at any time can be compared."""
    rates = dict.fromkeys(UNTRAINED, 0.0)
    for method in methods:
        if method not in UNTRAINED:
            records = [run(out, method, prior, seed, rate, updates) for seed in TUNING_SEEDS for rate in RATES]
            rates[method] = best_rate(records, method) or RATES[0]
    for seed in range(seeds):
        for method in methods:
            run(out, method, prior, seed, rates[method], updates)


def report(out: Path) -> str:
    """Tables: the rates' areas on the tuning seeds, each method over its seeds, and differences paired by seed."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    lines = ["| method | " + " | ".join(f"rate {rate:g}" for rate in RATES) + " |", "|---" * (len(RATES) + 1) + "|"]
    by_seed: dict[str, dict[int, dict[str, Any]]] = {}
    for method in METHODS:
        own = [r for r in records if r["method"] == method]
        tuned = [[r["auc_top100"] for r in own if r["rate"] == rate and r["seed"] in TUNING_SEEDS] for rate in RATES]
        if any(tuned):
            cells = [f"{statistics.fmean(values):.4f}" if values else "" for values in tuned]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        by_seed[method] = {r["seed"]: r for r in own if r["seed"] not in TUNING_SEEDS}
    lines += [
        "", "| method | rate | seeds | AUC top-100 | AUC top-10 | top-100 at the end | mean of the last 256 | valid "
        "| different | scaffolds | seconds |", "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for method, runs in by_seed.items():
        if runs:
            lines.append(_row(method, list(runs.values())))
    seeds = sorted(set.intersection(*(set(runs) for runs in by_seed.values() if runs)))
    names = [method for method, runs in by_seed.items() if runs]
    pairs = [(a, b) for number, b in enumerate(names) for a in names[number + 1 :]]
    if len(seeds) < SEEDS_OF_INTERVALS:
        lines += ["", f"{len(seeds)} seeds that all methods have: differences are given from {SEEDS_OF_INTERVALS}."]
    elif pairs:
        lines += [
            "", f"| AUC top-100, {len(seeds)} seeds | difference | interval | p | p (max-T) | seeds above |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        scores = {name: [by_seed[name][seed]["auc_top100"] for seed in seeds] for name in names}
        tests = sign_flip_tests([[x - y for x, y in zip(scores[a], scores[b], strict=True)] for a, b in pairs])
        for (a, b), found in zip(pairs, tests, strict=True):
            interval = f"{found.low:+.4f} to {found.high:+.4f}"
            p = f"{found.p_value:.4f} | {found.p_adjusted:.4f} | {found.above}"
            lines.append(f"| {a} - {b} | {found.difference:+.4f} | {interval} | {p} |")
    return "\n".join(lines)


def _row(method: str, runs: list[dict[str, Any]]) -> str:
    def spread(values: list[float], digits: int) -> str:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"

    columns = [
        spread([r["auc_top100"] for r in runs], 4), spread([r["auc_top10"] for r in runs], 4),
        spread([r["curve_top100"][-1] for r in runs], 4), spread([r["last_batches"] for r in runs], 3),
        spread([r["valid"] for r in runs], 3), spread([r["different"] for r in runs], 0),
        spread([r["scaffolds"] for r in runs], 0), f"{statistics.fmean(r['seconds'] for r in runs):.0f}",
    ]  # fmt: skip
    rate = f"{runs[0]['rate']:g}" if method not in UNTRAINED else ""
    return f"| {method} | {rate} | {len(runs)} | " + " | ".join(columns) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--prior", type=Path, help="folder of the supervised model")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=32)
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    if unknown := [name for name in methods if name not in METHODS]:
        parser.error(f"unknown method {unknown[0]!r}: take some of {', '.join(METHODS)}.")
    if not arguments.report:
        if arguments.prior is None or not arguments.prior.is_dir():
            parser.error(f"--prior {arguments.prior} is no folder: give that of the supervised model.")
        transformers_logging.set_verbosity_error()
        arguments.out.mkdir(parents=True, exist_ok=True)
        try:
            run_all(arguments.out, arguments.prior, methods, arguments.seeds, arguments.updates)
        except UserError as error:
            parser.error(str(error))
    print(report(arguments.out))


if __name__ == "__main__":
    main()
