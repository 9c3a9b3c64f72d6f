"""DeepSpeed ZeRO: what is refused, and two real processes on a CPU that train as one process does."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.utils import DistributedType

import several_processes
import several_processes_zero
from test_several_processes import REWARDS_OF_TWO, TINY_RECIPE, assert_close, launch
from trl_nlpo import NLPOConfig, UserError, zero
from trl_nlpo.processes import check_launch


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


def asking(stage=2, use_cpu=False, **config):
    """Training arguments under a launcher that asks for DeepSpeed."""
    plugin = SimpleNamespace(zero_stage=stage, deepspeed_config=config)
    return SimpleNamespace(deepspeed_plugin=plugin, use_cpu=use_cpu)


def running(kind=DistributedType.DEEPSPEED, mismatches=(), **config):
    """An accelerator, as far as DeepSpeed's settings go."""
    plugin = SimpleNamespace(deepspeed_config=config, hf_ds_config=SimpleNamespace(mismatches=list(mismatches)))
    return SimpleNamespace(
        distributed_type=kind, num_processes=2, state=SimpleNamespace(deepspeed_plugin=plugin), sync_gradients=None
    )


@pytest.fixture
def state(monkeypatch):
    """What `accelerate` says of the processes."""
    state = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, num_processes=2)
    monkeypatch.setattr(zero, "PartialState", lambda: state)
    monkeypatch.setenv("WORLD_SIZE", "2")
    return state


