"""Processes started by torchrun on this machine, as of one machine or of two, and a recipe for them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import torch
from accelerate import PartialState


TESTS = Path(__file__).parent.parent


TOLERANCE = {"rtol": 1e-3, "atol": 2e-5}
"""Sums over eight rows in another order, through three updates of Adam, which divides by small numbers."""


def launch(*words, cwd=None, environment=()):
    """`torchrun` with two processes on this machine; returns what came of it."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *map(str, words)],
        capture_output=True,
        text=True,
        env=_environment(environment),
        cwd=cwd,
        timeout=400,
    )


def _environment(more):
    paths = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    return {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **dict(more)}


class Nodes:
    """Two nodes of two processes each, which find each other by torchrun's rendezvous on loopback.

    A node can die as a machine does: launcher and processes at once, without a word to anybody.
    """

    def __init__(self, *words, cwd, environment=()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.logs = [Path(cwd) / f"node{number}.log" for number in (0, 1)]
        self.running = []
        for number, log in enumerate(self.logs):
            command = [
                sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "2",
                "--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "two",
                # The first is where the endpoint is; both know themselves by the same name here.
                "--rdzv_conf", f"is_host={int(number == 0)}", "--local_addr", "127.0.0.1", *map(str, words),
            ]  # fmt: skip
            with log.open("w") as file:
                self.running.append(
                    subprocess.Popen(
                        command,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        env=_environment(environment),
                        cwd=cwd,
                        start_new_session=True,
                    )
                )

    def kill(self, number):
        """As a machine that loses its power."""
        launcher = psutil.Process(self.running[number].pid)
        # All stand still first, so that none sees another's end.
        all_of_them = (launcher, *launcher.children(recursive=True))
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in all_of_them:
                act(process)

    def wait(self, timeout):
        """The exit codes; nothing is left running."""
        try:
            return [node.wait(timeout) for node in self.running]
        finally:
            for number, node in enumerate(self.running):
                if node.poll() is None:
                    self.kill(number)

    def said(self, number):
        return self.logs[number].read_text()


def leave_together():
    """End a script that `launch` started, as the command line ends one of several processes.

    Where Python's interpreter is taken down, a thread of PyTorch's process group aborts the process once in many runs.
    """
    PartialState().wait_for_everyone()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def assert_close(ours, theirs, what):
    assert ours.keys() == theirs.keys(), what
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], **TOLERANCE, msg=lambda text, key=key: f"{what} {key}: {text}")


TINY_RECIPE = {
    "algorithm": "supervised+nlpo", "dataset_name": "quickstart", "max_train_samples": 32, "max_eval_samples": 7,
    "max_test_samples": 7,
    "rewards": ["grammatical", {"name": "rewards_of_two.words", "weight": 2}], "model_type": "gpt2", "vocab_size": 300,
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 192,
    "supervised_num_train_epochs": 2, "supervised_learning_rate": 1e-3, "supervised_batch_size": 4,
    "response_length": 8, "temperature": 0.9, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4,
    "num_ppo_epochs": 2, "learning_rate": 1e-3, "max_steps": 3, "eval_strategy": "steps", "eval_steps": 1,
    "save_strategy": "steps", "save_steps": 1, "use_cpu": True, "bf16": False,
}  # fmt: skip


REWARDS_OF_TWO = """
import json
import os


def words(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


def moody(completions, trainer_state, **kwargs):
    if trainer_state is not None and trainer_state.global_step >= 1 and os.environ["RANK"] == "1":
        raise ZeroDivisionError("tired")
    return words(completions)
"""
