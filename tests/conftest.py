"""What every test starts from: no network, one thread, a fixed random state."""

from __future__ import annotations

import os
import sys


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Of the processes that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


torch.set_num_threads(1)

pytest_plugins = ["support.cpu_budget"]


@pytest.fixture(autouse=True)
def fixed_random_state():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_score_cache(tmp_path, monkeypatch):
    """What a model of one test said is not taken for what another says, nor left in the user's own cache."""
    monkeypatch.setenv("TRL_NLPO_SCORE_CACHE", str(tmp_path / "scores.sqlite"))


@pytest.fixture(autouse=True)
def own_path():
    """What a test adds to the path, such as its working directory, is not there for others."""
    before = [*sys.path]
    yield
    sys.path[:] = before


@pytest.fixture
def loopback_hub(monkeypatch, tmp_path):
    """A Hub on this machine, where this process's huggingface_hub looks for one."""
    import huggingface_hub

    from support.loopback_hub import LoopbackHub

    with LoopbackHub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield served


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """The runs of `processes` in this process, each made once and when asked for."""
    from support import processes

    folder, found = tmp_path_factory.mktemp("one"), {}

    def get(name):
        if name not in found:
            found[name] = processes.run(name, folder, num_processes=1, rank=0)
        return found[name]

    get.folder = folder
    return get
