"""Reinforcement learning of text generators with a critic, for TRL: PPO and NLPO."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .former_names import know_former_names


__version__ = "0.1.0.dev0"

_EXPORTS = {
    "NLPOConfig": "config",
    "NLPOTrainer": "trainer",
    "UserError": "errors",
}

__all__ = ["NLPOConfig", "NLPOTrainer", "UserError", "__version__"]

if TYPE_CHECKING:
    from .config import NLPOConfig
    from .errors import UserError
    from .trainer.nlpo import NLPOTrainer


def __getattr__(name: str) -> Any:
    # Torch and transformers take seconds to import; `import trl_nlpo` and `trl-nlpo --help` should not.
    if name in _EXPORTS:
        return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


know_former_names()
