"""Random lengths of prompts and completions."""

from __future__ import annotations

import numpy as np


class LengthSampler:
    """Whole numbers drawn uniformly from `min_value` to `max_value - 1`, from NumPy's global random state.

    Args:
        min_value (`int`): the smallest length.
        max_value (`int`): one more than the largest.
    """

    def __init__(self, min_value: int, max_value: int):
        self.values = list(range(min_value, max_value))

    def __call__(self) -> int:
        return int(np.random.choice(self.values))
