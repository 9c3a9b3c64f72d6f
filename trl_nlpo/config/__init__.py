"""The settings of training: ours, what each inherited one does here, and what other trainers call them."""

from .nlpo import NLPOConfig, described_fields, range_of


__all__ = ["NLPOConfig", "described_fields", "range_of"]