class TestRefusals:
    @pytest.mark.parametrize("stage", [1, 2])
    def test_stages_that_leave_weights_whole_are_allowed(self, state, stage):
        check_launch(asking(stage))

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (asking(stage=3), "ZeRO-3 is not supported, as every process samples from a whole policy: set zero_stage"),
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
            zero.configure_zero(running(mismatches=lines), SimpleNamespace())

    @pytest.mark.parametrize(
        ("kind", "shares", "message"),
        [
            (DistributedType.DEEPSPEED, 0, "under no DeepSpeed, and this run has DeepSpeed with 2 processes: resume"),
            (DistributedType.DEEPSPEED, 3, "under DeepSpeed with 3 processes, and this run has DeepSpeed with 2"),
            (DistributedType.MULTI_GPU, 2, "under DeepSpeed with 2 processes, and this run has no DeepSpeed: resume"),
            (DistributedType.DEEPSPEED, 2, None),
            (DistributedType.NO, 0, None),
        ],
    )
    def test_optimizer_states_of_another_launch_are_refused(self, tmp_path, kind, shares, message):
        (tmp_path / "global_step4").mkdir()
        for rank in range(shares):
            (tmp_path / "global_step4" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
        with contextlib.nullcontext() if message is None else pytest.raises(UserError, match=message):
            zero.check_resumed_zero(running(kind), str(tmp_path))


class TestSettings:
    @pytest.mark.parametrize(("limit", "clipping"), [(0.5, 0.5), (0.0, 0.0), (-1.0, 0.0), (None, 0.0)])
    def test_the_engine_clips_by_our_argument_and_divides_by_nothing(self, limit, clipping):
        accelerator = running(gradient_accumulation_steps=4, train_batch_size=24)
        zero.configure_zero(accelerator, SimpleNamespace(max_grad_norm=limit, per_device_train_batch_size=3))
        assert accelerator.state.deepspeed_plugin.deepspeed_config == {
            "gradient_clipping": clipping,
            "gradient_accumulation_steps": 1,
            "train_micro_batch_size_per_gpu": 3,
            "train_batch_size": 6,
        }

    def test_copies_are_cast_as_the_engine_casts_the_policy(self):
        layer = torch.nn.Linear(2, 2)
        zero.cast_like_zero(running(bf16={"enabled": False}), layer)
        zero.cast_like_zero(running(DistributedType.MULTI_GPU, bf16={"enabled": True}), layer)
        assert layer.weight.dtype == torch.float32
        zero.cast_like_zero(running(bf16={"enabled": True}), layer)
        assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16


@pytest.fixture(scope="module", params=[1, 2], ids=["ZeRO-1", "ZeRO-2"])
def two(request, tmp_path_factory):
    """What both processes wrote down."""
    folder = tmp_path_factory.mktemp("zero")
    names = several_processes_zero.SCENARIOS_OF_STAGE[request.param]
    result = launch(Path(several_processes_zero.__file__), folder, *names, environment=on_cpu(request.param))
    assert result.returncode == 0, result.stderr[-3000:]
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    return found, names


def on_cpu(stage):
    return {
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
    }


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same runs in this process, made once."""
    folder, found = tmp_path_factory.mktemp("one"), {}

    def get(name):
        if name not in found:
            found[name] = several_processes.run(name, folder, num_processes=1, rank=0)
        return found[name]

    return get


@needs_deepspeed
@pytest.mark.slow
class TestTwoProcesses:
    def test_deepspeed_trains_with_two_processes_and_not_ddp(self, two):
        for process in two[0]:
            for name in two[1]:
                assert process[name]["kind"] == "DistributedType.DEEPSPEED"
                assert process[name]["num_processes"] == 2
                assert process[name]["wrapped"] == "DeepSpeedEngine"

    def test_weights_and_masks_are_those_of_one_process(self, two, one):
        for name in two[1]:
            first, second = (process[name] for process in two[0])
            for kind in ("weights", "mask"):
                assert all(torch.equal(first[kind][key], second[kind][key]) for key in first[kind])
                assert_close(first[kind], one(name)[kind], f"{name} {kind}")

    def test_logged_gradient_norms_are_those_of_one_process(self, two, one):
        for name in two[1]:
            ours, theirs = (
                [line["grad_norm"] for line in lines if "grad_norm" in line]
                for lines in (two[0][0][name]["lines"], one(name)["lines"])
            )
            assert ours == pytest.approx(theirs, rel=5e-3)
            assert len(ours) == 3

    @pytest.mark.parametrize("what", ["advantages", "loss"])
    def test_a_step_that_is_not_finite_on_one_process_is_taken_by_none(self, two, what):
        for process in two[0]:
            found = process["spoiled"]
            assert (found[what]["steps"], found[what]["skipped"]) == (0, 2)
            assert all(torch.equal(found[what]["weights"][key], found["start"][key]) for key in found["start"])

    def test_after_skipped_steps_training_goes_on(self, two):
        first, second = (process["spoiled"] for process in two[0])
        assert (first["well"]["steps"], first["well"]["skipped"]) == (2, 0)
        assert all(
            torch.equal(first["well"]["weights"][key], second["well"]["weights"][key]) for key in first["start"]
        )
        assert any(not torch.equal(first["well"]["weights"][key], first["start"][key]) for key in first["start"])

    @pytest.mark.parametrize("name", ["resumed", "resumed adapter"])
    def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(self, two, name):
        for process in two[0]:
            found = process[name]
            assert all(torch.equal(found["again"][key], found["whole"][key]) for key in found["whole"])
            whole, again = found["masks"]
            assert all(torch.equal(again[key], whole[key]) for key in whole)
            assert {f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)} <= set(found["files"])

    @pytest.mark.parametrize("name", ["resumed", "resumed adapter"])
    def test_the_optimizer_goes_on_from_the_best_model_and_not_from_its_own_copy(self, two, name):
        for process in two[0]:
            found = process[name]
            assert any(not torch.equal(found["best"][key], found["again"][key]) for key in found["best"])
            assert_close(found["after best"], found["best"], name)


@needs_deepspeed
@pytest.mark.slow
def test_a_recipe_with_a_supervised_stage_runs_under_zero(tmp_path):
    (tmp_path / "rewards_of_two.py").write_text(REWARDS_OF_TWO)
    recipe = {**TINY_RECIPE, "use_cpu": False, "ddp_backend": "gloo", "max_steps": 2}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    result = launch("-m", "trl_nlpo", "run", "tiny.yaml", cwd=tmp_path, environment=on_cpu(2))
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "tiny"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"supervised", "supervised+nlpo"} <= {line["stage"] for line in lines}
    assert list((folder / "checkpoint-2").glob("global_step*"))
    assert "world_size" not in yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
