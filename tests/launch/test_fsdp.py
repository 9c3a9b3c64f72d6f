"""FSDP2: what is refused before anything is loaded; `test_sharding.py` trains with it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from trl_nlpo import UserError
from trl_nlpo.launch import fsdp
from trl_nlpo.launch.kinds import check_launch, launch_of


NOT_ASKED = SimpleNamespace(fsdp=None)


def asking(**config):
    """Training arguments that ask for FSDP."""
    return SimpleNamespace(fsdp=True, fsdp_config=config)


@pytest.fixture
def on_accelerators(monkeypatch):
    state = SimpleNamespace(distributed_type=DistributedType.MULTI_GPU)
    monkeypatch.setattr(fsdp, "PartialState", lambda: state)
    return state


@pytest.fixture
def launched(on_accelerators, monkeypatch):
    """`accelerate launch` with FSDP2."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")


@pytest.mark.parametrize("kind", [DistributedType.MULTI_CPU, DistributedType.NO])
def test_where_accelerate_would_train_with_ddp_fsdp_is_refused(on_accelerators, kind):
    on_accelerators.distributed_type = kind
    with pytest.raises(UserError, match="accelerate runs it on several GPUs only, and would train with DDP"):
        check_launch(asking())


def test_the_second_version_is_allowed(launched):
    check_launch(NOT_ASKED)
    check_launch(asking())
    check_launch(asking(version=2, cpu_ram_efficient_loading=False))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"version": 1}, "FSDP1 is not supported: set fsdp_version"),
        ({"cpu_ram_efficient_loading": True}, "leaves all processes but one without weights"),
        ({"activation_checkpointing": True}, "set gradient_checkpointing instead"),
        ({"cpu_offload": True}, "fsdp_offload_params is not supported"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_a_line(on_accelerators, config, message):
    with pytest.raises(UserError, match=message) as caught:
        check_launch(asking(**config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FSDP_VERSION", "1", "FSDP1 is not supported"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "True", "leaves all processes but one without weights"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "set gradient_checkpointing instead"),
        ("FSDP_OFFLOAD_PARAMS", "1", "fsdp_offload_params is not supported"),
    ],
)
def test_settings_of_the_launcher_are_read_too(launched, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        check_launch(NOT_ASKED)


def test_a_launcher_that_names_no_version_means_the_first(launched, monkeypatch):
    monkeypatch.delenv("FSDP_VERSION")
    with pytest.raises(UserError, match="FSDP1"):
        check_launch(NOT_ASKED)


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_copies_get_the_precision_that_weights_are_cast_to(dtype):
    plugin = SimpleNamespace(mixed_precision_policy=None if dtype is None else SimpleNamespace(param_dtype=dtype))
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP, state=SimpleNamespace(fsdp_plugin=plugin))
    assert launch_of(accelerator).copies_dtype is dtype
    assert launch_of(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU)).copies_dtype is None


def test_settings_that_turn_out_to_be_for_the_first_version_are_refused(monkeypatch):
    monkeypatch.setenv("FSDP_VERSION", "1")
    state = SimpleNamespace(fsdp_plugin=None)
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP, state=state, mixed_precision="bf16")
    with pytest.raises(UserError, match="FSDP1 is not supported"):
        launch_of(accelerator).configure(SimpleNamespace(fsdp_plugin_args=None))
    monkeypatch.setenv("FSDP_VERSION", "2")
    launch_of(accelerator).configure(SimpleNamespace(fsdp_plugin_args=None))
    assert launch_of(accelerator).copies_dtype is torch.bfloat16
