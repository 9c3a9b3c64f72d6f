"""Jobs on Ray: a task for each cell, on a cluster that is there or on this machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError, one_line
from ...naming import require_package
from ...storage.run_lock import Owner
from .job import CellJob, run_job
from .launcher import Submitted


@dataclass
class RayOptions:
    """What a cell takes of Ray's cluster."""

    address: str | None = field(
        default=None,
        metadata={
            "help": "Of the cluster. null: that of RAY_ADDRESS, one that runs on this machine, or a new one here."
        },
    )
    gpus: float | None = field(
        default=None, metadata={"help": "GPUs of a cell. null: one where the cluster has any, else none."}
    )
    cpus: float = field(default=1.0, metadata={"help": "CPU cores of a cell."})
    memory_gb: float | None = field(default=None, metadata={"help": "Memory of a cell in GB."})
    resources: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Resources of your own that a cell needs: {"a100": 1}.'}
    )


class RayLauncher:
    """Jobs as Ray tasks, which end with the command: a cell that runs is stopped with a checkpoint then.

    Args:
        options ([`RayOptions`])

    Raises:
        UserError: Ray is not installed, or its cluster cannot be reached.
    """

    name = "ray"
    queues = False
    goes_on = False
    most: int | None = None
    usual: int | None = None
    settling = 10.0

    def __init__(self, options: RayOptions):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # As by default until now: a task that asks for no GPU sees none.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        self._ray = require_package("ray", "--launcher ray", "ray")
        try:
            self._ray.init(address=options.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--launcher ray: the cluster cannot be reached: {one_line(error, 200)}") from None
        gpus = min(self._ray.cluster_resources().get("GPU", 0.0), 1.0) if options.gpus is None else options.gpus
        own = dict(options.resources or {})
        memory = None if options.memory_gb is None else int(options.memory_gb * 1e9)
        self._needs = {"CPU": options.cpus, "GPU": gpus, "memory": memory or 0, **own}
        self._task = self._ray.remote(
            max_retries=0, num_cpus=options.cpus, num_gpus=gpus, memory=memory, resources=own
        )(run_job)
        self._running: dict[str, Any] = {}

    def submit(self, jobs: Sequence[CellJob], after: Submitted | None) -> list[Submitted]:
        """As tasks; Ray starts each when there is room, and waits for a node that has what it needs."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        words = "a Ray task"
        if not fits(self._needs, nodes):
            words += f", which waits for a node with {_listed(self._needs)}: none has them"
        submitted = []
        for job in jobs:
            name = f"ray-{uuid.uuid4().hex[:12]}"
            self._running[name] = self._task.remote(job, name)
            submitted.append(Submitted(name, words))
        return submitted

    def find(self, record: Mapping[str, Any]) -> Submitted | None:
        """None is left by an earlier command."""
        return None

    def unfinished(self, jobs: Sequence[Submitted]) -> set[str]:
        """Those without a result or an error."""
        waited_for = {self._running[job.id]: job.id for job in jobs}
        _, unfinished = self._ray.wait([*waited_for], num_returns=len(waited_for), timeout=0) if jobs else ([], [])
        return {waited_for[task] for task in unfinished}

    def has_ended(self, job: Submitted, owner: Owner) -> bool:
        """Whether the lock is of this task and its node is no longer in the cluster."""
        alive = {node["NodeManagerHostname"] for node in self._ray.nodes() if node["Alive"]}
        return self.is_of(job, owner) and owner.host not in alive

    def is_of(self, job: Submitted, owner: Owner) -> bool:
        """By the name that the task was given."""
        return owner.job == job.id

    def last_words(self, job: Submitted) -> str:
        """The error of the task."""
        try:
            self._ray.get(self._running[job.id], timeout=0)
        except Exception as error:
            # Of a task that has raised, what it has raised.
            return one_line(getattr(error, "cause", None) or error, 300)
        return "the task has ended without an error"

    def leave(self, jobs: Sequence[Submitted]) -> str:
        """They are stopped, each with a checkpoint."""
        for job in jobs:
            self._ray.cancel(self._running[job.id])
        self._ray.wait([self._running[job.id] for job in jobs], num_returns=len(jobs), timeout=_PATIENCE)
        left = len(self.unfinished(jobs))
        stopped = f"{len(jobs) - left} Ray tasks were stopped, and resume from their newest checkpoints"
        return f"{stopped}; {left} are still stopping" if left else stopped


def fits(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether one of the nodes has all that a task needs, when nothing else runs there.

    Args:
        needs (`dict[str, float]`): resources by Ray's names: `CPU`, `GPU`, `memory` in bytes, and those of one's own.
        nodes (`list[dict[str, float]]`): what each of them has in all.
    """
    return any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes)


def _listed(needs: Mapping[str, float]) -> str:
    wanted = {name: amount for name, amount in needs.items() if amount}
    return ", ".join(
        f"{amount / 1e9:g} GB of memory" if name == "memory" else f"{name} {amount:g}"
        for name, amount in wanted.items()
    )


_PATIENCE = 600.0
"""Seconds for the updates and checkpoints of cells that are stopped."""
