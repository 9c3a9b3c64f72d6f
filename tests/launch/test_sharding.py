"""Weights, gradients or optimizer cut between two real processes on a CPU, which train as one process does."""

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

from support import sharded_processes
from support.launching import REWARDS_OF_TWO, TINY_RECIPE, assert_close, launch
from trl_nlpo import UserError
from trl_nlpo.launch.kinds import check_resumed_launch, launch_of
from trl_nlpo.launch.launch import check_is_loaded


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}
# Small weights would stay whole otherwise, and these models have no others.
CUT_ALL = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
SCENARIOS = {
    "FSDP2": [
        "value head", "value model", "adapters, checkpointing", "encoder-decoder", "minibatches",
        "clipped microbatches",
    ],
    "ZeRO-1": ["clipped microbatches"],
    "ZeRO-2": ["value head", "adapters, checkpointing", "clipped microbatches"],
    "ZeRO-3": [
        "value head", "value model", "adapters, checkpointing", "encoder-decoder", "minibatches",
        "clipped microbatches",
    ],
}  # fmt: skip
KINDS = [kind if kind == "FSDP2" else pytest.param(kind, marks=needs_deepspeed) for kind in SCENARIOS]


def environment(kind, folder):
    """What `accelerate launch` would tell the processes."""
    if kind == "FSDP2":
        return FSDP2
    on_cpu = {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true"}
    if kind != "ZeRO-3":
        return {**on_cpu, "ACCELERATE_DEEPSPEED_ZERO_STAGE": kind[-1]}
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    path = folder / "zero3.json"
    path.write_text(json.dumps({**CUT_ALL, **dict.fromkeys(sizes, "auto")}))
    return {**on_cpu, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}


class Two:
    """What both processes of a kind of launch wrote down."""

    def __init__(self, kind, folder):
        self.kind, self.scenarios = kind, SCENARIOS[kind]
        script = Path(sharded_processes.__file__)
        result = launch(script, folder, *self.scenarios, environment=environment(kind, folder))
        assert result.returncode == 0, result.stderr[-3000:]
        self.processes = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module", params=KINDS)
def two(request, tmp_path_factory):
    return Two(request.param, tmp_path_factory.mktemp("two"))


@pytest.mark.slow
class TestTwoProcesses:
    def test_what_was_asked_for_trains_and_not_ddp(self, two):
        kind, wrapped = ("FSDP", "FSDPPolicyAndValue") if two.kind == "FSDP2" else ("DEEPSPEED", "DeepSpeedEngine")
        for process in two.processes:
            for name in two.scenarios:
                assert process[name]["kind"] == f"DistributedType.{kind}"
                assert process[name]["num_processes"] == 2
                assert process[name]["wrapped"] == wrapped

    def test_between_updates_a_process_holds_its_share_of_the_weights(self, two):
        shares = [process["spoiled"]["held"] for process in two.processes]
        if two.kind == "FSDP2":
            assert sum(shares) == pytest.approx(1.0, abs=0.01)
            assert max(shares) < 0.6
        else:
            assert shares == ([0.0, 0.0] if two.kind == "ZeRO-3" else [1.0, 1.0])

    def test_weights_and_masks_are_those_of_one_process(self, two, one):
        for name in two.scenarios:
            first, second = (process[name] for process in two.processes)
            for what in ("weights", "mask"):
                assert all(torch.equal(first[what][key], second[what][key]) for key in first[what])
                assert_close(first[what], one(name)[what], f"{name} {what}")

    def test_logged_gradient_norms_are_those_of_one_process(self, two, one):
        for name in two.scenarios:
            ours, theirs = (
                [line["grad_norm"] for line in lines if "grad_norm" in line]
                for lines in (two.processes[0][name]["lines"], one(name)["lines"])
            )
            assert ours == pytest.approx(theirs, rel=5e-3)
            assert len(ours) == 3

    def test_a_model_can_be_saved_while_its_weights_are_whole_and_goes_on_computing(self, two):
        for process in two.processes:
            found = process["spoiled"]
            for key, weight in found["inside"].items():
                assert torch.equal(weight, found["start"][f"policy.{key}"])
            assert found["logprobs inside"].isfinite().all()
            assert found["logprobs inside"].any()

    def test_processes_stay_in_step_when_completions_end_at_different_lengths(self, two):
        first, second = (process["lengths"] for process in two.processes)
        assert first["lengths"] == [[1] * 4] * 3
        assert all(max(lengths) > 10 for lengths in second["lengths"])
        assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])

    @pytest.mark.parametrize("what", ["advantages", "loss"])
    def test_a_step_that_is_not_finite_on_one_process_is_taken_by_none(self, two, what):
        for process in two.processes:
            found = process["spoiled"]
            assert (found[what]["steps"], found[what]["skipped"]) == (0, 2)
            assert all(torch.equal(found[what]["weights"][key], found["start"][key]) for key in found["start"])

    def test_after_skipped_steps_training_goes_on(self, two):
        first, second = (process["spoiled"] for process in two.processes)
        assert (first["well"]["steps"], first["well"]["skipped"]) == (2, 0)
        assert all(
            torch.equal(first["well"]["weights"][key], second["well"]["weights"][key]) for key in first["start"]
        )
        assert any(not torch.equal(first["well"]["weights"][key], first["start"][key]) for key in first["start"])

    @pytest.mark.parametrize("name", ["resumed", "resumed adapter"])
    def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(self, two, name):
        for process in two.processes:
            found = process[name]
            assert all(torch.equal(found["again"][key], found["whole"][key]) for key in found["whole"])
            whole, again = found["masks"]
            assert all(torch.equal(again[key], whole[key]) for key in whole)

    @pytest.mark.parametrize("name", ["resumed", "resumed adapter"])
    def test_a_checkpoint_has_a_plain_model_and_a_share_of_the_optimizer_of_every_process(self, two, name):
        files = two.processes[0][name]["files"]
        assert ("model.safetensors" if name == "resumed" else "adapter_model.safetensors") in files
        for rank in (0, 1):
            share = f"__{rank}_0.distcp" if two.kind == "FSDP2" else f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            assert sum(file.endswith(share) for file in files) == 1
        assert not [file for file in files if "pytorch_model_fsdp" in file]

    @pytest.mark.parametrize("name", ["resumed", "resumed adapter"])
    def test_the_optimizer_goes_on_from_the_best_model_and_not_from_its_own_copy(self, two, name):
        for process in two.processes:
            found = process[name]
            assert any(not torch.equal(found["best"][key], found["again"][key]) for key in found["best"])
            assert_close(found["after best"], found["best"], name)

    @pytest.mark.parametrize("name", ["half", "half adapter"])
    def test_in_half_precision_policy_and_copies_compute_alike_and_whole_precision_is_kept(self, two, name):
        if two.kind != "FSDP2":
            pytest.skip("DeepSpeed keeps half precision in the weights")
        for process in two.processes:
            found = process[name]
            assert found["kl"] == 0.0
            assert found["first_ratio_deviation"] < 1e-6
            assert found["computing"] == {"torch.bfloat16"}
            assert found["weights"] == found["saved"] == {"torch.float32"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[:1] + KINDS[2:])
