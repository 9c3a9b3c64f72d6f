"""What a checkpoint holds beside what transformers writes: written, read, and equal bit for bit."""

from __future__ import annotations

import json
from types import SimpleNamespace

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from support import tiny
from support.resumable import trainer
from trl_nlpo import UserError
from trl_nlpo.algorithm.batch_plan import BatchPlan
from trl_nlpo.launch.launch import Launch
from trl_nlpo.models.adapters import VALUE_ADAPTER, adapter_parameters, add_value_adapter
from trl_nlpo.models.masking_policy import MaskingPolicy
from trl_nlpo.models.policy_and_value import PolicyAndValue
from trl_nlpo.trainer.checkpoints import Checkpoints, check_resumable, load_value_function, save_value_function
from trl_nlpo.trainer.run_state import Run


def with_head(seed=0):
    return PolicyAndValue(tiny.policy(seed=seed))


def with_value_model(seed=0):
    return PolicyAndValue(tiny.policy("llama", seed), tiny.classifier("llama", seed))


def with_value_adapter(seed=0):
    base = tiny.policy("llama")
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    policy = peft.get_peft_model(base, config)
    add_value_adapter(policy, "default")
    with torch.no_grad():
        for weight in adapter_parameters(policy, VALUE_ADAPTER).values():
            weight.add_(torch.randn_like(weight))
    return PolicyAndValue(policy, None, VALUE_ADAPTER)


KINDS = {"head": with_head, "value model": with_value_model, "value adapter": with_value_adapter}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def value_weights(module):
    weights = {f"head.{name}": weight for name, weight in module.value_model.named_parameters()}
    if module.value_adapter is not None:
        weights |= adapter_parameters(module.policy, module.value_adapter)
    return {name: weight.detach().clone() for name, weight in weights.items()}


def policy_weights(module):
    own = set(map(id, adapter_parameters(module.policy, VALUE_ADAPTER).values())) if module.value_adapter else set()
    return {name: p.detach().clone() for name, p in module.policy.named_parameters() if id(p) not in own}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@kinds
def test_a_value_function_comes_back_bit_for_bit_and_the_policy_is_left_alone(tmp_path, kind):
    saved, loaded = KINDS[kind](seed=1), KINDS[kind](seed=2)
    policy = policy_weights(loaded)
    assert not same(value_weights(saved), value_weights(loaded))
    save_value_function(saved, tmp_path)
    load_value_function(loaded, tmp_path)
    assert same(value_weights(saved), value_weights(loaded))
    assert same(policy_weights(loaded), policy)


def test_a_value_model_of_its_own_can_be_loaded_by_itself(tmp_path):
    saved = with_value_model(seed=1)
    save_value_function(saved, tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "value_model")
    assert same(dict(saved.value_model.named_parameters()), dict(loaded.named_parameters()))


def test_a_value_adapter_can_be_loaded_by_itself(tmp_path):
    saved = with_value_adapter(seed=1)
    save_value_function(saved, tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny.policy("llama"), tmp_path / "value_model")
    expected = adapter_parameters(saved.policy, VALUE_ADAPTER).values()
    assert all(map(torch.equal, adapter_parameters(loaded, "default").values(), expected))


PLAN = (1, 4, 8, 2, 3, 10)


def checkpoints(seed=0, masks=True, sync_steps=3, plan=PLAN):
    """Those of a trainer that has just begun."""
    module = with_head(seed)
    masking_policy = MaskingPolicy(module.policy, sync_steps, masks)
    return Checkpoints(None, Launch(None), module, masking_policy, BatchPlan(*plan), Run(kl_coef=0.05 + seed))


def move(subject):
    with torch.no_grad():
        for weight in subject.module.policy.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    subject.masking_policy.policy_moved()


def save(subject, folder):
    save_value_function(subject.module, folder)
    subject.save_run(folder)


def resumed(subject, folder, **settings):
    """A fresh run: the policy as `transformers.Trainer` restores it, and the rest from the folder."""
    other = checkpoints(seed=1, **settings)
    other.module.policy.load_state_dict(subject.module.policy.state_dict())
    other.load_run(folder)
    return other


@pytest.mark.parametrize("age", [0, 1, 2])
def test_a_run_resumes_with_its_mask_its_age_and_its_kl_coefficient(tmp_path, age):
    subject = checkpoints()
    for _ in range(3):
        move(subject)
        subject.masking_policy.sync()
    for _ in range(age):
        move(subject)
    save(subject, tmp_path)
    other = resumed(subject, tmp_path)
    ours, theirs = subject.masking_policy, other.masking_policy
    assert same(ours.state_dict(), theirs.state_dict())
    assert (theirs.age, theirs.num_syncs, theirs.is_current) == (age, 3, age == 0)
    assert theirs.sync_is_due is ours.sync_is_due
    assert other.run.kl_coef == subject.run.kl_coef == 0.05
    # right after a sync the masking policy is the policy, and is not written a second time
    assert (tmp_path / "masking_policy.safetensors").is_file() is (age > 0)


def test_the_masking_policy_of_a_resumed_run_is_a_copy_of_its_own(tmp_path):
    subject = checkpoints()
    save(subject, tmp_path)
    other = resumed(subject, tmp_path)
    before = other.masking_policy.state_dict()
    move(other)
    assert same(other.masking_policy.state_dict(), before)


