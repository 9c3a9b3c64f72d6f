"""Which system people like better: variance and Tukey's test of ratings, Bradley and Terry's model of choices."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ..errors import UserError
from .judgements import Choice, Rating


@dataclass(frozen=True)
class Mean:
    """Of a system's ratings: `value` and a 95 % `low` and `high`, over `num_items` completions, resampled whole."""

    value: float
    low: float
    high: float
    num_items: int


@dataclass(frozen=True)
class Variance:
    """One-way analysis of variance over systems, of each completion's mean rating: F, its p, degrees of freedom."""

    f: float
    p_value: float
    between: int
    within: int


@dataclass(frozen=True)
class Difference:
    """Of two systems' means, first less second, with Tukey's 95 % interval and p, corrected for all pairs."""

    first: str
    second: str
    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Strength:
    """A system in Bradley and Terry's model.

    Attributes:
        value (`float`): log-odds of being chosen against the reference system, whose value is 0.
        low, high (`float`): 95 % Wald interval; as `value` for the reference.
        win_rate (`float`): share of its comparisons that it won; ties are half.
        num_comparisons (`int`)
    """

    value: float
    low: float
    high: float
    win_rate: float
    num_comparisons: int


def item_means(ratings: Sequence[Rating]) -> dict[str, dict[str, float]]:
    """By system and completion the mean of what people said first. Gold completions are not the systems'."""
    found: dict[str, dict[str, list[float]]] = {}
    for rating in ratings:
        if not rating.is_repeat and rating.gold is None:
            found.setdefault(rating.system, {}).setdefault(rating.item, []).append(rating.value)
    return {system: {item: fmean(values) for item, values in of_system.items()} for system, of_system in found.items()}


def means(ratings: Sequence[Rating], num_resamples: int = 2000, seed: int = 0) -> dict[str, Mean]:
    """The mean rating of every system; its interval resamples completions."""
    found = {}
    for system, of_system in item_means(ratings).items():
        values = np.array(list(of_system.values()))
        draws = np.random.default_rng(seed).integers(len(values), size=(num_resamples, len(values)))
        low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
        found[system] = Mean(float(values.mean()), float(low), float(high), len(values))
    return found


def analysis_of_variance(ratings: Sequence[Rating]) -> Variance | None:
    """Whether systems differ at all; None with fewer than two systems or two completions of one, or no variance."""
    from scipy import stats

    groups = _groups(ratings)
    if groups is None:
        return None
    result = stats.f_oneway(*groups.values())
    return Variance(
        float(result.statistic),
        float(result.pvalue),
        len(groups) - 1,
        sum(map(len, groups.values())) - len(groups),
    )


def tukey(ratings: Sequence[Rating]) -> list[Difference]:
    """Tukey's honestly significant differences of all pairs of systems; empty where there can be none."""
    from scipy import stats

    groups = _groups(ratings)
    if groups is None:
        return []
    result = stats.tukey_hsd(*groups.values())
    interval = result.confidence_interval(0.95)
    return [
        Difference(
            first,
            second,
            float(result.statistic[i, j]),
            float(interval.low[i, j]),
            float(interval.high[i, j]),
            float(result.pvalue[i, j]),
        )
        for (i, first), (j, second) in itertools.combinations(enumerate(groups), 2)
    ]


def _groups(ratings: Sequence[Rating]) -> dict[str, list[float]] | None:
    groups = {system: list(of_system.values()) for system, of_system in item_means(ratings).items()}
    if len(groups) < 2 or any(len(values) < 2 for values in groups.values()):
        return None
    return None if all(len(set(values)) == 1 for values in groups.values()) else groups


def bradley_terry(choices: Sequence[Choice], reference: str | None = None) -> dict[str, Strength]:
    """The strengths of systems that explain who was chosen over whom (Bradley and Terry 1952).

    A choice among k is k - 1 comparisons that the chosen one won; a tie is half a win for each. A logistic regression
    without intercept, by statsmodels.

    Args:
        choices: of one criterion. Gold questions and repeats are left out.
        reference (`str`, *optional*): the system with strength 0; by default the first by name.

    Raises:
        UserError: the reference took no part, there is one system, or some never win (or never lose) against the rest,
            so that no finite strength explains it.
    """
    import statsmodels.api as sm

    rows, weights = _comparisons(choices)
    systems = sorted({system for pair in rows for system in pair})
    if len(systems) < 2:
        raise UserError("a comparison of systems needs choices between two of them or more.")
    reference = systems[0] if reference is None else reference
    if reference not in systems:
        raise UserError(f"there is no system {reference!r} among {', '.join(systems)}.")
    _check_connected(rows, systems)
    others = [system for system in systems if system != reference]
    design = np.array([[(name == winner) - (name == loser) for name in others] for winner, loser in rows], dtype=float)
    # Each comparison once as it was and once from the other side, so that ones and zeros are both there.
    both, won = np.concatenate([design, -design]), np.repeat([1.0, 0.0], len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = sm.GLM(won, both, family=sm.families.Binomial(), freq_weights=np.tile(weights, 2) / 2).fit()
    spread = 1.959964 * fitted.bse
    found = {reference: (0.0, 0.0)} | {
        name: (float(value), float(size)) for name, value, size in zip(others, fitted.params, spread, strict=True)
    }
    return {name: Strength(value, value - size, value + size, *_record(rows, weights, name))
            for name, (value, size) in sorted(found.items(), key=lambda pair: -pair[1][0])}  # fmt: skip


def _comparisons(choices: Sequence[Choice]) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Winner and loser of each comparison, and how much it counts."""
    rows: list[tuple[str, str]] = []
    weights: list[float] = []
    for choice in choices:
        if choice.is_repeat or choice.gold is not None:
            continue
        if choice.choice is None:
            for pair in itertools.combinations(choice.systems, 2):
                rows += [pair, pair[::-1]]
                weights += [0.5, 0.5]
            continue
        winner = choice.systems[choice.choice]
        losers = [system for index, system in enumerate(choice.systems) if index != choice.choice]
        rows += [(winner, loser) for loser in losers]
        weights += [1.0] * len(losers)
    kept = [index for index, (winner, loser) in enumerate(rows) if winner != loser]
    return [rows[index] for index in kept], np.array([weights[index] for index in kept])


def _check_connected(rows: Sequence[tuple[str, str]], systems: Sequence[str]) -> None:
    """A finite strength for each needs that every set of systems lost to the rest at least once (Ford 1957)."""
    beaten: dict[str, set[str]] = {system: set() for system in systems}
    for winner, loser in rows:
        beaten[winner].add(loser)
    for start in systems:
        reached, new = {start}, [start]
        while new:
            new = [loser for winner in new for loser in beaten[winner] if loser not in reached]
            reached.update(new)
        if len(reached) < len(systems):
            never = ", ".join(sorted(set(systems) - reached))
            raise UserError(
                f"{start} never won against {never}, directly or over others, so that no finite strength explains the "
                "choices: collect more of them, or leave a system out."
            )


def _record(rows: Sequence[tuple[str, str]], weights: np.ndarray, name: str) -> tuple[float, int]:
    won = sum(weight for (winner, _), weight in zip(rows, weights, strict=True) if winner == name)
    played = sum(weight for pair, weight in zip(rows, weights, strict=True) if name in pair)
    return (float(won / played) if played else math.nan), round(float(played))
