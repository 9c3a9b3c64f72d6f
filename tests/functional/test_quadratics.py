"""Conjugate gradients, by hand and against a dense solver."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo.functional.quadratics import conjugate_gradient


def test_two_steps_by_hand():
    # Nocedal & Wright's kind of example: ((4, 1), (1, 3)) x = (1, 2) has x = (1/11, 7/11)
    matrix, target = torch.tensor([[4.0, 1.0], [1.0, 3.0]]), torch.tensor([1.0, 2.0])
    # The first step goes along b: b.b / b.Ab = 5 / 20
    torch.testing.assert_close(conjugate_gradient(matrix.mv, target, 1), torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(conjugate_gradient(matrix.mv, target, 2), torch.tensor([1.0, 7.0]) / 11)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(size=st.integers(1, 8), seed=st.integers(0, 99))
def test_as_many_steps_as_unknowns_solve_the_system(size, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(size, dtype=torch.float64)
    target = torch.randn(size, generator=generator, dtype=torch.float64)
    solution = conjugate_gradient(matrix.mv, target, size, tolerance=0.0)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target), rtol=1e-6, atol=1e-8)


def test_it_stops_when_the_residual_is_small_enough_and_asks_no_more():
    calls = []

    def product(vector):
        calls.append(vector)
        return vector

    target = torch.tensor([3.0, -1.0])
    torch.testing.assert_close(conjugate_gradient(product, target, 10), target)
    assert len(calls) == 1


def test_nothing_to_solve_and_a_direction_without_curvature_give_zero():
    assert conjugate_gradient(lambda vector: vector, torch.zeros(3), 5).eq(0).all()
    assert conjugate_gradient(torch.zeros_like, torch.ones(3), 5).eq(0).all()
