"""Deprecated: `Interrupted` and `Terminated` are in [`trl_nlpo.errors`]. Goes with 0.2."""

from __future__ import annotations

import warnings
from typing import Any

from . import errors


def __getattr__(name: str) -> Any:
    if name not in ("Interrupted", "StoppedAtOnce", "StoppedRunError", "Terminated"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"trl_nlpo.signals.{name} is now trl_nlpo.errors.{name}.", FutureWarning, stacklevel=2)
    return getattr(errors, name)
