"""Sums over the real tokens of an update, and the averages that come of them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from ..functional.statistics import AllSum
from ..records import UpdateStats


class Totals:
    """Sums over real tokens, reduced to averages once, so that no average depends on how the batch was split."""

    OVER: ClassVar[dict[str, tuple[str, ...]]] = {
        "tokens": ("ratio", "ratio_squares", "approx_kl", "policy_loss", "policy_clipfrac", "entropy"),
        "value_tokens": ("value_loss", "value_clipfrac"),
        "anchored_tokens": ("anchor_loss",),
        "positive_tokens": ("positive_nll",),
    }
    """Of each number of tokens, the sums that are averaged over it."""

    NAMES = tuple(name for count, names in OVER.items() for name in (count, *names))

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)
        self.grad_norms: list[torch.Tensor] = []
        self.critic_grad_norms: list[torch.Tensor] = []
        self.first_ratio_deviation = torch.zeros((), device=device)
        self.num_steps = self.num_skipped = self.skipped_in_a_row = 0
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
            "tokens",
            ratio=deviation,
            ratio_squares=deviation.square(),
            approx_kl=0.5 * log_ratio.square(),
            policy_loss=loss,
            policy_clipfrac=clipped,
            entropy=entropies,
        )

    @torch.no_grad()
    def add(self, real: torch.Tensor, count: str, **per_token: torch.Tensor) -> None:
        """Add `(B, T)` numbers where `real` is True, and the number of these tokens to `count`."""
        self.sums[self.NAMES.index(count)] += real.sum()
        for name, values in per_token.items():
            self.sums[self.NAMES.index(name)] += torch.where(real, values.to(torch.float64), 0.0).sum()

    def add_step(self, grad_norm: torch.Tensor | None = None, critic_grad_norm: torch.Tensor | None = None) -> None:
        """A step was taken; of a norm that was not measured there is None."""
        self.num_steps += 1
        self.skipped_in_a_row = 0
        if grad_norm is not None:
            self.grad_norms.append(grad_norm)
        if critic_grad_norm is not None:
            self.critic_grad_norms.append(critic_grad_norm)

    def skip_step(self) -> None:
        """Leave the step that was begun out of all averages."""
        self.sums, self.first_ratio_deviation = self._before
        self.num_skipped += 1
        self.skipped_in_a_row += 1

    def means(self, all_sum: AllSum) -> dict[str, float]:
        """The averages over all processes, by the names of `OVER`; NaN of what there was nothing to average over."""
        sums = dict(zip(self.NAMES, all_sum(self.sums).tolist(), strict=True))
        return {name: sums[name] / (sums[count] or math.nan) for count, names in self.OVER.items() for name in names}

    def stats(self, all_sum: AllSum) -> UpdateStats:
        """The record of the update, of the averages over all processes."""
        found = self.means(all_sum)
        means: dict[str, Any] = {name: found[name] for names in Totals.OVER.values() for name in names}
        deviation = means.pop("ratio")
        squares = means.pop("ratio_squares")
        anchor, positive = (
            None if math.isnan(means[name]) else means[name] for name in ("anchor_loss", "positive_nll")
        )
        return UpdateStats(
            num_optimizer_steps=self.num_steps,
            ratio=1.0 + deviation,
            ratio_variance=math.nan if math.isnan(squares) else max(squares - deviation**2, 0.0),
            grad_norm=_mean(self.grad_norms),
            critic_grad_norm=_mean(self.critic_grad_norms) if self.critic_grad_norms else None,
            first_ratio_deviation=float(self.first_ratio_deviation),
            num_skipped_steps=self.num_skipped,
            skipped_steps_in_a_row=self.skipped_in_a_row,
            **{**means, "anchor_loss": anchor, "positive_nll": positive},
        )


def _mean(norms: list[torch.Tensor]) -> float:
    return float(torch.stack(norms).mean()) if norms else math.nan
