"""Small runs under FSDP2 on a CPU: `torchrun ... several_processes_fsdp.py FOLDER SCENARIO ...`.

accelerate runs FSDP on accelerators only, and trains with DDP on a CPU without a word. PyTorch's FSDP2 itself runs on
a CPU with gloo, so accelerate is made to go its way to it here; nothing else is changed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

import several_processes
from trl_nlpo import fsdp


SCENARIOS = [
    "value head", "value model", "adapters", "adapters, checkpointing", "encoder-decoder", "minibatches",
    "clipped microbatches",
]  # fmt: skip


def allow_fsdp_on_a_cpu():
    start = AcceleratorState.__init__

    def started(self, *args, fsdp_plugin=None, **kwargs):
        start(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)

    AcceleratorState.__init__ = started
    fsdp.is_on_accelerators = lambda: True


def main(folder):
    allow_fsdp_on_a_cpu()
    rank, num_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    found = {name: several_processes.run(name, folder, num_processes, rank) for name in sys.argv[2:]}
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
