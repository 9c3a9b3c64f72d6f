"""The coefficient of the KL penalty, fixed or adapted to a target."""

from __future__ import annotations

from dataclasses import dataclass

from ..functional.rewards import adapt_kl_coef


@dataclass
class KLController:
    """The coefficient as it is now.

    Attributes:
        value (`float`): beta.
        target (`float`, *optional*): nats per completion; None keeps `value` as it is.
        horizon (`float`): completions over which it acts.
    """

    value: float
    target: float | None
    horizon: float

    def update(self, kl: float, num_completions: int) -> None:
        """Move the coefficient after a batch whose completions had `kl` nats in the mean."""
        if self.target is not None:
            self.value = adapt_kl_coef(self.value, kl, self.target, num_completions / self.horizon)
