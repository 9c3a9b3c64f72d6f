"""Room 4 with a trust region: the Fisher information, the bound, and what a step gains."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from support import markov, tiny
from support.updates import OBJECTIVE, UNIFORM, NotedSGD, OneProcess, make_estimates, make_rollout, real_example
from trl_nlpo.algorithm.batch_plan import BatchPlan
from trl_nlpo.algorithm.distribution import SamplingSettings, action_logits
from trl_nlpo.algorithm.trust_region import (
    SHRINK,
    TrustRegion,
    _Policy,
    line_search,
    natural_step,
    update_in_trust_region,
)
from trl_nlpo.algorithm.update import OptimizerSteps
from trl_nlpo.models.policy_and_value import PolicyAndValue


REGION = TrustRegion(kl=0.01, cg_steps=10, damping=1e-3)


def settings_of(module, rollout, microbatch=64, objective=OBJECTIVE, sampling=None, learning_rate=0.0, epochs=1):
    return {
        "module": module, "optimizer": NotedSGD(module, learning_rate), "launch": OneProcess(),
        "plan": BatchPlan(1, microbatch, len(rollout), 1, epochs, 1), "objective": objective,
        "sampling": sampling or SamplingSettings(8),
    }  # fmt: skip


def policy_of(module, rollout, estimates, **settings):
    return _Policy(OptimizerSteps(module, rollout, estimates, **settings_of(module, rollout, **settings)))


def update(module, rollout, estimates, region=REGION, trains_policy=True, **settings):
    return update_in_trust_region(
        module, rollout, estimates, **settings_of(module, rollout, **settings), generator=torch.Generator(),
        trains_policy=trains_policy, region=region,
    )  # fmt: skip


def head_alone(policy):
    module = markov.with_values(policy, [0.0] * 4)
    module.value_trains_backbone = False
    return module


def test_the_fisher_product_by_hand():
    # Two tokens after 2 and one after 3, uniform over four: F = diag(p) - p p^T for a column of the head's weights, in
    # the mean over tokens; the other columns, and the embedding of one-hot vectors, are looked at below.
    rollout = make_rollout([[2], [2], [3]], [[3], [1], [1]], old_logprobs=torch.full((3, 1), -math.log(4)))
    module = head_alone(markov.MarkovModel(UNIFORM))
    module.policy.embedding.weight.requires_grad_(False)
    subject = policy_of(module, rollout, make_estimates(rollout), microbatch=2)
    vector = torch.zeros(4, 4)
    vector[0, 2], vector[0, 3], vector[1, 0] = 1.0, 1.0, 1.0
    product = subject.fisher_product(vector.flatten()).view(4, 4)
    expected = torch.zeros(4, 4)
    column = torch.tensor([0.25 - 1 / 16, -1 / 16, -1 / 16, -1 / 16])
    expected[:, 2], expected[:, 3] = column * 2 / 3, column / 3
    torch.testing.assert_close(product, expected)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_the_fisher_product_is_that_of_the_dense_matrix(family):
    module, rollout, estimates, sampling = real_example(family)
    module.value_trains_backbone = False
    for name, parameter in module.policy.named_parameters():
        parameter.requires_grad_("norm" in name or "ln_" in name)
    subject = policy_of(module, rollout, estimates, sampling=sampling, microbatch=3)
    # F is the mean over tokens of sum over a of p(a) grad log p(a) grad log p(a)^T; by the Jacobian of the logits
    # J^T (diag(p) - p p^T) J.
    size = sum(parameter.numel() for parameter in subject.parameters)
    assert 0 < size < 1000
    dense = torch.zeros(size, size)
    raw, microbatch = subject._logits(subject.rows)
    sequences = microbatch.sequences
    logits = action_logits(raw, sequences, sampling)
    allowed = sequences.token_sets.mask()
    p = logits.masked_fill(~allowed, -math.inf).softmax(-1).detach()
    for row, place in sequences.completion_mask.nonzero().tolist():
        kept = allowed[row, place].nonzero().flatten().tolist()
        jacobian = torch.stack([
            subject._flat(torch.autograd.grad(
                logits[row, place, token], subject.parameters, retain_graph=True, allow_unused=True
            ))
            for token in kept
        ])  # fmt: skip
        share = p[row, place, kept]
        dense += jacobian.T @ (torch.diag(share) - torch.outer(share, share)) @ jacobian
    dense /= sequences.completion_mask.sum()
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(subject.fisher_product(vector), dense @ vector, rtol=2e-3, atol=2e-5)


def test_a_natural_step_is_as_long_as_the_bound_allows():
    matrix, gradient = torch.diag(torch.tensor([4.0, 1.0])), torch.tensor([2.0, 1.0])
    step = natural_step(matrix.mv, gradient, TrustRegion(kl=0.5))
    # F^-1 g = (1/2, 1), with x F x = 2: times sqrt(2 * 0.5 / 2)
    torch.testing.assert_close(step, torch.tensor([0.5, 1.0]) * math.sqrt(0.5))
    assert 0.5 * step.dot(matrix @ step) == pytest.approx(0.5)
    assert natural_step(matrix.mv, torch.zeros(2), REGION).eq(0).all()


@pytest.mark.parametrize(
    ("measure", "expected", "times"),
    [
        (lambda x: (-x, x / 100), 1.0, 0),
        (lambda x: (-x, x / 90), SHRINK, 1),  # 1 / 90 > 0.01
        (lambda x: ((x - 0.2) ** 2, 0.0), SHRINK**5, 5),  # worse than 0 until x < 0.4: 0.8^4 = 0.4096, 0.8^5 = 0.328
        (lambda x: (x, 0.0), 0.0, 10),  # no step is good enough
        (lambda x: (-x, math.nan), 0.0, 10),
    ],
)
def test_the_line_search_takes_the_longest_step_that_improves_within_the_bound(measure, expected, times):
    point, kl, number = line_search(
        lambda x: tuple(map(float, measure(x.item()))), torch.zeros(1), torch.ones(1), TrustRegion(kl=0.01)
    )
    assert (point.item(), number) == (pytest.approx(expected), times)
    assert kl == 0.0 if not expected else kl <= 0.01


def test_a_step_improves_the_markov_policy_within_the_bound():
    # After 2, token 3 is good and token 0 is bad.
    rollout = make_rollout([[2]] * 4, [[3], [0], [1], [2]], old_logprobs=torch.full((4, 1), -math.log(4)))
    module = head_alone(markov.MarkovModel(UNIFORM))
    advantages = torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    stats = update(module, rollout, make_estimates(rollout, advantages))
    p = module.policy.head.weight.detach()[:, 2].softmax(-1)
    assert p[3] > 0.26 > 0.24 > p[0]
    exact = float((0.25 * (math.log(0.25) - p.log())).sum())
    assert 0.005 < stats.approx_kl <= 0.01
    assert stats.approx_kl == pytest.approx(exact, rel=1e-4)
    # The good and the bad move alike, along the natural gradient of four equal shares, and the others stay equal.
    assert p[1] == pytest.approx(float(p[2]))
    assert math.log(p[3] / 0.25) == pytest.approx(-math.log(p[0] / 0.25), rel=0.2)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
@pytest.mark.parametrize("kl", [1e-3, 1e-2])
def test_the_bound_holds_and_the_surrogate_improves(family, kl):
    module, rollout, estimates, sampling = real_example(family)
    module.value_trains_backbone = False
    before = policy_of(module, rollout, estimates, sampling=sampling)
    start = torch.cat([parameter.detach().flatten() for parameter in before.parameters])
    loss, _ = before.measure(start, start)
    stats = update(module, rollout, estimates, TrustRegion(kl=kl, cg_steps=5, damping=1e-2), sampling=sampling)
    after = torch.cat([parameter.detach().flatten() for parameter in before.parameters])
    now, divergence = before.measure(after, start)
    assert 0 < stats.approx_kl <= kl
    assert divergence == pytest.approx(stats.approx_kl, rel=1e-3)
    assert now < loss
    assert stats.backtracks < 10


def test_microbatches_change_nothing():
    steps = []
    for microbatch in (8, 3):
        module, rollout, estimates, sampling = real_example("gpt2")
        module.value_trains_backbone = False
        update(module, rollout, estimates, sampling=sampling, microbatch=microbatch)
        steps.append(torch.cat([parameter.detach().flatten() for parameter in module.policy.parameters()]))
    torch.testing.assert_close(*steps, rtol=1e-3, atol=1e-5)


def test_the_optimizer_moves_the_value_function_alone_and_the_step_the_policy_alone():
    module, rollout, estimates, sampling = real_example("gpt2")
    module.value_trains_backbone = False
    policy, critic = (
        [parameter.detach().clone() for parameter in part.parameters()] for part in (module.policy, module.value_model)
    )
    update(module, rollout, estimates, trains_policy=False, sampling=sampling, learning_rate=0.1)
    assert all(map(torch.equal, policy, module.policy.parameters()))
    assert not any(map(torch.equal, critic, module.value_model.parameters()))
    update(module, rollout, estimates, sampling=sampling, learning_rate=0.0)
    assert not all(map(torch.equal, policy, module.policy.parameters()))


def test_without_advantages_nothing_moves_and_with_a_gradient_that_is_not_finite_the_step_is_skipped():
    rollout = make_rollout([[2]], [[3]], old_logprobs=torch.full((1, 1), -math.log(4)))
    module = head_alone(markov.MarkovModel(UNIFORM))
    before = module.policy.head.weight.clone()
    stats = update(module, rollout, make_estimates(rollout))
    assert (stats.approx_kl, stats.backtracks) == (0.0, 10)
    stats = update(module, rollout, make_estimates(rollout, torch.tensor([[math.inf]])))
    assert (stats.num_skipped_steps, stats.backtracks) == (1, None)
    assert torch.equal(before, module.policy.head.weight)


def test_completions_that_are_skipped_move_nothing():
    rollout = make_rollout([[2], [3]], [[3], [1]], old_logprobs=torch.full((2, 1), -math.log(4)))
    advantages = torch.tensor([[1.0], [5.0]])
    moved = []
    for rows in ([0, 1], [0]):
        part = rollout if len(rows) == 2 else make_rollout([[2]], [[3]], old_logprobs=torch.full((1, 1), -math.log(4)))
        estimates = make_estimates(part, advantages[rows])
        if len(rows) == 2:
            estimates = dataclasses.replace(estimates, skipped=torch.tensor([False, True]))
        module = head_alone(markov.MarkovModel(UNIFORM))
        update(module, part, estimates)
        moved.append(module.policy.head.weight.detach())
    torch.testing.assert_close(*moved)


def test_under_a_mask_the_forbidden_are_left_alone():
    mask = torch.tensor([[[True, False, False, True]]] * 2)
    rollout = make_rollout([[2]] * 2, [[3], [0]], old_logprobs=torch.full((2, 1), -math.log(2)), mask=mask)
    module = head_alone(markov.MarkovModel(UNIFORM))
    stats = update(module, rollout, make_estimates(rollout, torch.tensor([[1.0], [-1.0]])))
    weight = module.policy.head.weight[:, 2].detach()
    assert torch.equal(weight[[1, 2]], torch.full((2,), 0.25).log())
    q = weight[[0, 3]].softmax(-1)
    assert stats.approx_kl == pytest.approx(float((0.5 * (math.log(0.5) - q.log())).sum()), rel=1e-4)


def test_an_adapter_is_moved_and_its_base_is_not():
    module, rollout, estimates, sampling = real_example("llama")
    policy = get_peft_model(module.policy, LoraConfig(target_modules="all-linear"))
    module = PolicyAndValue(policy, tiny.classifier("llama"))
    base = {name: weight.clone() for name, weight in policy.named_parameters() if not weight.requires_grad}
    stats = update(module, rollout, estimates, sampling=sampling)
    assert 0 < stats.approx_kl <= REGION.kl
    # The adapter begins as nothing.
    assert stats.first_ratio_deviation < 1e-4
    assert all(torch.equal(base[name], weight) for name, weight in policy.named_parameters() if name in base)
