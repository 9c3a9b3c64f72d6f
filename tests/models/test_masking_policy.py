"""The masking policy: what it weighs between syncs, at a sync, and when."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from support import tiny
from trl_nlpo.models.adapters import adapter_parameters
from trl_nlpo.models.copies import frozen_adapter, frozen_copy, swapped_weights
from trl_nlpo.models.masking_policy import MaskingPolicy


TOKENS = torch.arange(3, 11).view(2, 4)


def lora_policy(seed=0):
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return peft.get_peft_model(tiny.policy("llama"), config).eval()


def plain_policy(seed=0):
    return tiny.policy("gpt2", seed).eval()


KINDS = {
    "plain": (plain_policy, {}),
    "lora": (lora_policy, {}),
    "lora in one batch": (lora_policy, {"in_one_batch": True}),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def subject_of(kind, sync_steps=2, **settings):
    make, extra = KINDS[kind]
    policy = make()
    return policy, MaskingPolicy(policy, sync_steps, **extra, **settings)


def train(policy, masking_policy=None):
    """A step that moves every trained weight."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    if masking_policy is not None:
        masking_policy.policy_moved()


@torch.no_grad()
def logits_of(model):
    return model(TOKENS).logits


@torch.no_grad()
def masking_logits(masking_policy):
    with masking_policy.model() as model:
        return model(TOKENS).logits


@kinds
def test_it_stands_still_bit_for_bit_while_the_policy_moves(kind):
    policy, subject = subject_of(kind)
    start, weights = logits_of(policy), subject.state_dict()
    for _ in range(3):
        train(policy, subject)
        assert torch.equal(masking_logits(subject), start)
        assert not torch.equal(logits_of(policy), start)
    assert weights
    assert all(torch.equal(weights[name], weight) for name, weight in subject.state_dict().items())


@kinds
def test_it_is_the_policy_bit_for_bit_after_a_sync(kind):
    policy, subject = subject_of(kind)
    train(policy, subject)
    subject.sync()
    assert torch.equal(masking_logits(subject), logits_of(policy))
    trained = dict(policy.named_parameters())
    assert all(torch.equal(trained[name], weight) for name, weight in subject.state_dict().items())
    # and it is a copy, not the policy itself
    synced = logits_of(policy)
    train(policy, subject)
    assert torch.equal(masking_logits(subject), synced)


@kinds
def test_using_it_leaves_the_policy_as_it_was(kind):
    policy, subject = subject_of(kind)
    train(policy, subject)
    before = {name: (weight, weight.data_ptr(), weight.clone()) for name, weight in policy.named_parameters()}
    flags = {name: weight.requires_grad for name, weight in policy.named_parameters()}
    masking_logits(subject)
    for name, weight in policy.named_parameters():
        parameter, pointer, value = before[name]
        assert weight is parameter
        assert weight.data_ptr() == pointer
        assert torch.equal(weight, value)
        assert weight.requires_grad is flags[name]


@kinds
def test_it_takes_no_gradient(kind):
    policy, subject = subject_of(kind)
    optimized = {id(parameter) for parameter in policy.parameters() if parameter.requires_grad}
    train(policy, subject)
    policy(TOKENS).logits.sum().backward()
    assert any(weight.grad is not None for weight in policy.parameters())
    own = subject.state_dict().values()
    assert not any(weight.requires_grad for weight in own)
    with subject.model() as model:
        assert not any(p.requires_grad for p in model.parameters() if id(p) not in optimized)
    assert all(weight.grad is None for name, weight in policy.named_parameters() if ".mask." in name)


@pytest.mark.parametrize(
    ("sync_steps", "synced_after"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4]), (7, []), (None, [])]
)
def test_the_schedule_counts_updates_since_the_last_sync(sync_steps, synced_after):
    subject = MaskingPolicy(nn.Linear(1, 1), sync_steps)
    synced = []
    for update in range(1, 7):
        subject.policy_moved()
        if subject.sync_is_due:
            subject.sync()
            synced.append(update)
            assert subject.age == 0
        assert subject.age == update - max([0, *synced])
        assert subject.is_current is (subject.age == 0)
    assert synced == synced_after
    assert subject.num_syncs == len(synced_after)


def test_where_nothing_is_masked_there_is_no_copy_and_it_is_always_current():
    policy, subject = subject_of("plain", masks=False)
    subject.policy_moved()
    assert subject.is_current
    assert subject.state_dict() == {}
    with subject.model() as model:
        assert model is policy
    subject.sync()
    assert subject.num_syncs == 1
    lora, subject = subject_of("lora in one batch", masks=False)
    assert not subject.in_one_batch
    assert list(lora.peft_config) == ["default"]


@pytest.mark.parametrize("kind", ["lora", "lora in one batch"])
def test_of_an_adapter_model_the_adapter_alone_is_copied(kind):
    policy, subject = subject_of(kind)
    assert set(subject.state_dict()) == set(adapter_parameters(policy, "default"))
    with subject.model() as model:
        assert model is policy


