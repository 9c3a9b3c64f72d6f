"""Frozen copies of a model or of its adapter, and computing with other weights than a model's own."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .adapters import trained_weights


def frozen_copy(model: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy of `model` that takes no gradient and stays in evaluation mode; `dtype` as in [`MaskingPolicy`]."""
    return with_dtype(copy.deepcopy(model).requires_grad_(False).eval(), dtype)


def with_dtype(model: Any, dtype: torch.dtype | None) -> Any:
    """The same model with its weights cast, but not its buffers; None: as they are."""
    if dtype is not None:
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    return model


def frozen_adapter(policy: Any, name: str, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The weights of one adapter as they are now, by their names in the model; `dtype` as in [`MaskingPolicy`]."""
    weights = trained_weights(policy, name)
    return {full_name: weight.detach().to(dtype, copy=True) for full_name, weight in weights.items()}


@contextlib.contextmanager
def swapped_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """Let `model` compute with other weights for a while, by pointing its parameters at them. No copy is made."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in weights}
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
