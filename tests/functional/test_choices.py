"""The likelihood of a choice among completions."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_nlpo.functional.choices import choice_log_probs, choice_loss


def test_the_loss_of_a_choice_is_that_of_the_paper_by_hand():
    # Rewards log 1, log 2, log 3, log 4: the last is chosen with probability 4 / 10.
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()
    torch.testing.assert_close(choice_loss(rewards, torch.tensor([3])), torch.tensor([math.log(10 / 4)]))


def test_of_what_was_not_offered_nothing_is_chosen():
    rewards = torch.tensor([[0.0, 0.0, 100.0]])
    offered = torch.tensor([[True, True, False]])
    torch.testing.assert_close(choice_log_probs(rewards, offered).exp(), torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(choice_loss(rewards, torch.tensor([1]), offered), torch.tensor([math.log(2)]))


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_of_two_the_loss_is_the_pair_loss(first, second):
    rewards = torch.tensor([[first, second]], dtype=torch.float64)
    pair = -torch.nn.functional.logsigmoid(rewards[:, 1] - rewards[:, 0])
    torch.testing.assert_close(choice_loss(rewards, torch.tensor([1])), pair)


def test_completions_that_were_not_offered_get_no_gradient():
    rewards = torch.zeros(1, 3, requires_grad=True)
    choice_loss(rewards, torch.tensor([0]), torch.tensor([[True, True, False]])).sum().backward()
    torch.testing.assert_close(rewards.grad, torch.tensor([[-0.5, 0.5, 0.0]]))
