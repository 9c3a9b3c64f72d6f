"""What every test starts from: no network, one thread, a fixed random state."""

from __future__ import annotations

import os
import sys
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_random_state():
    torch.manual_seed(0)
