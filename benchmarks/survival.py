"""Is a run that is killed again and again equal to one that is not? To the last bit, or this exits with 1.

    python benchmarks/survival.py                 # 20 kills
    python benchmarks/survival.py --kills 3 --seed 1

A tiny recipe (supervised+nlpo from random weights, with a reward that draws from the global random generators) runs
once without a break. Then it runs again and gets `kill -9` at random moments, one in each of as many equal parts of
the run, in turn during rollouts, updates, evaluations, the writing and renaming of checkpoints, and the supervised
stage; each time it is resumed with `--resume`. At the end the weights of policy and value function, the optimizer's
state, the random states, the metrics log and the results are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml


ROOT = Path(__file__).resolve().parent.parent

RECIPE = {
    "algorithm": "supervised+nlpo",
    "dataset_name": "quickstart",
    "max_train_samples": 64,
    "max_eval_samples": 8,
    "max_test_samples": 8,
    "rewards": ["pleasant_sentence", {"name": "survival.noise", "weight": 0.5}],
    "model_type": "gpt2",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 192,
    "supervised_num_train_epochs": 1,
    "supervised_learning_rate": 1e-3,
    "supervised_batch_size": 8,
    "response_length": 24,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "max_steps": 20,
    "mask_sync_steps": 3,
    "kl_target": 1.0,
    "learning_rate": 1e-3,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 2,
    "load_best_model_at_end": True,
    "use_cpu": True,
    "bf16": False,
}

TIMES = {"started", "run", "time", "eps", "seconds"}
TIME_ENDINGS = ("_runtime", "_per_second")


def noise(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward that no run gets right by accident: it draws from the generators of Python, NumPy and PyTorch."""
    import numpy
    import torch

    return [random.random() + numpy.random.rand() + float(torch.rand(())) for _ in completions]


# In the run's own process


def run_announcing(recipe: str, resume: bool, pipe: int) -> None:
    """Run the command line, and write a line to `pipe` whenever a phase begins."""
    from transformers import Trainer

    from trl_nlpo import cli
    from trl_nlpo.experiment import experiment
    from trl_nlpo.trainer import checkpoints as trainer_checkpoints
    from trl_nlpo.trainer.nlpo import NLPOTrainer

    def announce(phase: str, number: Any) -> None:
        os.write(pipe, f"{phase}:{number}\n".encode())

    def announced(owner: Any, name: str, phase: str, number: Any) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            announce(phase, number(args))
            result = function(*args, **kwargs)
            announce(f"after {phase}", number(args))
            return result

        setattr(owner, name, call)

    steps = iter(range(10**9))
    announced(Trainer, "training_step", "supervised step", lambda args: next(steps) // 2)
    for name, phase in {
        "collect_rollout": "rollout",
        "update_policy": "update",
        "_save_checkpoint": "checkpoint",
        "evaluate": "evaluation",
    }.items():
        announced(NLPOTrainer, name, phase, lambda args: args[0].state.global_step)
    announced(trainer_checkpoints, "publish_checkpoint", "renaming", lambda args: args[1])
    announced(experiment, "_evaluate", "test", lambda args: args[1])
    sys.argv = ["trl-nlpo", "run", recipe, *(["--resume"] if resume else [])]
    cli.main()


# In the watching process


def start(recipe: Path, resume: bool) -> tuple[subprocess.Popen, Any]:
    """A process that runs the recipe, and the reading end of its announcements."""
    reading, writing = os.pipe()
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, __file__, "--recipe", str(recipe), "--pipe", str(writing), *(["--resume"] if resume else [])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=recipe.parent,
        pass_fds=[writing],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.close(writing)
    return process, os.fdopen(reading, "rb", buffering=0)


def run_unbroken(recipe: Path) -> list[tuple[str, float]]:
    """Run to the end; the phases in their order, each with its seconds."""
    process, announcements = start(recipe, resume=False)
    with announcements:
        seen = [(line.decode().strip(), time.perf_counter()) for line in announcements]
    _check_ended(process)
    ends = [moment for _, moment in seen[1:]] + [seen[-1][1]]
    return [(phase, end - moment) for (phase, moment), end in zip(seen, ends, strict=True)]


def choose_moments(phases: list[tuple[str, float]], num_kills: int, dice: random.Random) -> list[tuple[str, float]]:
    """A phase, and seconds from its beginning, in each of `num_kills` equal parts of the run.

    Within a part the kind of phase that has been hit least is taken, so that short ones get their share.
    """
    hits: Counter[str] = Counter()
    moments = []
    for part in range(num_kills):
        bounds = part * len(phases) // num_kills, (part + 1) * len(phases) // num_kills
        candidates = phases[bounds[0] : max(bounds[1], bounds[0] + 1)]
        dice.shuffle(candidates)
        phase, seconds = min(candidates, key=lambda candidate: hits[_kind(candidate[0])])
        hits[_kind(phase)] += 1
        moments.append((phase, dice.random() * seconds))
    return moments


def run_and_kill(recipe: Path, resume: bool, phase: str, delay: float) -> str:
    """Start or resume, and kill -9 `delay` seconds into a phase; what was being done then."""
    process, announcements = start(recipe, resume)
    with announcements:
        for line in announcements:
            if line.decode().strip() == phase:
                # At the end of the phase at the latest, should it be over sooner than the last time.
                select.select([announcements], [], [], delay)
                process.send_signal(signal.SIGKILL)
                process.wait()
                last = [line, *announcements][-1]
                process.communicate()
                return last.decode().strip()
    _check_ended(process)
    return NOT_KILLED


def _check_ended(process: subprocess.Popen) -> None:
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"The run failed with {process.returncode}:\n{output}")