@pytest.mark.parametrize("use_peft", [False, True], ids=["whole", "adapter"])
def test_a_recipe_with_a_supervised_stage_runs(tmp_path, kind, use_peft):
    (tmp_path / "rewards_of_two.py").write_text(REWARDS_OF_TWO)
    recipe = {**TINY_RECIPE, "max_steps": 2, "use_peft": use_peft, "model_type": "llama"}
    if kind != "FSDP2":
        recipe |= {"use_cpu": False, "ddp_backend": "gloo"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    script = Path(sharded_processes.__file__)
    result = launch(script, "run", "tiny.yaml", cwd=tmp_path, environment=environment(kind, tmp_path))
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "runs" / "tiny"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"supervised", "supervised+nlpo"} <= {line["stage"] for line in lines}
    assert list((folder / "checkpoint-2").glob("optimizer_0" if kind == "FSDP2" else "global_step*"))
    first = next(line for line in lines if line["stage"] == "supervised+nlpo" and "objective/kl" in line)
    # The policy starts as the supervised model that is read from disk again, whole.
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-6)
    assert "world_size" not in yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))


def accelerator(kind):
    """An accelerator, as far as its kind goes."""
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2))
    return SimpleNamespace(distributed_type=kind, num_processes=2, state=state)


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "files", "message"),
        [
            (DistributedType.DEEPSPEED, [], "under neither DeepSpeed nor FSDP, and this run has DeepSpeed with 2"),
            (DistributedType.DEEPSPEED, "zzz", "under DeepSpeed with 3 processes, and this run has DeepSpeed with 2"),
            (DistributedType.MULTI_GPU, "zz", "under DeepSpeed with 2 processes, and this run has neither"),
            (DistributedType.MULTI_GPU, "f", "under FSDP, and this run has neither DeepSpeed nor FSDP: resume it as"),
            (DistributedType.FSDP, "zz", "under DeepSpeed with 2 processes, and this run has FSDP"),
            (DistributedType.FSDP, [], "under neither DeepSpeed nor FSDP, and this run has FSDP"),
            (DistributedType.FSDP, "f", None),
            (DistributedType.DEEPSPEED, "zz", None),
            (DistributedType.NO, [], None),
        ],
    )
    def test_optimizer_states_of_another_launch_are_refused(self, tmp_path, kind, files, message):
        (tmp_path / "global_step4").mkdir()
        for rank, letter in enumerate(files):
            if letter == "z":
                (tmp_path / "global_step4" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
            else:
                (tmp_path / "optimizer_0").mkdir()
        with contextlib.nullcontext() if message is None else pytest.raises(UserError, match=message):
            check_resumed_launch(launch_of(accelerator(kind)), str(tmp_path))

    @pytest.mark.parametrize("how", ["cut", "without weights"])
    def test_a_model_that_was_loaded_in_pieces_is_refused(self, how):
        model = torch.nn.Linear(2, 2, device="cpu" if how == "cut" else "meta")
        check_is_loaded(torch.nn.Linear(2, 2), None)
        if how == "cut":
            model.weight.ds_id = 7
        with pytest.raises(UserError, match="Linear was loaded sharded") as caught:
            check_is_loaded(None, model)
        assert "\n" not in str(caught.value)
