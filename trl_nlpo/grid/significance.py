"""Whether one system is better than another on the same prompts: the paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same prompts.

    Attributes:
        difference (`float`): mean of the first less mean of the second.
        low, high (`float`): 95 % interval of the difference (percentiles of the resampled differences).
        p_value (`float`): two-sided; twice the share of resamples, centred on no difference, that are as far out.
        num_prompts (`int`)
    """

    difference: float
    low: float
    high: float
    p_value: float
    num_prompts: int


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], num_resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Resample prompts with replacement (Efron & Tibshirani 1993, chapter 16; Koehn 2004 for generated text).

    Args:
        first, second (`Sequence[float]`): scores of the two systems, prompt by prompt.
        num_resamples (`int`), seed (`int`)

    Raises:
        UserError: no scores, or another number of them.
    """
    if len(first) != len(second) or not len(first):
        raise UserError(
            f"a paired comparison needs the same prompts: {len(first)} and {len(second)} scores were given."
        )
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean = float(differences.mean())
    rng = np.random.default_rng(seed)
    # Row by row, so that a thousand prompts and ten thousand resamples need no table of both.
    means = np.array(
        [differences[rng.integers(0, len(differences), len(differences))].mean() for _ in range(num_resamples)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    # Adding one to both counts keeps the estimate from being 0, which no finite number of resamples shows.
    as_far = int((np.abs(means - mean) >= abs(mean)).sum())
    return Comparison(mean, float(low), float(high), (as_far + 1) / (num_resamples + 1), len(differences))