def test_the_rows_of_one_batch_are_the_policys_and_then_the_masking_policys():
    policy, subject = subject_of("lora in one batch")
    assert subject.in_one_batch
    train(policy, subject)
    assert subject.adapters_of_rows(2) == ["default", "default", "mask", "mask"]
    with torch.no_grad():
        both = policy(TOKENS.repeat(2, 1), adapter_names=subject.adapters_of_rows(2)).logits
    torch.testing.assert_close(both[:2], logits_of(policy))
    torch.testing.assert_close(both[2:], masking_logits(subject))
    assert policy.active_adapter == "default"


@kinds
def test_a_named_adapter_or_a_plain_model_is_restored_from_its_state(kind):
    policy, subject = subject_of(kind)
    train(policy, subject)
    train(policy, subject)
    expected, weights, moved = masking_logits(subject), subject.state_dict(), copy.deepcopy(policy.state_dict())
    again_policy, again = subject_of(kind)
    train(again_policy, again)
    again.sync()
    again_policy.load_state_dict(moved)
    again.load_state_dict(weights, age=2, num_syncs=5)
    assert torch.equal(masking_logits(again), expected)
    assert torch.equal(logits_of(again_policy), logits_of(policy))
    assert (again.age, again.num_syncs, again.is_current, again.sync_is_due) == (2, 5, False, True)


def test_the_adapter_that_is_trained_is_the_one_copied():
    policy = lora_policy()
    policy.add_adapter("other", peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    subject = MaskingPolicy(policy, None, adapter="other")
    assert set(subject.state_dict()) == set(adapter_parameters(policy, "other"))


def test_buffers_are_synced_too():
    policy = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    subject = MaskingPolicy(policy, None)
    policy.train()(torch.randn(8, 3) * 5 + 2)
    subject.policy_moved()
    subject.sync()
    inputs = torch.randn(4, 3)
    with subject.model() as model, torch.no_grad():
        assert not model.training
        assert torch.equal(model(inputs), policy.eval()(inputs))


def test_a_frozen_copy_is_a_copy_in_evaluation_mode_without_gradients():
    policy = plain_policy().train()
    copied = frozen_copy(policy)
    assert not copied.training
    assert policy.training
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in policy.parameters())
    assert not {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in copied.parameters()}


def test_frozen_adapter_weights_do_not_follow_the_adapter():
    policy = lora_policy()
    weights = frozen_adapter(policy, "default")
    kept = {name: weight.clone() for name, weight in weights.items()}
    train(policy)
    assert all(torch.equal(kept[name], weight) for name, weight in weights.items())
    assert not any(weight.requires_grad for weight in weights.values())


def test_swapped_weights_come_back_after_an_exception():
    model = nn.Linear(2, 2)
    own = {name: (weight.data_ptr(), weight.clone()) for name, weight in model.named_parameters()}
    other = {"weight": torch.full((2, 2), 7.0)}
    with pytest.raises(RuntimeError, match="cannot be multiplied"), swapped_weights(model, other):
        model(torch.ones(1, int(model.weight.sum())))  # 28 columns: the other weights are in place
    for name, weight in model.named_parameters():
        assert weight.data_ptr() == own[name][0]
        assert torch.equal(weight, own[name][1])


def test_a_swap_that_fails_half_way_is_undone():
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    unfit = {"weight": torch.ones(2, 2), "bias": torch.ones(2, dtype=torch.long)}
    with pytest.raises(RuntimeError, match="tensor"), swapped_weights(model, unfit):
        pass
    assert torch.equal(model.weight, before)


def test_gradients_and_optimizer_survive_a_swap():
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.detach().clone()
    with swapped_weights(model, {"weight": torch.zeros(1, 2)}), torch.no_grad():
        assert model(torch.ones(1, 2)).item() == 0.0
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before - 1.0)


def test_what_is_trained_beside_an_adapter_stands_still_too():
    # `bias="all"` trains the biases of the base model, which the masking policy shares.
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", bias="all")
    policy = peft.get_peft_model(tiny.policy("gpt2"), config).eval()
    assert any("bias" in name for name, weight in policy.named_parameters() if weight.requires_grad)
    subject = MaskingPolicy(policy, None)
    start = masking_logits(subject)
    train(policy, subject)
    assert torch.equal(masking_logits(subject), start)


@pytest.mark.parametrize("kind", ["plain", "lora"])
def test_loading_a_mask_where_nothing_is_masked_leaves_the_policy_alone(kind):
    # A run with a mask that is resumed with mask_strategy="none": the checkpoint holds a masking policy.
    policy, masked = subject_of(kind)
    train(policy, masked)
    weights = {name: weight + 1 for name, weight in masked.state_dict().items()}
    unmasked = MaskingPolicy(policy, 2, masks=False)
    before = logits_of(policy)
    unmasked.load_state_dict(weights, age=1)
    assert torch.equal(logits_of(policy), before)
