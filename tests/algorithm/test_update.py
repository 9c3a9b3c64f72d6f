"""Room 4: steps, gradients and statistics, on a model that a pencil can follow and on a real one."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from support import markov, tiny
from support.updates import (
    FULL,
    OBJECTIVE,
    UNIFORM,
    NotedSGD,
    OneAccelerator,
    OneProcess,
    make_estimates,
    make_rollout,
    real_example,
)
from trl_nlpo.algorithm.batch_plan import BatchPlan
from trl_nlpo.algorithm.distribution import SamplingSettings, action_logprobs
from trl_nlpo.algorithm.totals import Totals
from trl_nlpo.algorithm.update import OptimizerSteps, update_policy
from trl_nlpo.functional.losses import ANCHOR_SLACK
from trl_nlpo.models.dropout import disable_dropout
from trl_nlpo.models.policy_and_value import PolicyAndValue


def update(module, rollout, estimates, objective=OBJECTIVE, sampling=None, microbatch=64, **changes):
    """One update; returns its statistics, the gradients of its steps and the accelerator."""
    settings = {"num_processes": 1, "num_mini_batches": 1, "num_ppo_epochs": 1, "learning_rate": 0.0, "seed": 0}
    settings |= {"all_sum": lambda tensor: tensor, **changes}
    plan = BatchPlan(
        settings["num_processes"], microbatch, len(rollout), settings["num_mini_batches"],
        settings["num_ppo_epochs"], 1,
    )  # fmt: skip
    launch, optimizer = OneProcess(settings["all_sum"]), NotedSGD(module, settings["learning_rate"])
    stats = update_policy(
        module,
        rollout,
        estimates,
        module=module,
        optimizer=optimizer,
        launch=launch,
        plan=plan,
        objective=objective,
        sampling=sampling or SamplingSettings(8),
        generator=torch.Generator().manual_seed(settings["seed"]),
    )
    return stats, optimizer.gradients, launch.accelerator


@pytest.mark.parametrize(("epochs", "minibatches", "microbatch"), [(1, 1, 64), (3, 1, 2), (2, 4, 1), (4, 2, 3)])
def test_an_update_takes_epochs_times_minibatches_steps(epochs, minibatches, microbatch):
    rollout = make_rollout([[2]] * 8, [[3]] * 8)
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
    stats, gradients, _ = update(
        module, rollout, make_estimates(rollout), num_ppo_epochs=epochs, num_mini_batches=minibatches,
        microbatch=microbatch,
    )  # fmt: skip
    assert stats.num_optimizer_steps == len(gradients) == epochs * minibatches


def test_the_gradient_of_the_policy_by_hand():
    # Two real tokens: 3 after 2 with advantage 2, and 1 after 3 with advantage -1. The ratio is 1, so
    # d loss / d logit(a) = -A ([a is the token] - p(a)) / 2 with p = 1/4; logits after 2 are column 2 of the weights.
    rollout = make_rollout([[2]], [[3, 1]], old_logprobs=torch.full((1, 2), -math.log(4)))
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
    _, (gradient,), _ = update(module, rollout, make_estimates(rollout, torch.tensor([[2.0, -1.0]])))
    weight = gradient["policy.head.weight"]
    torch.testing.assert_close(weight[:, 2], torch.tensor([0.25, 0.25, 0.25, -0.75]))
    torch.testing.assert_close(weight[:, 3], torch.tensor([-0.125, 0.375, -0.125, -0.125]))
    assert weight[:, :2].eq(0).all()


def test_a_forbidden_token_gets_no_gradient_and_the_others_share_its_part():
    # after 2 only 0 and 3 are allowed: p = 1/2 each, A = 2, one token
    mask = torch.tensor([[[True, False, False, True]]])
    rollout = make_rollout([[2]], [[3]], mask, old_logprobs=torch.full((1, 1), -math.log(2)))
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
    stats, (gradient,), _ = update(module, rollout, make_estimates(rollout, torch.tensor([[2.0]])))
    torch.testing.assert_close(gradient["policy.head.weight"][:, 2], torch.tensor([1.0, 0.0, 0.0, -1.0]))
    assert stats.first_ratio_deviation == pytest.approx(0.0, abs=1e-6)
    assert stats.entropy == pytest.approx(math.log(2))


def test_the_gradient_of_the_value_function_by_hand():
    # V(2) = 1 against a return of 3, V(3) = -1 against -1; d (0.5 (V - R)^2) / dV = V - R, over two tokens, times 0.1
    rollout = make_rollout([[2]], [[3, 1]], values=torch.tensor([[1.0, -1.0]]))
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0, 0.0, 1.0, -1.0])
    returns = torch.tensor([[3.0, -1.0]])
    stats, (gradient,), _ = update(module, rollout, make_estimates(rollout, returns=returns))
    torch.testing.assert_close(gradient["value_model.weight"], torch.tensor([[0.0, 0.0, -0.1, 0.0]]))
    torch.testing.assert_close(gradient["value_model.bias"], torch.tensor([-0.1]))
    assert stats.value_loss == pytest.approx(0.5 * 4 / 2)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_entropy_bonus_by_hand(temperature):
    # Allowed are 0, 1 and 3, of probabilities 1/7, 2/7 and 4/7 under the mask; 2 is forbidden. With z the logits after
    # the temperature, dH/dz(a) = -p(a) (log p(a) + H), and the loss is -coefficient * H.
    probabilities = {0: 1 / 7, 1: 2 / 7, 3: 4 / 7}
    table = [[0.1, 0.2, 0.3, 0.4]] * 2 + [[p**temperature for p in (0.1, 0.2, 0.3, 0.4)]] * 2
    mask = torch.tensor([[[True, True, False, True]]])
    rollout = make_rollout([[2]], [[3]], mask, old_logprobs=torch.tensor([[math.log(4 / 7)]]))
    module = markov.with_values(markov.MarkovModel(table), [0.0] * 4)
    objective = dataclasses.replace(OBJECTIVE, entropy_coef=0.3)
    sampling = SamplingSettings(1, temperature=temperature)
    stats, (gradient,), _ = update(module, rollout, make_estimates(rollout), objective, sampling)
    entropy = -sum(p * math.log(p) for p in probabilities.values())
    expected = [0.0] * 4
    for token, p in probabilities.items():
        expected[token] = 0.3 * p * (math.log(p) + entropy) / temperature
    torch.testing.assert_close(gradient["policy.head.weight"][:, 2], torch.tensor(expected))
    assert stats.entropy == pytest.approx(entropy, rel=1e-5)


def test_the_statistics_by_hand():
    # p = 1/4 now; ratios 1.5, 0.5, 1.1 and 1 by the choice of the old log-probabilities, advantages 2, 2, -1 and 0.
    ratios, advantages = torch.tensor([[1.5, 0.5], [1.1, 1.0]]), torch.tensor([[2.0, 2.0], [-1.0, 0.0]])
    old_logprobs = math.log(0.25) - ratios.log()
    # values now 0; old 0, 1, 0, -0.1; returns 1, 0, 0.1, 0
    old_values, returns = torch.tensor([[0.0, 1.0], [0.0, -0.1]]), torch.tensor([[1.0, 0.0], [0.1, 0.0]])
    rollout = make_rollout([[2], [3]], [[3, 3], [1, 1]], old_logprobs=old_logprobs, values=old_values)
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
    stats, _, _ = update(module, rollout, make_estimates(rollout, advantages, returns))
    # -min(2 * 1.5, 2 * 1.2) = -2.4 (clipped), -1, -min(-1.1, -1.1) = 1.1, 0
    assert stats.policy_loss == pytest.approx((-2.4 - 1.0 + 1.1) / 4, rel=1e-5)
    assert stats.policy_clipfrac == pytest.approx(1 / 4)
    # 0.5 * (1, clip(0, 0.8, 1.2)^2 = 0.64 (clipped), 0.01, 0)
    assert stats.value_loss == pytest.approx(0.5 * (1.0 + 0.64 + 0.01) / 4, rel=1e-5)
    assert stats.value_clipfrac == pytest.approx(1 / 4)
    assert stats.ratio == pytest.approx(4.1 / 4, rel=1e-5)
    assert stats.ratio_variance == pytest.approx((2.25 + 0.25 + 1.21 + 1.0) / 4 - (4.1 / 4) ** 2, rel=1e-4)
    squares = [math.log(1.5) ** 2, math.log(0.5) ** 2, math.log(1.1) ** 2, 0.0]
    assert stats.approx_kl == pytest.approx(0.5 * sum(squares) / 4, rel=1e-5)
    assert stats.entropy == pytest.approx(math.log(4), rel=1e-5)
    assert stats.first_ratio_deviation == pytest.approx(0.5, rel=1e-5)


def test_a_small_variance_of_the_ratio_is_not_lost_by_rounding():
    # In float32 a square near 1 is off by up to 6e-8, more than the whole variance here.
    old_logprobs = math.log(0.25) - torch.tensor([[1.0 + 1e-4, 1.0 - 1e-4]]).log()
    rollout = make_rollout([[2]], [[3, 3]], old_logprobs=old_logprobs)
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
    stats, _, _ = update(module, rollout, make_estimates(rollout))
    assert stats.ratio_variance == pytest.approx(1e-8, rel=0.01)


def same_gradients(first, second, **tolerance):
    assert len(first) == len(second)
    for mine, theirs in zip(first, second, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], **{"atol": 1e-6, "rtol": 1e-4, **tolerance})


def same_stats(first, second):
    for name, value in dataclasses.asdict(first).items():
        if value is None:
            assert getattr(second, name) is None, name
        else:
            assert getattr(second, name) == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_gradients_and_statistics_do_not_depend_on_how_a_batch_is_cut(family):
    module, rollout, estimates, sampling = real_example(family)
    whole = update(module, rollout, estimates, FULL, sampling, microbatch=8, num_mini_batches=2)
    assert any(gradient.abs().max() > 1e-3 for gradient in whole[1][0].values())
    for microbatch in (1, 3):
        cut = update(module, rollout, estimates, FULL, sampling, microbatch=microbatch, num_mini_batches=2)
        same_gradients(whole[1], cut[1])
        same_stats(whole[0], cut[0])


def test_a_pass_is_rehearsed_once_and_leaves_nothing_behind(monkeypatch):
    def taken():
        module, rollout, estimates, sampling = real_example()
        return update(module, rollout, estimates, FULL, sampling, microbatch=3, learning_rate=0.1, num_ppo_epochs=2)

    plain = taken()
    # As with three processes or more, of which one has to do here.
    monkeypatch.setattr(OneAccelerator, "num_processes", 3)
    monkeypatch.setattr("trl_nlpo.launch.launch.DistributedDataParallel", torch.nn.Module)
    rehearsed = taken()
    assert len(rehearsed[2].synchronised) == len(plain[2].synchronised) + 1
    for ours, theirs in zip(plain[1], rehearsed[1], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert repr(plain[0]) == repr(rehearsed[0])


@pytest.mark.parametrize("family", ["gpt2", "opt", "bart"])
def test_more_padding_changes_nothing(family):
    module, rollout, estimates, sampling = real_example(family)

    def wider(tensor, value):
        return torch.nn.functional.pad(tensor, (0, 3), value=value)

    padded = dataclasses.replace(
        rollout,
        prompt_ids=torch.nn.functional.pad(rollout.prompt_ids, (2, 0), value=40),
        prompt_mask=torch.nn.functional.pad(rollout.prompt_mask, (2, 0), value=False),
        completion_ids=wider(rollout.completion_ids.masked_fill(~rollout.completion_mask, 17), 40),
        completion_mask=wider(rollout.completion_mask, False),
        token_sets=dataclasses.replace(rollout.token_sets, sizes=wider(rollout.token_sets.sizes, rollout.vocab_size)),
        **{name: wider(getattr(rollout, name), 0.0) for name in ("old_logprobs", "values")},
    )
    padded_estimates = make_estimates(padded, wider(estimates.advantages, 0.0), wider(estimates.returns, 0.0))
    plain = update(module, rollout, estimates, FULL, sampling, microbatch=3, num_mini_batches=2)
    other = update(module, padded, padded_estimates, FULL, sampling, microbatch=3, num_mini_batches=2)
    same_gradients(plain[1], other[1])
    same_stats(plain[0], other[0])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_ratio_is_one_at_the_first_step_and_not_afterwards(family):
    module, rollout, estimates, sampling = real_example(family)
    stats, _, _ = update(module, rollout, estimates, FULL, sampling, microbatch=3, learning_rate=0.1, num_ppo_epochs=2)
    assert stats.first_ratio_deviation < 1e-5
    assert stats.ratio_variance > 1e-6


def test_a_distribution_other_than_the_sampled_one_is_seen_in_the_ratio():
    module, rollout, estimates, sampling = real_example()
    for changed in (
        dataclasses.replace(sampling, temperature=1.2),
        dataclasses.replace(sampling, repetition_penalty=1.0),
    ):
        stats, _, _ = update(module, rollout, estimates, FULL, changed)
        assert stats.first_ratio_deviation > 1e-2
    unmasked = dataclasses.replace(rollout, token_sets=None)
    assert update(module, unmasked, estimates, FULL, sampling)[0].first_ratio_deviation > 1e-2


@pytest.mark.parametrize("limit", [1e-3, 0.0, None, -1.0])
def test_gradients_are_clipped_to_the_norm_and_only_measured_without_one(limit):
    module, rollout, estimates, sampling = real_example()
    _, (free,), _ = update(module, rollout, estimates, FULL, sampling)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in free.values()))
    stats, (clipped,), _ = update(module, rollout, estimates, dataclasses.replace(FULL, max_grad_norm=limit), sampling)
    assert stats.grad_norm == pytest.approx(norm, rel=1e-5)
    factor = 1e-3 / norm if limit == 1e-3 else 1.0
    same_gradients([{name: gradient * factor for name, gradient in free.items()}], [clipped], atol=1e-7)


def test_a_microbatch_is_cut_to_the_width_that_its_rows_need():
    rollout = make_rollout([[2], [2, 3, 3]], [[3], [3, 3, 1]], torch.ones(2, 3, 4, dtype=torch.bool))
    first, both = rollout.sequences(torch.tensor([0])), rollout.sequences(torch.tensor([1, 0]))
    assert (first.prompt_ids.tolist(), first.completion_ids.tolist()) == ([[2]], [[3]])
    assert first.token_sets.shape == (1, 1)
    assert both.prompt_ids.tolist() == [[2, 3, 3], [0, 0, 2]]
    assert both.prompt_mask.tolist() == [[True, True, True], [False, False, True]]
    assert both.completion_ids.tolist() == [[3, 3, 1], [3, 0, 0]]


PER_ROW = (
    "prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "old_logprobs", "values", "token_sets",
)  # fmt: skip


def test_two_processes_average_to_the_gradient_of_one_and_have_its_statistics():
    module, rollout, estimates, sampling = real_example()
    rollout = dataclasses.replace(rollout, old_logprobs=rollout.old_logprobs + 0.1 * torch.randn(8, 1))
    whole, (gradient,), _ = update(module, rollout, estimates, FULL, sampling)
    # the halves hold different numbers of tokens, so the mean of their means would be another gradient
    halves = [torch.arange(0, 3), torch.arange(3, 8)]
    parts = [
        dataclasses.replace(rollout, **{name: getattr(rollout, name)[rows] for name in PER_ROW}) for rows in halves
    ]
    of_parts = [make_estimates(None, estimates.advantages[rows], estimates.returns[rows]) for rows in halves]
    # what each half adds up alone: tokens of the step, and the sums of the statistics
    noted: list[list[torch.Tensor]] = [[], []]
    for part, of_part, mine in zip(parts, of_parts, noted, strict=True):
        update(module, part, of_part, FULL, sampling, all_sum=lambda tensor, mine=mine: mine.append(tensor) or tensor)
    assert noted[0][0] != noted[1][0]
    results = []
    for part, of_part, others in zip(parts, of_parts, reversed(noted), strict=True):
        remaining = iter(others)
        results.append(
            update(
                module, part, of_part, FULL, sampling, num_processes=2,
                all_sum=lambda tensor, remaining=remaining: tensor + next(remaining),
            )
        )  # fmt: skip
    mean = {name: (results[0][1][0][name] + results[1][1][0][name]) / 2 for name in gradient}
    same_gradients([gradient], [mean])
    for name in ("policy_loss", "value_loss", "policy_clipfrac", "approx_kl", "entropy", "ratio", "ratio_variance"):
        expected = pytest.approx(getattr(whole, name), rel=1e-4, abs=1e-6)
        assert [getattr(stats, name) for stats, _, _ in results] == [expected, expected], name


def test_processes_synchronise_in_the_last_microbatch_of_a_step_only():
    module, rollout, estimates, sampling = real_example()
    accelerator = update(
        module, rollout, estimates, FULL, sampling, microbatch=1, num_mini_batches=2, num_ppo_epochs=3
    )[2]
    assert accelerator.synchronised == [False, False, False, True] * 2 * 3


@pytest.mark.parametrize("seed", [0, 1])
def test_the_generator_decides_which_rows_make_a_minibatch(seed):
    module, rollout, estimates, sampling = real_example()
    first = update(module, rollout, estimates, FULL, sampling, num_mini_batches=2, seed=0)[1][0]
    other = update(module, rollout, estimates, FULL, sampling, num_mini_batches=2, seed=seed)[1][0]
    name = "value_model.weight"
    assert torch.equal(first[name], other[name]) is (seed == 0)


def test_a_step_starts_from_no_gradient_and_leaves_none():
    module, rollout, estimates, sampling = real_example()
    gradients = update(module, rollout, estimates, FULL, sampling, num_ppo_epochs=2)[1]
    same_gradients(gradients[:1], gradients[1:])  # nothing has been learned, so nothing has been added up
    assert all(weight.grad is None for weight in module.parameters())
    assert module.training


def test_a_value_model_of_its_own_is_taken_back_apart_and_gets_the_same_gradient_as_in_one_pass():
    torch.manual_seed(0)
    policy, value_model = tiny.policy(), tiny.classifier()
    for model in (policy, value_model):
        disable_dropout(model)
    _, rollout, estimates, _ = real_example()
    module = PolicyAndValue(policy, value_model)
    apart = update(module, rollout, estimates, FULL, microbatch=3)
    together = update(
        module, rollout, estimates, FULL, microbatch=3, num_processes=2, all_sum=lambda tensor: 2 * tensor
    )
    assert any("value_model.score" in name for name in apart[1][0])
    assert any("policy." in name for name in apart[1][0])
    # two processes with the same rows: each adds up 2 / (2 * tokens)
    same_gradients(apart[1], together[1])
    assert apart[0].num_optimizer_steps == 1


def two_rows(broken=None):
    """Two completions; one of them with an advantage that is not finite, if asked for."""
    rollout = make_rollout([[2], [3]], [[3, 1], [2]], old_logprobs=torch.tensor([[0.25, 0.25], [0.25, 0.0]]).log())
    rollout = dataclasses.replace(rollout, old_logprobs=torch.where(rollout.completion_mask, rollout.old_logprobs, 0))
    advantages = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    if broken is not None:
        advantages[1, 0] = broken
    return rollout, make_estimates(rollout, advantages, advantages)


class TestSkipping:
    def module(self):
        return markov.with_values(markov.MarkovModel(UNIFORM), [0.0, 1.0, 2.0, 3.0])

    def test_the_gradient_is_that_of_the_other_completions_alone(self):
        rollout, estimates = two_rows()
        skipped = torch.tensor([False, True])
        _, with_both, _ = update(self.module(), rollout, dataclasses.replace(estimates, skipped=skipped))
        # What is there must not matter.
        estimates.advantages[1], estimates.returns[1] = 1e6, -1e6
        stats, with_others, _ = update(self.module(), rollout, dataclasses.replace(estimates, skipped=skipped))
        first = make_rollout([[2]], [[3, 1]], old_logprobs=rollout.old_logprobs[:1])
        alone, expected, _ = update(
            self.module(), first, make_estimates(first, estimates.advantages[:1], estimates.returns[:1])
        )
        for gradients in (with_both, with_others):
            assert gradients[0].keys() == expected[0].keys()
            for name, gradient in expected[0].items():
                torch.testing.assert_close(gradients[0][name], gradient, rtol=0, atol=0)
        assert stats == alone

    def test_a_minibatch_without_anything_to_learn_from_is_no_step(self):
        rollout, estimates = two_rows()
        estimates = dataclasses.replace(estimates, skipped=torch.tensor([False, True]))
        stats, gradients, _ = update(
            self.module(), rollout, estimates, num_mini_batches=2, num_ppo_epochs=3, microbatch=1
        )
        assert (stats.num_optimizer_steps, stats.num_skipped_steps, len(gradients)) == (3, 3, 3)
        assert math.isfinite(stats.policy_loss)

    @pytest.mark.parametrize("seed", range(4))
    def test_a_minibatch_without_anything_to_learn_from_leaves_the_averages_of_the_others(self, seed):
        quarter = torch.full((3, 1), 0.25).log()
        rollout = make_rollout([[2], [3], [2]], [[3], [2], [1]], old_logprobs=quarter)
        advantages = torch.tensor([[1.0], [4.0], [9.0]])
        estimates = make_estimates(rollout, advantages, advantages)
        estimates = dataclasses.replace(estimates, skipped=torch.tensor([False, False, True]))
        stats, _, _ = update(self.module(), rollout, estimates, num_mini_batches=3, microbatch=1, seed=seed)
        # The ratio is 1, so the loss of a row is minus its advantage: -(1 + 4) / 2, in whatever order they come.
        assert stats.policy_loss == pytest.approx(-2.5)
        assert (stats.num_optimizer_steps, stats.num_skipped_steps) == (2, 1)

    @pytest.mark.parametrize("order", [[0, 1], [1, 0]])
    def test_a_step_that_is_taken_counts_whether_the_skipped_one_comes_before_it_or_after(self, order):
        totals = Totals(torch.device("cpu"))
        for row in order:
            totals.begin_step()
            if row == 1:
                totals.skip_step()
                continue
            totals.add(torch.tensor([True, True]), "tokens", policy_loss=torch.tensor([1.0, 3.0]))
            totals.add_step(torch.tensor(5.0))
        stats = totals.stats(lambda tensor: tensor)
        assert (stats.policy_loss, stats.grad_norm, stats.num_skipped_steps) == (2.0, 5.0, 1)

    def test_nothing_at_all_to_learn_from_leaves_no_averages(self):
        rollout, estimates = two_rows()
        module = self.module()
        before = [parameter.clone() for parameter in module.parameters()]
        estimates = dataclasses.replace(estimates, skipped=torch.tensor([True, True]))
        stats, gradients, _ = update(module, rollout, estimates, num_ppo_epochs=3, learning_rate=1.0)
        assert not gradients
        assert all(map(torch.equal, before, module.parameters()))
        assert (stats.num_optimizer_steps, stats.num_skipped_steps, stats.skipped_steps_in_a_row) == (0, 3, 3)
        assert math.isnan(stats.policy_loss)
        assert math.isnan(stats.grad_norm)


class TestNotFinite:
    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
    def test_the_step_is_not_taken_and_weights_and_optimizer_are_unharmed(self, broken):
        module = PolicyAndValue(markov.MarkovModel(UNIFORM))
        rollout, estimates = two_rows(broken)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
        plan = BatchPlan(1, 1, 2, 2, 2, 1)
        arguments = {
            "module": module, "optimizer": optimizer, "launch": OneProcess(), "objective": OBJECTIVE,
            "sampling": SamplingSettings(8),
        }  # fmt: skip
        stats = update_policy(
            module, rollout, estimates, plan=plan, generator=torch.Generator().manual_seed(0), **arguments
        )
        assert (stats.num_optimizer_steps, stats.num_skipped_steps) == (2, 2)
        assert all(parameter.isfinite().all() for parameter in module.parameters())
        state = [value for entry in optimizer.state.values() for value in entry.values()]
        assert state
        assert all(value.isfinite().all() for value in state)
        # averages are those of the healthy row: two tokens, whose losses are -1 and 1 before anything is learned
        assert math.isfinite(stats.policy_loss)
        assert math.isfinite(stats.grad_norm)

    def test_averages_are_those_of_the_steps_taken(self):
        rollout, estimates = two_rows(math.nan)
        both, _, _ = update(markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4), rollout, estimates,
                            num_mini_batches=2, microbatch=1)  # fmt: skip
        first = make_rollout([[2]], [[3, 1]], old_logprobs=rollout.old_logprobs[:1])
        alone, _, _ = update(markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4), first,
                             make_estimates(first, estimates.advantages[:1], estimates.returns[:1]))  # fmt: skip
        same = {"num_skipped_steps": 0, "skipped_steps_in_a_row": 0}
        assert dataclasses.replace(both, **same) == alone
        assert both.num_skipped_steps == 1

    def test_steps_skipped_since_the_last_one_taken_are_counted(self):
        rollout, estimates = two_rows(math.nan)
        rows = []
        for seed in range(8):
            stats, _, _ = update(markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4), rollout, estimates,
                                 num_mini_batches=2, microbatch=1, seed=seed)  # fmt: skip
            last = torch.randperm(2, generator=torch.Generator().manual_seed(seed))[-1]
            rows.append((stats.skipped_steps_in_a_row, int(last)))
        # row 1 is the broken one
        assert all(skipped == last for skipped, last in rows)
        assert {last for _, last in rows} == {0, 1}

    def test_a_step_that_another_process_cannot_take_is_taken_by_none(self):
        rollout, estimates = two_rows()

        def all_sum(tensor):
            # token counts and statistics of the other process are as ours; its loss is not finite
            return (
                torch.ones_like(tensor) if tensor.dtype == torch.long and tensor.ndim == 0 and not tensor else tensor
            )

        stats, gradients, _ = update(
            markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4), rollout, estimates, all_sum=all_sum
        )
        assert not gradients
        assert stats.num_skipped_steps == 1

    def test_the_scaler_of_fp16_gets_its_step_to_lower_its_scale(self, monkeypatch):
        monkeypatch.setattr(OneAccelerator, "scaler", object(), raising=False)
        rollout, estimates = two_rows(math.nan)
        stats, gradients, _ = update(markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4), rollout, estimates)
        assert len(gradients) == 1
        assert (stats.num_optimizer_steps, stats.num_skipped_steps) == (0, 1)


def apart(**changes):
    return dataclasses.replace(OBJECTIVE, **changes)


class TestTheCriticAlone:
    def example(self, trains_backbone=False, family="gpt2"):
        module, rollout, estimates, sampling = real_example(family)
        module.value_trains_backbone = trains_backbone
        return module, rollout, estimates, sampling

    def take(self, subject, part, objective=FULL, learning_rate=0.1):
        module, rollout, estimates, sampling = subject
        launch, optimizer = OneProcess(), NotedSGD(module, learning_rate)
        plan = BatchPlan(1, 4, len(rollout), 1, 1, 1)
        steps = OptimizerSteps(module, rollout, estimates, module, optimizer, launch, plan, objective, sampling)
        steps.take(list(torch.arange(len(rollout)).split(4)), part)
        return steps.totals.stats(lambda tensor: tensor), optimizer.gradients[0]

    @pytest.mark.parametrize("family", ["gpt2", "t5"])
    @pytest.mark.parametrize("trains_backbone", [False, True])
    def test_no_weight_of_the_policy_has_a_gradient(self, family, trains_backbone):
        stats, gradients = self.take(self.example(trains_backbone, family), "value")
        assert {name.split(".")[0] for name in gradients} == {"value_model"}
        assert math.isnan(stats.policy_loss)
        assert math.isnan(stats.ratio)
        assert stats.value_loss > 0
        assert stats.critic_grad_norm > 0

    def test_its_gradient_is_that_of_a_step_of_both(self):
        _, alone = self.take(self.example(), "value")
        _, both = self.take(self.example(), "both")
        for name, gradient in alone.items():
            torch.testing.assert_close(gradient, both[name])

    def test_each_of_its_passes_is_a_step_more(self):
        module, rollout, estimates, sampling = self.example()
        plan = BatchPlan(1, 64, len(rollout), 2, 3, 1, critic_updates_per_step=2)
        optimizer = NotedSGD(module, 0.1)
        stats = update_policy(
            module, rollout, estimates, module=module, optimizer=optimizer, launch=OneProcess(), plan=plan,
            objective=FULL, sampling=sampling, generator=torch.Generator(),
        )  # fmt: skip
        sizes = [len(gradients) for gradients in optimizer.gradients]
        of_both, of_critic = max(sizes), 2
        # Three epochs of two minibatches, each epoch followed by one of the critic alone.
        assert sizes == [of_both, of_both, of_critic, of_critic] * 3
        assert stats.num_optimizer_steps == 12

    def test_norms_are_clipped_apart_and_logged_apart(self):
        whole, free = self.take(self.example(), "both")
        objective = dataclasses.replace(FULL, max_grad_norm=0.01, critic_max_grad_norm=0.02)
        stats, clipped = self.take(self.example(), "both", objective)

        def norm(gradients, start):
            parts = [gradient.square().sum() for name, gradient in gradients.items() if name.startswith(start)]
            return float(torch.stack(parts).sum().sqrt())

        assert norm(clipped, "policy") == pytest.approx(0.01, rel=1e-3)
        assert norm(clipped, "value_model") == pytest.approx(0.02, rel=1e-3)
        assert stats.grad_norm == pytest.approx(norm(free, "policy"), rel=1e-4)
        assert stats.critic_grad_norm == pytest.approx(norm(free, "value_model"), rel=1e-4)
        assert whole.critic_grad_norm is None
        together = math.hypot(stats.grad_norm, stats.critic_grad_norm)
        assert whole.grad_norm == pytest.approx(together, rel=1e-4)

    def test_zero_is_no_limit(self):
        objective = dataclasses.replace(FULL, critic_max_grad_norm=0.0)
        _, free = self.take(self.example(), "both")
        _, apart = self.take(self.example(), "both", objective)
        same_gradients([free], [apart])

    def test_a_step_that_is_not_finite_is_not_taken(self):
        module, rollout, estimates, sampling = self.example()
        estimates = dataclasses.replace(estimates, returns=estimates.returns + math.inf)
        plan, optimizer = BatchPlan(1, 4, len(rollout), 1, 1, 1), NotedSGD(module, 0.1)
        steps = OptimizerSteps(module, rollout, estimates, module, optimizer, OneProcess(), plan, FULL, sampling)
        steps.take([torch.arange(len(rollout))], "value")
        assert optimizer.gradients == []
        assert steps.totals.num_skipped == 1


def test_the_anchor_by_hand():
    # After 2 only 0 and 3 are allowed, of 1/4 each: Z = 1/2, and the masking policy gave them 0.8. The anchor adds
    # lambda * log(0.8 / 0.5), whose gradient is -lambda d log Z: -(p(a | allowed) - p(a)) = -(1/2 - 1/4) inside, and
    # 1/4 outside.
    mask = torch.tensor([[[True, False, False, True]]])
    settings = {"mask": mask, "old_logprobs": torch.full((1, 1), -math.log(2))}
    for anchor, gradient in ((0.8, [-0.5, 0.5, 0.5, -0.5]), (0.4, [0.0] * 4)):
        rollout = make_rollout([[2]], [[3]], **settings, anchor_log_mass=torch.tensor([[anchor]]).log())
        module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
        stats, (gradients,), _ = update(module, rollout, make_estimates(rollout), apart(mask_anchor_coef=2.0))
        torch.testing.assert_close(gradients["policy.head.weight"][:, 2], torch.tensor(gradient))
        assert stats.anchor_loss == pytest.approx(max(0.0, math.log(anchor / 0.5) - ANCHOR_SLACK), abs=1e-6)


def test_without_a_coefficient_there_is_no_anchor():
    mask = torch.tensor([[[True, False, False, True]]])
    rollout = make_rollout(
        [[2]], [[3]], mask=mask, old_logprobs=torch.full((1, 1), -math.log(2)), anchor_log_mass=torch.zeros(1, 1)
    )
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
    stats, (gradients,), _ = update(module, rollout, make_estimates(rollout))
    assert gradients["policy.head.weight"].eq(0).all()
    assert stats.anchor_loss is None


@pytest.mark.parametrize("masked", [False, True])
def test_the_likelihood_of_positive_completions_by_hand(masked):
    # Two rows of two tokens, the first of which is positive: coefficient * mean over its tokens of -log p, unmasked.
    mask = torch.tensor([[[True, False, False, True]] * 2] * 2) if masked else None
    rollout = make_rollout(
        [[2], [2]], [[3, 3], [0, 0]], mask=mask, old_logprobs=torch.full((2, 2), -math.log(2 if masked else 4))
    )
    estimates = dataclasses.replace(make_estimates(rollout), positive=torch.tensor([True, False]))
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
    stats, (gradients,), _ = update(module, rollout, estimates, apart(positive_nll_coef=0.4))
    # One of its two tokens is after 2, the other after 3: 0.4 / 2 * (p(a) - [a is 3]), p = 1/4 whatever the mask is
    expected = 0.2 * (torch.full((4,), 0.25) - torch.tensor([0.0, 0.0, 0.0, 1.0]))
    for column in (2, 3):
        torch.testing.assert_close(gradients["policy.head.weight"][:, column], expected)
    assert stats.positive_nll == pytest.approx(math.log(4))


def test_a_batch_without_positive_completions_has_no_likelihood():
    rollout = make_rollout([[2]], [[3]], old_logprobs=torch.full((1, 1), -math.log(4)))
    estimates = dataclasses.replace(make_estimates(rollout), positive=torch.tensor([False]))
    module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0] * 4)
    stats, (gradients,), _ = update(module, rollout, estimates, apart(positive_nll_coef=0.4))
    assert gradients["policy.head.weight"].eq(0).all()
    assert stats.positive_nll is None


def test_in_units_of_ten_the_value_function_learns_tenfold_returns_as_single_ones():
    found = []
    for scale in (1.0, 10.0):
        rollout = make_rollout([[2]], [[3, 1]], values=torch.tensor([[1.0, -1.0]]) * scale)
        module = markov.with_values(markov.MarkovModel(UNIFORM), [0.0, 0.0, 1.0, -1.0])
        module.returns_scale = scale
        with torch.no_grad():
            _, values = module(rollout.sequences(torch.arange(1)))
        torch.testing.assert_close(values, torch.tensor([[1.0, -1.0]]) * scale)
        returns = torch.tensor([[3.0, -1.0]]) * scale
        stats, (gradient,), _ = update(module, rollout, make_estimates(rollout, returns=returns))
        found.append((gradient["value_model.weight"], stats.value_loss, stats.value_clipfrac))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1:] == pytest.approx(found[1][1:])


def test_a2c_is_one_step_along_the_advantages_times_the_score():
    # Ratio 1, no clip: the gradient of -mean A log p, computed the other way round.
    module, rollout, estimates, sampling = real_example("gpt2")
    objective = apart(cliprange=math.inf, cliprange_value=math.inf, vf_coef=0.0)
    clipped = apart(cliprange=0.2, vf_coef=0.0)
    _, (ours,), _ = update(module, rollout, estimates, objective, sampling)
    _, (of_ppo,), _ = update(module, rollout, estimates, clipped, sampling)
    module.zero_grad()
    sequences = rollout.sequences(torch.arange(len(rollout)))
    logits, _ = module(sequences, "policy")
    logprobs, _, _ = action_logprobs(logits, sequences, sampling)
    real = rollout.completion_mask
    (-(estimates.advantages * logprobs)[real].sum() / real.sum()).backward()
    for name, parameter in module.policy.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[f"policy.{name}"], parameter.grad, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(of_ppo[f"policy.{name}"], parameter.grad, rtol=1e-4, atol=1e-6)
