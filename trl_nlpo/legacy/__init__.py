"""The `.step()` loop of TRL 0.7 to 0.11 on this package's parts, for scripts that were written for it."""

from __future__ import annotations

from transformers import set_seed

from .config import PPOConfig
from .length_sampler import LengthSampler
from .ppo_trainer import PPOTrainer
from .value_head_models import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    create_reference_model,
    respond_to_batch,
)


__all__ = [
    "AutoModelForCausalLMWithValueHead",
    "AutoModelForSeq2SeqLMWithValueHead",
    "LengthSampler",
    "PPOConfig",
    "PPOTrainer",
    "create_reference_model",
    "respond_to_batch",
    "set_seed",
]
