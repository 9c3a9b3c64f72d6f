"""Conjugate gradients: a linear system whose matrix is known by its products with vectors only."""

from __future__ import annotations

from collections.abc import Callable

import torch


def conjugate_gradient(
    product: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor, max_steps: int, tolerance: float = 1e-10
) -> torch.Tensor:
    """x with A x = b, A symmetric and positive definite (Hestenes & Stiefel 1952; Nocedal & Wright, algorithm 5.2).

    Args:
        product: A v for a vector v.
        target (`torch.Tensor` of shape `(N,)`): b.
        max_steps (`int`): products at most. N of them are exact, up to rounding.
        tolerance (`float`): stop when |A x - b|^2 is no more than this times |b|^2.

    Returns:
        `torch.Tensor` of shape `(N,)`; 0 where b is 0.
    """
    solution = torch.zeros_like(target)
    residual = target.clone()
    direction = residual.clone()
    squared = residual.dot(residual)
    enough = tolerance * squared
    for _ in range(max_steps):
        if squared <= enough:
            break
        image = product(direction)
        curvature = direction.dot(image)
        # Rounding, or a matrix that is singular: no further step along this direction means anything.
        if not curvature > 0:
            break
        step = squared / curvature
        solution += step * direction
        residual -= step * image
        before, squared = squared, residual.dot(residual)
        direction = residual + (squared / before) * direction
    return solution
