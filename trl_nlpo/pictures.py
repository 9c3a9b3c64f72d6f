"""matplotlib, which is drawn with where it is installed, and does without a screen."""

from __future__ import annotations

from typing import Any


def pyplot() -> Any:
    """matplotlib's `pyplot`; None where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("agg")
    from matplotlib import pyplot as found

    return found
