"""How far a reward model can be trusted: accuracy and calibration, on choices that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """Of a reward model on held-out choices.

    Attributes:
        accuracy (`float`): how often its highest reward is that of the completion that was chosen; of equal rewards
            each counts its share.
        accuracy_interval (`tuple`): 95 %, the wider of 2,000 resamples of the data's rows and Wilson's for as many.
        chance (`float`): accuracy of a guess; 1 / k for choices among k.
        log_loss (`float`): mean of -log P(chosen), in nats.
        log_loss_of_chance (`float`): mean of log k.
        calibration_error (`float`): mean distance of the probability that it gives its favourite and how often that
            was chosen, over ten bins of equal width, weighted by their choices.
        num_choices, num_rows (`int`)
        bins (`list[dict]`): of each bin with choices `probability`, `accuracy` and `number`.
    """

    accuracy: float
    accuracy_interval: tuple[float, float]
    chance: float
    log_loss: float
    log_loss_of_chance: float
    calibration_error: float
    num_choices: int
    num_rows: int
    bins: list[dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """Every number; JSON."""
        return asdict(self)


def advice(accuracy_interval: Sequence[float], chance: float) -> str:
    """What to do about a model that may know nothing; empty where it is better than chance beyond doubt."""
    if accuracy_interval[0] > chance:
        return ""
    return (
        "It may know nothing yet, as chance is within its interval: raise the learning rate or the epochs, start from "
        "a better model, or give more choices."
    )


def reliability(
    rewards: Sequence[Sequence[float]], choices: Sequence[int], rows: Sequence[int], seed: int = 0
) -> Reliability:
    """Compare rewards with choices.

    Args:
        rewards: of each choice the rewards of its completions.
        choices (`Sequence[int]`): the index of the chosen one.
        rows (`Sequence[int]`): the data's row of each choice; those of one row are resampled together.
        seed (`int`): of the resamples.
    """
    log_probs = [_log_softmax(row) for row in rewards]
    hits = np.array([_share_of_best(row, choice) for row, choice in zip(rewards, choices, strict=True)])
    favourite = np.array([math.exp(max(row)) for row in log_probs])
    bins = _bins(favourite, hits)
    sizes = np.array([len(row) for row in rewards])
    return Reliability(
        accuracy=float(hits.mean()),
        accuracy_interval=_interval(hits, np.asarray(rows), seed),
        chance=float((1 / sizes).mean()),
        log_loss=float(np.mean([-row[choice] for row, choice in zip(log_probs, choices, strict=True)])),
        log_loss_of_chance=float(np.log(sizes).mean()),
        calibration_error=sum(b["number"] * abs(b["probability"] - b["accuracy"]) for b in bins) / len(hits),
        num_choices=len(hits),
        num_rows=len(set(rows)),
        bins=bins,
    )


def _log_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    total = top + math.log(sum(math.exp(value - top) for value in row))
    return [value - total for value in row]


def _share_of_best(row: Sequence[float], choice: int) -> float:
    best = max(row)
    return float(row[choice] == best) / list(row).count(best)


def _bins(favourite: np.ndarray, hits: np.ndarray) -> list[dict[str, float]]:
    numbers = np.minimum((favourite * 10).astype(int), 9)
    return [
        {
            "probability": float(favourite[numbers == number].mean()),
            "accuracy": float(hits[numbers == number].mean()),
            "number": int((numbers == number).sum()),
        }
        for number in sorted(set(numbers.tolist()))
    ]


def _interval(hits: np.ndarray, rows: np.ndarray, seed: int) -> tuple[float, float]:
    """Percentiles over resamples of the rows, and at least Wilson's interval for as many rows.

    Resamples of a few rows that are all right know no doubt; Wilson's interval does.
    """
    _, groups = np.unique(rows, return_inverse=True)
    totals, sizes = np.bincount(groups, weights=hits), np.bincount(groups)
    draws = np.random.default_rng(seed).integers(len(sizes), size=(2000, len(sizes)))
    low, high = np.percentile(totals[draws].sum(1) / sizes[draws].sum(1), [2.5, 97.5])
    n, z, share = len(sizes), 1.959964, float(hits.mean())
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(min(float(low), middle - half), 0.0), min(max(float(high), middle + half), 1.0)
