"""Which of a test's many cases run before every commit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Values for `pytest.mark.parametrize`, all of them marked slow but those in `fast`; tuples for several names."""
    values = list(values)
    missing = [value for value in fast if value not in values]
    if missing:
        raise ValueError(f"{missing} are not among the values {values}")
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [
        pytest.param(*row, marks=() if value in fast else pytest.mark.slow)
        for value, row in zip(values, rows, strict=True)
    ]
