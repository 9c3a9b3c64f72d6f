"""Quantized base models (bitsandbytes, 4 or 8 bits) under adapters."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import UserError


def prepare_quantized(model: Any, has_adapter: bool) -> None:
    """Make a quantized model fit for sampling and training in turn; does nothing to other models.

    On CPUs with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first pass in evaluation mode, for a kernel
    that knows no gradients; from then on the gradients of adapters are silently missing. That is switched off here,
    and undone where it has happened. bitsandbytes says at every call that inputs are cast; it is silenced for the rest
    of the process.

    Args:
        model: the policy, or a PEFT model of it.
        has_adapter (`bool`): whether an adapter is trained on it.

    Raises:
        UserError: there is no adapter; quantized weights cannot be trained themselves.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(base, "quantization_method", None) is None:
        return
    if not has_adapter:
        raise UserError(
            "The model is quantized, and quantized weights cannot be trained: pass a peft_config (use_peft: true in a "
            "recipe) to train an adapter on it."
        )
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in base.modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        module.support_avx512bf16_for_cpu = False
        if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
            module.state_dict()  # which unpacks the weights, to save them
