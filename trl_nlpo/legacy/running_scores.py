"""Scores divided by the deviation of all scores so far."""

from __future__ import annotations

import torch


class RunningScores:
    """Mean and variance of all scores seen, as if they were one sample (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, scores: torch.Tensor) -> None:
        """Take in scores `(B,)`."""
        new = scores.double()
        count, mean = len(new), float(new.mean())
        total, shift = self.count + count, mean - self.mean
        self.squares += float((new - mean).square().sum()) + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def deviation(self) -> float:
        """The standard deviation (n - 1); 1 where all scores are alike, so that it can divide."""
        variance = self.squares / max(self.count - 1, 1)
        return variance**0.5 if variance > 1e-12 * max(self.mean**2, 1e-300) else 1.0

    def scaled(self, scores: torch.Tensor, shifts: bool) -> torch.Tensor:
        """Scores over the deviation of all so far, these included; less their mean first where `shifts`."""
        self.add(scores)
        return (scores - self.mean if shifts else scores) / self.deviation
