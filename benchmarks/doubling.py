"""Seconds per update of NLPO, and twice the completions, their length or the vocabulary: each as a ratio.

    python benchmarks/doubling.py --layers 4 --hidden 128 --vocabulary 4096 --rounds 3

The sizes, and how they are measured, are those of `update_time.py`; a ratio of 2 is linear.
"""

from __future__ import annotations

import argparse
import copy
import statistics

import torch
from update_time import Workload, nlpo_seconds, parse


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    cases = {"as given": args}
    for name in ("batch", "response", "vocabulary"):
        cases[f"twice the {name}"] = doubled(args, name)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, sizes in cases.items():
            workload = Workload(sizes)
            seconds = [nlpo_seconds(workload, False, {"mask_sync_steps": None}, updates) for updates in (1, 3)]
            times[name].append((seconds[1] - seconds[0]) / 2)
    base = statistics.median(times["as given"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:24s} {median:7.2f} s  x {median / base:.2f}   {' '.join(f'{value:.2f}' for value in values)}")


def doubled(args: argparse.Namespace, name: str) -> argparse.Namespace:
    """The same sizes, one of them twice as large."""
    sizes = copy.copy(args)
    setattr(sizes, name, 2 * getattr(args, name))
    return sizes


if __name__ == "__main__":
    main()
