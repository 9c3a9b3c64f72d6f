"""DeepSpeed ZeRO: what is refused, and what its engine is told; `test_sharding.py` trains with it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from trl_nlpo import NLPOConfig, UserError
from trl_nlpo.launch import zero
from trl_nlpo.launch.kinds import check_launch, launch_of


def asking(stage=2, use_cpu=False, **config):
    """Training arguments under a launcher that asks for DeepSpeed."""
    plugin = SimpleNamespace(zero_stage=stage, deepspeed_config=config)
    return SimpleNamespace(deepspeed_plugin=plugin, use_cpu=use_cpu)


def running(kind=DistributedType.DEEPSPEED, mismatches=(), **config):
    """An accelerator, as far as DeepSpeed's settings go."""
    plugin = SimpleNamespace(
        zero_stage=2, deepspeed_config=config, hf_ds_config=SimpleNamespace(mismatches=list(mismatches))
    )
    return SimpleNamespace(
        distributed_type=kind, num_processes=2, state=SimpleNamespace(deepspeed_plugin=plugin), sync_gradients=None,
        is_main_process=True, device=torch.device("cpu"),
    )  # fmt: skip


@pytest.fixture
def state(monkeypatch):
    """What `accelerate` says of the processes."""
    state = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, num_processes=2)
    monkeypatch.setattr(zero, "PartialState", lambda: state)
    monkeypatch.setenv("WORLD_SIZE", "2")
    return state


class TestRefusals:
    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_stages_that_share_something_out_are_allowed(self, state, stage):
        check_launch(asking(stage))

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (asking(stage=0), "ZeRO-0 is not supported, as it is DDP by another name"),
            (asking(use_cpu=True), "leave use_cpu out"),
            (asking(optimizer={"type": "AdamW"}), "has 'optimizer', which NLPOConfig decides"),
            (asking(scheduler={}), "has 'scheduler', which NLPOConfig decides"),
        ],
    )
    def test_what_cannot_work_is_refused_in_a_line(self, state, asked, message):
        with pytest.raises(UserError, match=message) as caught:
            check_launch(asked)
        assert "\n" not in str(caught.value)

    def test_arguments_built_before_deepspeed_was_asked_for_are_refused(self, monkeypatch, tmp_path):
        args = NLPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        with pytest.raises(UserError, match="build NLPOConfig in a process that torchrun"):
            check_launch(args)

    def test_a_launch_that_would_be_another_one_is_refused(self, state):
        state.distributed_type = DistributedType.MULTI_CPU
        with pytest.raises(UserError, match="accelerate runs MULTI_CPU"):
            check_launch(asking())

    def test_processes_that_take_themselves_for_the_only_one_are_refused(self, state):
        state.num_processes = 1
        with pytest.raises(UserError, match="set ddp_backend to gloo"):
            check_launch(asking())

    def test_a_configuration_that_contradicts_the_arguments_is_refused(self):
        lines = ["- ds gradient_clipping=1.0 vs hf max_grad_norm=0.5", "- ds train_batch_size=8 vs hf batch=4"]
        with pytest.raises(UserError, match=r"\(ds gradient_clipping=1.0 vs hf max_grad_norm=0.5\): write 'auto'"):
            launch_of(running(mismatches=lines)).configure(SimpleNamespace())


class TestSettings:
    @pytest.mark.parametrize(("limit", "clipping"), [(0.5, 0.5), (0.0, 0.0), (-1.0, 0.0), (None, 0.0)])
    def test_the_engine_clips_by_our_argument_and_divides_by_nothing(self, limit, clipping):
        accelerator = running(gradient_accumulation_steps=4, train_batch_size=24)
        launch_of(accelerator).configure(SimpleNamespace(max_grad_norm=limit, per_device_train_batch_size=3))
        assert accelerator.state.deepspeed_plugin.deepspeed_config == {
            "gradient_clipping": clipping,
            "gradient_accumulation_steps": 1,
            "train_micro_batch_size_per_gpu": 3,
            "train_batch_size": 6,
        }

    def test_copies_are_cast_as_the_engine_casts_the_policy(self):
        layer = torch.nn.Linear(2, 2)
        launch_of(running(bf16={"enabled": False})).place(layer)
        launch_of(running(DistributedType.MULTI_GPU, bf16={"enabled": True})).place(layer)
        assert layer.weight.dtype == torch.float32
        launch_of(running(bf16={"enabled": True})).place(torch.nn.Linear(2, 2), layer)
        assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
