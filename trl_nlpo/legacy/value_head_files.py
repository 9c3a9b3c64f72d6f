"""Files of a value head: beside the language model, or, as the old library wrote them, among its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils import cached_file, logging

from ..errors import UserError


logger = logging.get_logger(__name__)

FILE = "v_head.safetensors"
PREFIX = "v_head.summary."
"""Of the names of its weights, as in the old library's files."""

OLD_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files in which the old library put the head, with or without the language model."""


def write_value_head(head: torch.nn.Linear, folder: str | os.PathLike[str]) -> None:
    """Write a head as `v_head.safetensors`."""
    tensors = {PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(tensors, Path(folder) / FILE)


def read_value_head(head: torch.nn.Linear, name: str) -> bool:
    """Put a saved head's weights into `head`.

    Args:
        head (`torch.nn.Linear`): of the size that fits the language model.
        name (`str`): a folder, or a repository on the Hub.

    Returns:
        whether there was one.

    Raises:
        UserError: it has another size.
    """
    for filename in (FILE, *OLD_FILES):
        path = _found(name, filename)
        tensors = {} if path is None else _tensors(path)
        if not tensors:
            continue
        try:
            head.load_state_dict(tensors)
        except RuntimeError:
            shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
            raise UserError(
                f"{name}/{filename} has a value head of another size ({shapes}) than the model, whose hidden states "
                f"have {head.in_features} numbers."
            ) from None
        return True
    logger.info(f"{name} has no value head: it starts random.")
    return False


def _found(name: str, filename: str) -> str | None:
    try:
        path: str | None = cached_file(name, filename)
    except OSError:
        return None
    return path


def _tensors(path: str) -> dict[str, torch.Tensor]:
    """The head's weights in a file, by their names in a linear layer."""
    if path.endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
            return {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return {name.removeprefix(PREFIX): tensor for name, tensor in loaded.items() if name.startswith(PREFIX)}
