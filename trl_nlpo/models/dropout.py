"""No dropout, as a guarantee: two training-mode forward passes of a model are identical.

Dropout makes the importance ratio differ from 1 before any learning, and training in the paper often diverged with it
(section 5.4). Setting `nn.Dropout.p` to 0, as TRL does, is not enough: T5, BART, OPT, Llama and GPT-NeoX keep rates as
plain numbers on their modules, and BART and OPT drop whole layers.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import UserError


NOISE_NAMES = ("drop", "jitter")
"""Parts of the names under which modules keep a rate of training-time noise (layerdrop, drop_path, …)."""


_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def disable_dropout(model: nn.Module) -> None:
    """Set every rate of training-time noise in `model` to 0, and check that it worked where that is cheap.

    Raises:
        UserError: two training-mode forward passes still differ.
    """
    for module in model.modules():
        for name in _rates(module):
            setattr(module, name, 0.0)
    if _is_deterministic(model):
        return
    # Some code reads the rates off the configuration at every forward pass. The saved configuration is touched only
    # for those, as a later fine-tuning may want its dropout back.
    for module in model.modules():
        config = getattr(module, "config", None)
        for name in _rates(config) if config is not None else ():
            setattr(config, name, 0.0)
    if not _is_deterministic(model):
        raise UserError(
            f"{type(model).__name__} gives different outputs in two training-mode forward passes even with every "
            "dropout rate at 0: find what is random in its forward pass and switch it off before training."
        )


def has_dropout(model: nn.Module) -> bool:
    """Whether anything in `model` is random in training: a rate above 0, or two forward passes that differ."""
    return any(_rates(module) for module in model.modules()) or not _is_deterministic(model)


def _rates(holder: object) -> list[str]:
    """The names under which a module or a configuration keeps rates above 0 of training-time noise."""
    named = [
        name
        for name, value in vars(holder).items()
        if isinstance(value, float) and value > 0.0 and any(part in name.lower() for part in NOISE_NAMES)
    ]
    return [*named, "p"] if isinstance(holder, _DROPOUT) and holder.p > 0 else named


@torch.no_grad()
def _is_deterministic(model: nn.Module) -> bool:
    """Whether two training-mode forward passes over a few tokens agree. True where the model cannot be asked so."""
    # A classifier's head may ask for more than tokens; what is random lies in its backbone.
    if not hasattr(model, "generate"):
        model = getattr(model, getattr(model, "base_model_prefix", "") or "", model)
    get_input_embeddings = getattr(model, "get_input_embeddings", None)
    parameter = next(model.parameters(), None)
    if get_input_embeddings is None or parameter is None or parameter.numel() == 0 or parameter.is_meta:
        return True
    was_training = model.training
    tokens = torch.arange(16, device=parameter.device).view(2, 8) % get_input_embeddings().weight.shape[0]
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = tokens
    model.train()
    try:
        first, second = (model(**inputs, return_dict=True)[0] for _ in range(2))
    finally:
        model.train(was_training)
    return torch.equal(first, second)
