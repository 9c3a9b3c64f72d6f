"""Whether one system is better than another: paired bootstraps over prompts, exact tests over few runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError


Score = float | None

_MOST_ENUMERATED = 16
"""Runs of which all choices of signs are gone through; of more, as many as these have are drawn."""

_TOGETHER = 4_000_000
"""Draws at a time, so that a thousand prompts and ten thousand resamples need no table of both."""


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same prompts, as one of a family of comparisons.

    Attributes:
        difference (`float`): mean of the first less mean of the second.
        low, high (`float`): of all intervals of the family together, 95 % of experiments have every true difference in
            its interval; of a single comparison, the percentiles of the resampled differences.
        p_value (`float`): two-sided; the share of resamples, centred on no difference, that are as far out.
        p_adjusted (`float`): the same for the most extreme of the family: the chance that, without any difference,
            some comparison of the family looks as different as this one. `p_value` where it is alone.
        num_prompts (`int`): those for which both have a score.
    """

    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
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
    return paired_bootstraps([(first, second)], num_resamples, seed)[0]


def paired_bootstraps(
    pairs: Sequence[tuple[Sequence[Score], Sequence[Score]]], num_resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """A family of paired bootstraps over the same prompts, with the same resamples for all.

    Intervals and p-values are corrected by the largest of the family's standardized differences in each resample
    (single-step max-T, Westfall & Young 1993), which takes into account that metrics of one text go together, where
    Bonferroni's correction would be too strict.

    Args:
        pairs: of each comparison the scores of the two systems, prompt by prompt; None where there is none.
        num_resamples (`int`), seed (`int`)

    Raises:
        UserError: no scores, or another number of them.
    """
    for first, second in pairs:
        if len(first) != len(second) or not len(first) or len(first) != len(pairs[0][0]):
            raise UserError(
                f"a paired comparison needs the same prompts: {len(first)} and {len(second)} scores were given."
            )
    # (prompts, comparisons)
    differences = np.array([_numbers(first) - _numbers(second) for first, second in pairs]).T
    means = np.nanmean(differences, axis=0)
    deviations = resampled_means(differences, num_resamples, seed) - means
    errors = np.sqrt((deviations**2).mean(axis=0))
    return _family(means, deviations, (~np.isnan(differences)).sum(axis=0), errors)


def two_level_bootstraps(
    differences: Sequence[np.ndarray], num_resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """A family of differences over the same seeds and prompts: what is said holds for other seeds and other prompts.

    Prompts are resampled. Seeds are few, and resampling three of them would call every fifth chance significant: the
    error of a mean over S seeds is drawn from Student's t with S - 1 degrees of freedom instead. Prompts count with
    the part of their variance that is not chance within a seed (the random effects of a two-way layout without
    replicates: Searle, Casella & McCulloch 1992, chapter 4).

    Args:
        differences: of each comparison `(S, P)`, a row per seed.
        num_resamples (`int`), seed (`int`)

    Raises:
        UserError: there is only one seed, which says nothing of others.
    """
    # (S, P, M), and what is left of it by seed, by prompt, and of chance within both
    values = np.stack(differences, axis=-1)
    num_seeds, num_prompts, _ = values.shape
    if num_seeds < 2:
        raise UserError("of one seed nothing can be said about others: run two at least.")
    of_seeds, of_prompts = values.mean(1), values.mean(0)
    means = of_seeds.mean(0)
    chance = values - of_seeds[:, None] - of_prompts + means
    # Mean squares; both have num_prompts - 1 as a divisor, which their ratio does not need.
    square = num_seeds * ((of_prompts - means) ** 2).sum(0)
    rest = (chance**2).sum((0, 1)) / (num_seeds - 1)
    share = np.sqrt(np.divide((square - rest).clip(min=0), square, out=np.zeros_like(square), where=square > 0))

    rng = np.random.default_rng(seed)
    # One draw for all comparisons keeps what they have in common.
    normal = rng.standard_normal((num_resamples, num_seeds)) @ (of_seeds - means)
    chi = np.sqrt(rng.chisquare(num_seeds - 1, (num_resamples, 1)) / (num_seeds - 1))
    by_seeds = normal / np.sqrt(num_seeds * (num_seeds - 1)) / chi
    by_prompts = share * (resampled_means(of_prompts, num_resamples, seed) - means)
    # Student's t has no variance with two degrees of freedom or one, so that it cannot be taken from the draws.
    errors = np.sqrt(of_seeds.var(0, ddof=1) / num_seeds + by_prompts.var(0))
    return _family(means, by_seeds + by_prompts, np.full(len(differences), num_prompts), errors)


@dataclass(frozen=True)
class SignFlip:
    """A difference between runs that are paired by seed, as one of a family.

    Attributes:
        difference (`float`): mean of the paired differences.
        low, high (`float`): the differences that the test of this comparison alone does not reject at 5 %; infinite
            with fewer than 6 runs, which cannot reject anything.
        p_value (`float`): two-sided; the share of all choices of signs whose mean is as far out. S runs give 2^(1 - S)
            at least.
        p_adjusted (`float`): the same for the most extreme of the family.
        above (`int`): runs in which the difference is positive.
    """

    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    above: int


def sign_flip_tests(differences: Sequence[Sequence[float]]) -> list[SignFlip]:
    """Exact tests of a family of differences over the same few runs: every choice of their signs (Fisher 1935).

    A bootstrap takes the spread of the runs for known; of ten it says p = 0.0001 where no test can. Corrected by the
    largest of the family's standardized means under each choice (single-step max-T, Westfall & Young 1993). Limits are
    order statistics of the means of all subsets (Hartigan 1969). Of more than 16 runs 65,536 choices are drawn.

    Args:
        differences: of each comparison one number per run, in one order of runs.

    Raises:
        UserError: no runs, or another number of them.
    """
    if not differences or any(len(row) != len(differences[0]) or not len(row) for row in differences):
        raise UserError(f"a test needs the same runs: {[len(row) for row in differences]} differences were given.")
    # (runs, comparisons)
    values = np.array(differences, dtype=np.float64).T
    chosen = _subsets(len(values))
    means = values.mean(0)
    flipped = np.abs((1 - 2 * chosen) @ values / len(values))
    # Of no difference at all nothing is left to standardize.
    scale = np.sqrt((values**2).mean(0))
    scale[scale == 0] = np.inf
    # Sums in another order differ in their last bits.
    threshold = np.abs(means) * (1 - 1e-12)
    p_values = (flipped >= threshold).mean(0)
    adjusted = ((flipped / scale).max(1)[:, None] >= threshold / scale).mean(0)
    subset_means = np.sort(chosen[1:] @ values / chosen[1:].sum(1, keepdims=True), axis=0)
    rank = int(0.025 * len(chosen))
    limits = (subset_means[rank - 1], subset_means[-rank]) if rank else (means - np.inf, means + np.inf)
    columns = zip(means, *limits, p_values, adjusted, (values > 0).sum(0), strict=True)
    return [
        SignFlip(float(mean), float(low), float(high), float(p), float(corrected), int(above))
        for mean, low, high, p, corrected, above in columns
    ]


def _subsets(number: int) -> np.ndarray:
    """`(C, number)` of zeros and ones: the empty subset first, then all others, or those that are drawn."""
    if number <= _MOST_ENUMERATED:
        return ((np.arange(2**number)[:, None] >> np.arange(number)) & 1).astype(np.float64)
    drawn = np.random.default_rng(0).integers(0, 2, (2**_MOST_ENUMERATED, number)).astype(np.float64)
    return np.concatenate([np.zeros((1, number)), drawn[drawn.any(1)]])


def _family(means: np.ndarray, deviations: np.ndarray, numbers: np.ndarray, errors: np.ndarray) -> list[Comparison]:
    """Intervals and p-values of `(M,)` means, corrected for their number, from `(R, M)` resampled deviations.

    `errors`, `(M,)`, are the standard errors by which comparisons of a family are made equal.
    """
    num_resamples = len(deviations)
    as_far = (np.abs(deviations) >= np.abs(means)).sum(axis=0)
    # Adding one to both counts keeps an estimate from being 0, which no finite number of resamples shows.
    p_values = (as_far + 1) / (num_resamples + 1)
    if len(means) == 1:
        low, high = np.percentile(means + deviations, [2.5, 97.5], axis=0)
        adjusted = p_values
    else:
        # A difference that no resample changes cannot be standardized, and is no other's competitor.
        scale = np.where(errors > 0, errors, np.inf)
        largest = np.abs(deviations / scale).max(axis=1)
        standardized = np.divide(np.abs(means), errors, out=np.full(len(means), np.inf), where=errors > 0)
        standardized[means == 0] = 0.0
        adjusted = ((largest[:, None] >= standardized).sum(axis=0) + 1) / (num_resamples + 1)
        reach = np.quantile(largest, 0.95) * errors
        low, high = means - reach, means + reach
    return [
        Comparison(float(mean), float(least), float(most), float(p), float(corrected), int(number))
        for mean, least, most, p, corrected, number in zip(means, low, high, p_values, adjusted, numbers, strict=True)
    ]


def interval_of_mean(scores: Sequence[Score], num_resamples: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over prompts: percentiles of the means of resampled prompts.

    Args:
        scores (`Sequence`): one at least that is not None.
        num_resamples (`int`), seed (`int`)
    """
    means = resampled_means(_numbers(scores)[:, None], num_resamples, seed)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)


def interquartile_mean(scores: Sequence[float]) -> float:
    """Mean of the middle half: a quarter is cut off at either end, whole scores or parts of them.

    More robust than the mean against runs that failed, less noisy than the median (Agarwal et al. 2021).
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    edges = np.arange(len(ordered) + 1)
    cut = len(ordered) / 4
    weights = np.clip(np.minimum(edges[1:], len(ordered) - cut) - np.maximum(edges[:-1], cut), 0.0, None)
    return float((weights * ordered).sum() / weights.sum())


def interval_of_interquartile_mean(
    groups: Sequence[Sequence[float]], num_resamples: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the interquartile mean of all scores together, by a stratified bootstrap.

    Args:
        groups: the runs' scores of each task; runs are resampled within their task.
        num_resamples (`int`), seed (`int`)
    """
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(group, dtype=np.float64) for group in groups]
    means = [
        interquartile_mean(np.concatenate([rng.choice(array, len(array)) for array in arrays]).tolist())
        for _ in range(num_resamples)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def resampled_means(columns: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Means of prompts drawn with replacement, the same prompts for all columns.

    Args:
        columns (`(N, M)`): a row per prompt; NaN where there is no score.
        num_resamples (`int`), seed (`int`)

    Returns:
        `(num_resamples, M)`; the mean of a resample without any score is that of the column.
    """
    known = ~np.isnan(columns)
    filled = np.where(known, columns, 0.0)
    sums = np.concatenate([counts @ filled for counts in _draws(len(columns), num_resamples, seed)])
    numbers = np.concatenate([counts @ known for counts in _draws(len(columns), num_resamples, seed)])
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nanmean(columns, axis=0))


def _draws(num_prompts: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each prompt is drawn in each resample, some resamples at a time."""
    rng = np.random.default_rng(seed)
    step = max(_TOGETHER // num_prompts, 1)
    for start in range(0, num_resamples, step):
        number = min(step, num_resamples - start)
        drawn = rng.integers(0, num_prompts, (number, num_prompts)) + num_prompts * np.arange(number)[:, None]
        yield np.bincount(drawn.ravel(), minlength=number * num_prompts).reshape(number, num_prompts).astype(float)


def _numbers(scores: Sequence[Score]) -> np.ndarray:
    return np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
