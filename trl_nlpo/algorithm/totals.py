"""Sums over the real tokens of an update, and the averages that come of them."""

from __future__ import annotations

import math

import torch

from ..functional.statistics import AllSum
from ..records import UpdateStats


class Totals:
    """Sums over real tokens, reduced to averages once, so that no average depends on how the batch was split."""

    NAMES = (
        "tokens", "ratio", "ratio_squares", "approx_kl", "policy_loss", "value_loss", "policy_clipfrac",
        "value_clipfrac", "entropy",
    )  # fmt: skip

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)
        self.grad_norms: list[torch.Tensor] = []
        self.first_ratio_deviation = torch.zeros((), device=device)
        self.num_skipped = self.skipped_in_a_row = 0
        self.begin_step()

    def begin_step(self) -> None:
        self._before = (self.sums.clone(), self.first_ratio_deviation)
        self.loss_is_finite = torch.ones((), dtype=torch.bool, device=self.sums.device)

    def add_loss(self, loss: torch.Tensor) -> None:
        self.loss_is_finite &= loss.detach().isfinite()

    @torch.no_grad()
    def add_policy(
        self,
        real: torch.Tensor,
        log_ratio: torch.Tensor,
        loss: torch.Tensor,
        clipped: torch.Tensor,
        entropies: torch.Tensor,
    ) -> None:
        # The variance is summed up around 1, where the ratio starts, as sums of squares around 0 would cancel.
        deviation = log_ratio.exp() - 1.0
        if not self.grad_norms:
            largest = torch.where(real, deviation.abs(), 0.0).max()
            self.first_ratio_deviation = torch.maximum(self.first_ratio_deviation, largest)
        self.add(
            real,
            tokens=torch.ones_like(log_ratio),
            ratio=deviation,
            ratio_squares=deviation.square(),
            approx_kl=0.5 * log_ratio.square(),
            policy_loss=loss,
            policy_clipfrac=clipped,
            entropy=entropies,
        )

    @torch.no_grad()
    def add(self, real: torch.Tensor, **per_token: torch.Tensor) -> None:
        for name, values in per_token.items():
            self.sums[self.NAMES.index(name)] += torch.where(real, values.to(torch.float64), 0.0).sum()

    def add_step(self, grad_norm: torch.Tensor) -> None:
        self.grad_norms.append(grad_norm)
        self.skipped_in_a_row = 0

    def skip_step(self) -> None:
        """Leave the step that was begun out of all averages."""
        self.sums, self.first_ratio_deviation = self._before
        self.num_skipped += 1
        self.skipped_in_a_row += 1

    def stats(self, all_sum: AllSum) -> UpdateStats:
        sums = dict(zip(self.NAMES, all_sum(self.sums).tolist(), strict=True))
        tokens = sums.pop("tokens") or math.nan
        means = {name: value / tokens for name, value in sums.items()}
        deviation = means.pop("ratio")
        return UpdateStats(
            num_optimizer_steps=len(self.grad_norms),
            ratio=1.0 + deviation,
            ratio_variance=max(means.pop("ratio_squares") - deviation**2, 0.0),
            grad_norm=float(torch.stack(self.grad_norms).mean()) if self.grad_norms else math.nan,
            first_ratio_deviation=float(self.first_ratio_deviation),
            num_skipped_steps=self.num_skipped,
            skipped_steps_in_a_row=self.skipped_in_a_row,
            **means,
        )
