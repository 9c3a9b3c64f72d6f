"""`NLPOTrainer`, and what it is made of."""

from .nlpo import NLPOTrainer


__all__ = ["NLPOTrainer"]
