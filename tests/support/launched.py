"""Grids that are launched for real: their commands, in processes of their own, and how their jobs are reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from support.small_runs import TINY


ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}  # fmt: skip
PATIENCE = 900
CELLS = ("tiny/supervised/seed-0", "tiny/supervised+nlpo/seed-0")

SLOW_REWARD = """
import time

def slow(completions, **kwargs):
    time.sleep(0.1)
    return [len(set(text)) / 10 for text in completions]
"""


def write_recipe(folder, updates=40):
    """`tiny.yaml`: two cells, with a reward that leaves time for a signal, and a checkpoint every update."""
    keys = {key: value for key, value in TINY.items() if key != "algorithm"}
    keys |= {"rewards": ["slow_reward.slow"], "max_steps": updates, "eval_steps": 10, "save_steps": 1}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(keys | {"save_total_limit": 2}))
    (folder / "slow_reward.py").write_text(SLOW_REWARD)


def grue(folder, out, *words, environment=None):
    """The process of `trl-nlpo grue` on that recipe."""
    command = [sys.executable, "-m", "trl_nlpo", "grue", "--tasks", "tiny.yaml", "--algorithms", "supervised+nlpo"]
    return subprocess.Popen(
        [*command, "--seeds", "1", "--out", out, *words],
        cwd=folder,
        env=environment or ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Not deaf to Ctrl-C, also where a shell has the tests ignore it.
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c():
    """Give SIGINT its usual meaning."""
    import signal

    signal.signal(signal.SIGINT, signal.default_int_handler)


def finished(process):
    """Exit code and output of a process."""
    out, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, out


def wait_for(condition, process=None, what="it"):
    """Wait until something holds; fails when a process that it depends on has ended."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    return found


def checkpoint_of(cell):
    """The step of the newest checkpoint in a cell's folder; 0: there is none."""
    found = cell.glob("checkpoint-*/trainer_state.json")
    return max((int(path.parent.name.partition("-")[2]) for path in found), default=0)


def process_of(cell):
    """The number of the process that has a cell, or None."""
    lock = cell / "_lock.json"
    try:
        return json.loads(lock.read_text())["pid"]
    except (OSError, ValueError):
        return None


def parent_of(pid):
    """The number of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
