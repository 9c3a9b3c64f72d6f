"""When labels are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """Labels that are asked for together.

    Attributes:
        update (`int`): after so many updates; 0 is before the first.
        num_labels (`int`): how many are asked for.
    """

    update: int
    num_labels: int


def labels_due(update: float, num_updates: int, initial: int, final: int) -> float:
    """Labels that there should be after an update: initial + (final - initial) (1 - (1 - n / N)^2).

    The schedule of Ziegler et al. 2019 (section 2.3): most labels early, when the policy moves fastest away from what
    the reward model knows, and fewer and fewer towards the end.

    Args:
        update (`float`): n, from 0 to `num_updates`.
        num_updates (`int`): N.
        initial, final (`int`): labels before the first update, and in all.

    Example:
        >>> labels_due(50, 100, 100, 500)
        400.0
    """
    return initial + (final - initial) * (1 - (1 - update / num_updates) ** 2)


def rounds_of(num_updates: int, initial: int, final: int, retrainings: int) -> Sequence[Round]:
    """The first labels, and `retrainings` equal shares of the others, each when half of it is due.

    So every label is asked for before the run ends. Shares that fall on the same update are asked for together.

    Example:
        >>> [(part.update, part.num_labels) for part in rounds_of(100, 100, 300, 2)]
        [(0, 100), (14, 100), (50, 100)]
    """
    shares: dict[int, int] = {0: initial}
    for index in range(retrainings):
        share = 1 - math.sqrt(1 - (index + 0.5) / retrainings)
        update = min(math.ceil(num_updates * share), num_updates - 1)
        size = (final - initial) * (index + 1) // retrainings - (final - initial) * index // retrainings
        shares[update] = shares.get(update, 0) + size
    return [Round(update, size) for update, size in sorted(shares.items()) if size]
