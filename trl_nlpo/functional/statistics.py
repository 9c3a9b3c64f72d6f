"""Averages over real tokens, of this process or of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch


AllSum = Callable[[torch.Tensor], torch.Tensor]
"""Adds a tensor up over all processes; the identity where there is one."""


def of_this_process(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over a single process."""
    return tensor


def masked_mean(values: torch.Tensor, mask: torch.Tensor, all_sum: AllSum = of_this_process) -> torch.Tensor:
    """Mean of `values` where `mask` (same shape, bool) is True; 0 when it is nowhere."""
    sums = torch.stack([torch.where(mask, values, 0.0).double().sum(), mask.sum().double()])
    total, count = all_sum(sums).unbind()
    return (total / count.clamp(min=1)).to(values.dtype)


def explained_variance(count: float, targets: float, squares: float, errors: float, error_squares: float) -> float:
    """1 - Var(R - V) / Var(R): 1 where values are the returns, 0 where they say as much as a constant, below 0 less.

    Args:
        count (`float`): tokens.
        targets, squares (`float`): sums of the returns R and of their squares.
        errors, error_squares (`float`): sums of R - V and of its squares.

    Returns:
        NaN where the returns are all alike, or there are none.
    """
    if count < 1:
        return math.nan
    variance = squares / count - (targets / count) ** 2
    unexplained = error_squares / count - (errors / count) ** 2
    # Less than rounding leaves of equal returns is no variance.
    return 1.0 - unexplained / variance if variance > 1e-12 * max(squares / count, 1e-300) else math.nan


def running_scale(scale: float | None, mean_square: float, momentum: float = 0.9) -> float:
    """The running root mean square, one batch later.

    The mean is left where it is: a value function has a bias for it, and a scale is all that its loss depends on
    (PopArt, van Hasselt et al. 2016, has both).

    Args:
        scale (`float`, *optional*): so far; None before the first batch.
        mean_square (`float`): of the batch.
        momentum (`float`): share of what was known before.

    Returns:
        the scale; it does not become 0 (1 where there was nothing but zeros).
    """
    square = mean_square if scale is None else momentum * scale**2 + (1.0 - momentum) * mean_square
    return math.sqrt(square) if square > 1e-16 and math.isfinite(square) else scale or 1.0


def running_moments(
    before: Sequence[float] | None, mean: float, mean_square: float, momentum: float = 0.9
) -> list[float]:
    """Running mean and mean square, one batch later; those of the batch where there were none before."""
    now = [mean, mean_square]
    if before is None:
        return now
    return [momentum * old + (1.0 - momentum) * new for old, new in zip(before, now, strict=True)]


def deviation(mean: float, mean_square: float) -> float:
    """The standard deviation; 1 where all values are alike, so that it can divide."""
    variance = mean_square - mean**2
    # Less than rounding leaves of equal values is no variance.
    return math.sqrt(variance) if variance > 1e-10 * max(mean_square, 1e-300) else 1.0


def masked_whiten(
    values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True, all_sum: AllSum = of_this_process
) -> torch.Tensor:
    """Values scaled to variance 1 and, with `shift_mean`, moved to mean 0, over the True positions of `mask`.

    The variance is the unbiased one (n - 1), as in TRL; with a single position it is taken as 0.

    Args:
        values (`torch.Tensor` of shape `(B, T)`), mask (the same shape, bool).
        shift_mean (`bool`): False keeps the mean (rewards keep their sign).
        all_sum: sums over processes, so that the statistics are those of the whole batch.

    Returns:
        `torch.Tensor` of shape `(B, T)`, 0 where `mask` is False.
    """
    mean = masked_mean(values, mask, all_sum)
    centered = torch.where(mask, values - mean, 0.0)
    sums = torch.stack([centered.double().square().sum(), mask.sum().double()])
    squares, count = all_sum(sums).unbind()
    variance = (squares / (count - 1).clamp(min=1)).to(values.dtype)
    whitened = centered * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else torch.where(mask, whitened + mean, 0.0)
