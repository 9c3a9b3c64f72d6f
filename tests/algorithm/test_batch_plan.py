"""How a batch is cut: sizes, steps, and what cannot be cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo import UserError
from trl_nlpo.algorithm.batch_plan import BatchPlan


def arguments(**changes):
    defaults = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_mini_batches": 2, "num_ppo_epochs": 3,
        "total_episodes": None, "num_train_epochs": 3.0, "max_steps": -1, "whiten_rewards": False,
        "critic_updates_per_step": 1,
    }  # fmt: skip
    return SimpleNamespace(**{**defaults, **changes})


def plan(num_processes=1, dataset_size=100, **changes):
    return BatchPlan.from_config(arguments(**changes), num_processes, dataset_size)


def test_sizes_multiply_up_from_the_microbatch():
    subject = plan(num_processes=3)
    # 4 rows x 2 accumulation steps = 8 per process, 24 over three; a step takes half of a process's 8
    assert (subject.microbatch_size, subject.local_batch_size, subject.batch_size) == (4, 8, 24)
    assert subject.local_minibatch_size == 4


@pytest.mark.parametrize(
    ("changes", "num_processes", "expected"),
    [
        ({"total_episodes": 80}, 1, 10),
        ({"total_episodes": 81}, 1, 11),  # the last episode needs an update of its own
        ({"total_episodes": 80}, 2, 5),
        ({"total_episodes": 3}, 1, 1),
        ({"num_train_epochs": 3.0}, 1, 38),  # 300 / 8 = 37.5
        ({"num_train_epochs": 0.5}, 1, 7),  # 50 / 8 = 6.25
        ({"num_train_epochs": 0.0}, 1, 1),
        ({"max_steps": 5, "total_episodes": 80}, 1, 5),
    ],
)
def test_the_number_of_updates(changes, num_processes, expected):
    assert plan(num_processes, **changes).num_updates == expected


@pytest.mark.parametrize(
    ("changes", "dataset_size", "says"),
    [
        ({}, 0, "train_dataset is empty"),
        ({}, 7, "train_dataset has 7 rows, but one update takes 8"),
        ({"num_mini_batches": 3}, 100, "num_mini_batches is 3, which does not divide the 8 completions"),
        ({"num_mini_batches": 16}, 100, "num_mini_batches is 16"),
        ({"whiten_rewards": True, "gradient_accumulation_steps": 1}, 100, "at least 8 completions"),
    ],
)
def test_what_cannot_be_cut_is_one_line(changes, dataset_size, says):
    with pytest.raises(UserError) as caught:
        plan(dataset_size=dataset_size, **changes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_data_set_of_exactly_one_batch_is_enough_and_rewards_of_eight_can_be_whitened():
    assert plan(dataset_size=8, whiten_rewards=True).batch_size == 8
    assert plan(num_processes=2, dataset_size=8, gradient_accumulation_steps=1, whiten_rewards=True).batch_size == 8


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    minibatch=st.integers(1, 6), minibatches=st.integers(1, 4), microbatch=st.integers(1, 7), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_pass_takes_every_row_once_in_steps_of_equal_size(minibatch, minibatches, microbatch, seed):
    rows = minibatch * minibatches
    subject = BatchPlan(1, microbatch, rows, minibatches, 1, 1)
    cuts = list(subject.minibatches(rows, torch.Generator().manual_seed(seed)))
    assert len(cuts) == minibatches
    assert sorted(int(row) for step in cuts for part in step for row in part) == list(range(rows))
    for step in cuts:
        assert sum(len(part) for part in step) == minibatch
        assert all(len(part) == microbatch for part in step[:-1])
        assert 0 < len(step[-1]) <= microbatch


def test_every_pass_is_shuffled_anew_and_the_generator_decides_the_order():
    subject, generator = BatchPlan(1, 32, 32, 1, 2, 1), torch.Generator().manual_seed(1)
    first, second = (next(subject.minibatches(32, generator))[0].tolist() for _ in range(2))
    again = next(subject.minibatches(32, torch.Generator().manual_seed(1)))[0].tolist()
    other = next(subject.minibatches(32, torch.Generator().manual_seed(2)))[0].tolist()
    assert first == again
    assert len({tuple(order) for order in (first, second, other, list(range(32)))}) == 4


@pytest.mark.parametrize(("rows", "num_mini_batches"), [(5, 4), (9, 4), (7, 3)])
def test_a_batch_of_ones_own_that_cannot_be_cut_evenly_takes_all_its_steps_too(rows, num_mini_batches):
    # `update_policy` promises num_ppo_epochs x num_mini_batches steps; 5 rows can be cut into 2 + 1 + 1 + 1.
    subject = BatchPlan(1, 8, 8, num_mini_batches, 1, 1)
    cuts = list(subject.minibatches(rows, torch.Generator().manual_seed(0)))
    assert len(cuts) == num_mini_batches


@pytest.mark.parametrize(
    ("epochs", "of_the_critic", "trains_policy", "expected"),
    [
        (2, 1, True, ["both", "both"]),
        (2, 3, True, ["both", "value", "value", "both", "value", "value"]),
        (2, 1, False, ["value", "value"]),
        (1, 3, False, ["value", "value", "value"]),
    ],
)
def test_the_critic_has_its_passes_for_each_of_the_policy(epochs, of_the_critic, trains_policy, expected):
    assert BatchPlan(1, 8, 8, 1, epochs, 1, of_the_critic).passes(trains_policy) == expected


def test_microbatches_have_rows_of_like_lengths_and_minibatches_stay_as_they_are():
    subject = plan(per_device_train_batch_size=2, gradient_accumulation_steps=8)
    lengths = torch.tensor([9, 1, 8, 2, 7, 3, 6, 4, 5, 9, 1, 8, 2, 7, 3, 6])
    plain, sorted_ = (
        list(subject.minibatches(16, torch.Generator().manual_seed(0), given)) for given in (None, lengths)
    )
    for before, after in zip(plain, sorted_, strict=True):
        assert torch.equal(torch.cat(before).sort().values, torch.cat(after).sort().values)
        in_order = lengths[torch.cat(after)]
        assert torch.equal(in_order, in_order.sort().values)
