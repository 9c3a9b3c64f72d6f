"""Averages over real tokens, of this process or of all."""

from __future__ import annotations

from collections.abc import Callable

import torch


AllSum = Callable[[torch.Tensor], torch.Tensor]
"""Adds a tensor up over all processes; the identity where there is one."""


def of_this_process(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over a single process."""
    return tensor


def masked_mean(values: torch.Tensor, mask: torch.Tensor, all_sum: AllSum = of_this_process) -> torch.Tensor:
    """Mean of `values` where `mask` (same shape, bool) is True; 0 when it is nowhere."""
    sums = all_sum(torch.stack([torch.where(mask, values, 0.0).double().sum(), mask.sum().double()]))
    total: torch.Tensor = sums[0]
    count: torch.Tensor = sums[1]
    return (total / count.clamp(min=1)).to(values.dtype)


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
    squares, count = all_sum(torch.stack([centered.double().square().sum(), mask.sum().double()]))
    variance = (squares / (count - 1).clamp(min=1)).to(values.dtype)
    whitened = centered * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else torch.where(mask, whitened + mean, 0.0)