def test_the_state_is_readable(tmp_path):
    subject = checkpoints()
    move(subject)
    save(subject, tmp_path)
    assert json.loads((tmp_path / "nlpo_state.json").read_text()) == {
        "run": {
            "kl_coef": 0.05, "pending_logs": [], "policy_loss_sum": 0.0, "num_losses": 0, "skipped_steps_in_a_row": 0,
            "unfinished_events": [], "reward_moments": {}, "in_update": False,
        },
        "masking_policy": {"age": 1, "num_syncs": 0},
        "batches": {
            "processes": 1, "completions of an update": 8, "per_device_train_batch_size": 4, "num_mini_batches": 2,
            "num_ppo_epochs": 3, "critic_updates_per_step": 1,
        },
    }  # fmt: skip


def test_the_record_of_a_run_comes_back_to_the_last_digit(tmp_path):
    subject = checkpoints()
    subject.run = Run(0.1, [{"reward": 0.1 + 0.2, "lr": 1e-300}], 1 / 3, 7, 2, ["should_evaluate"], True)
    save(subject, tmp_path)
    assert resumed(subject, tmp_path).run == subject.run


def test_a_checkpoint_of_an_earlier_version_is_refused_in_a_line(tmp_path):
    subject = checkpoints()
    save(subject, tmp_path)
    (tmp_path / "nlpo_state.json").write_text(json.dumps({"kl_coef": 0.05, "progress": {}}))
    with pytest.raises(UserError, match="was written by an earlier version of trl-nlpo") as caught:
        resumed(subject, tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_tied_are_written_once_and_come_back_tied(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    saved, loaded = (SimpleNamespace(value_adapter=None, value_model=Tied(), returns_scale=None) for _ in range(2))
    save_value_function(saved, tmp_path)
    assert len(load_file(tmp_path / "value_model" / "value_model.safetensors")) == 3
    load_value_function(loaded, tmp_path)
    assert torch.equal(loaded.value_model.second.weight, saved.value_model.first.weight)
    assert loaded.value_model.second.weight is loaded.value_model.first.weight


def test_a_folder_that_is_no_checkpoint_of_ours_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"it has no nlpo_state\.json") as caught:
        check_resumable(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_value_function_of_another_kind_is_refused_instead_of_left_at_random(tmp_path):
    # A run with a head, resumed with a value model: none of the saved names fits.
    save_value_function(with_head(), tmp_path)
    with pytest.raises((UserError, RuntimeError)):
        load_value_function(with_value_model(), tmp_path)


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [(with_value_adapter, with_head), (with_head, with_value_adapter)],
    ids=["to head", "to adapter"],
)
def test_a_head_of_its_own_adapter_is_not_taken_for_one_on_the_policy(tmp_path, saved, loaded):
    # Both have a weight and a bias of the same shape.
    save_value_function(saved(), tmp_path)
    with pytest.raises(UserError, match="another kind of value function") as caught:
        load_value_function(loaded(), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_with_a_mask_can_be_resumed_without_one_and_keeps_its_policy(tmp_path):
    subject = checkpoints()
    move(subject)
    save(subject, tmp_path)
    other = resumed(subject, tmp_path, masks=False)
    assert same(policy_weights(other.module), policy_weights(subject.module))


def test_other_batches_or_another_number_of_processes_are_refused_in_a_line_unless_forced(tmp_path):
    subject = checkpoints()
    save(subject, tmp_path)
    other = checkpoints(seed=1, plan=(2, 4, 8, 2, 3, 10))
    with pytest.raises(UserError) as caught:
        other.load_run(tmp_path)
    assert "(processes: 1 -> 2; completions of an update: 8 -> 16)" in str(caught.value)
    assert "\n" not in str(caught.value)
    other.load_run(tmp_path, force=True)
    assert other.run.kl_coef == 0.05


def test_more_updates_are_no_other_batches(tmp_path):
    save(checkpoints(), tmp_path)
    checkpoints(seed=1, plan=(*PLAN[:-1], 20)).load_run(tmp_path)


def test_checkpoints_of_an_earlier_run_in_the_same_folder_stay(tmp_path):
    trainer(tmp_path, tiny.length_reward, max_steps=2).train()
    before = {step: written_at(tmp_path / f"checkpoint-{step}") for step in (1, 2)}
    trainer(tmp_path, tiny.length_reward, max_steps=2, save_steps=2, save_total_limit=1).train()
    (aside,) = (tmp_path / "_earlier").glob("*/checkpoint-2")
    assert {1: written_at(tmp_path / "checkpoint-1"), 2: written_at(aside)} == before
    assert written_at(tmp_path / "checkpoint-2") != before[2]


def test_a_resumed_run_is_the_same_run_and_removes_what_it_had_no_time_to_remove(tmp_path):
    trainer(tmp_path, tiny.length_reward, max_steps=3).train()
    trainer(tmp_path, tiny.length_reward, max_steps=4, save_steps=50, save_total_limit=1).train(
        resume_from_checkpoint=True
    )
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4"]


def test_two_trainers_do_not_write_into_one_folder(tmp_path):
    subject = trainer(tmp_path, tiny.length_reward, max_steps=2)
    (tmp_path / "_lock.json").write_text('{"host": "elsewhere", "pid": 7}')
    with pytest.raises(UserError, match="process 7 on elsewhere is writing a run there"):
        subject.train()


def written_at(checkpoint):
    return json.loads((checkpoint / "manifest.json").read_text())["written"]