def _kind(phase: str) -> str:
    return "between" if phase.startswith("after ") else phase.partition(":")[0]


def differences(first: Path, second: Path) -> list[str]:
    """What is not equal in two run folders, apart from times; nothing when all is."""
    found = [f"{name} differs" for name in WEIGHTS if not _same_tensors(first / name, second / name)]
    checkpoints = [sorted(path.name for path in folder.glob("checkpoint-*")) for folder in (first, second)]
    if checkpoints[0] != checkpoints[1]:
        return [*found, f"checkpoints {checkpoints[0]} and {checkpoints[1]}"]
    for checkpoint in checkpoints[0]:
        names = [f"{checkpoint}/{name}" for name in (*WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth")]
        found += [f"{name} differs" for name in names if not _same_tensors(first / name, second / name)]
    for name, ours, theirs in zip(RECORDS, _records(first), _records(second), strict=True):
        if ours != theirs:
            where = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
            found.append(f"{name} differs, {len(ours)} and {len(theirs)} lines, first at {where}")
    return found


NOT_KILLED = "not killed, it was past that"
RECORDS = ("metrics.jsonl", "samples.jsonl", "results.json")
WEIGHTS = ("model.safetensors", "value_model/value_model.safetensors")


def _same_tensors(first: Path, second: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    if first.suffix == ".safetensors":
        ours, theirs = load_file(first), load_file(second)
        return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (torch.load(path, weights_only=False) for path in (first, second))
    return _equal(ours, theirs)


def _equal(first: Any, second: Any) -> bool:
    import numpy
    import torch

    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, numpy.ndarray):
        return bool(numpy.array_equal(first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    return first == second


def _records(folder: Path) -> list[list[str]]:
    """The values of each of `RECORDS` as lines of JSON, which writes every float with all its digits."""
    from trl_nlpo.storage.results import RunResults

    run = RunResults.read(folder)
    results = {"stages": run.stages, "better": run.better, "log_lines": run.log_lines}
    return [
        [json.dumps(_timeless(value), sort_keys=True) for value in kept] for kept in (run.log, run.samples, [results])
    ]


def _timeless(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _timeless(item) for key, item in value.items() if key not in TIMES and not key.endswith(TIME_ENDINGS)}


def survive(folder: Path, num_kills: int, seed: int) -> tuple[int, list[str]]:
    """All of the measurement in `folder`; how often the run was killed, and the differences found."""
    recipes = []
    for name in ("unbroken", "killed"):
        recipes.append(folder / f"{name}.yaml")
        recipes[-1].write_text(yaml.safe_dump({**RECIPE, "output_dir": str(folder / name)}), encoding="utf-8")
    begin = time.perf_counter()
    phases = run_unbroken(recipes[0])
    print(f"unbroken run: {len(phases)} phases, {time.perf_counter() - begin:.1f} s")
    killed = 0
    for number, (phase, delay) in enumerate(choose_moments(phases, num_kills, random.Random(seed))):
        seen = run_and_kill(recipes[1], number > 0, phase, delay)
        killed += seen != NOT_KILLED
        lines = folder / "killed" / "metrics.jsonl"
        count = len(lines.read_bytes().split(b"\n")) - 1 if lines.is_file() else 0
        print(f"kill {number + 1:2d}: {delay * 1000:6.1f} ms into {phase:30s} last seen: {seen:30s} {count} log lines")
    process, announcements = start(recipes[1], resume=True)
    with announcements:
        _check_ended(process)
    return killed, differences(folder / "unbroken", folder / "killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    parser.add_argument("--pipe", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--resume", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.recipe:
        run_announcing(arguments.recipe, arguments.resume, arguments.pipe)
        return
    with tempfile.TemporaryDirectory() as folder:
        killed, found = survive(Path(folder), arguments.kills, arguments.seed)
    print("\n".join(found) or f"{killed} kills: weights, optimizer, random states, log and results are equal.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
