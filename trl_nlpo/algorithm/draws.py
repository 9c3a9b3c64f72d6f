"""The random numbers that decide completions: a stream of its own for every row."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch


def row_draws(seed: int, rows: Sequence[int], num_tokens: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) that decide completions: a stream of its own for every row.

    So a completion depends on its prompt, the policy and the number of its row, and on nothing else: not on the rows
    that are computed with it, on how a batch is split, or on how many processes share it.

    Args:
        seed (`int`): of the whole batch, 0 or more.
        rows (`Sequence[int]`): B numbers of rows in that batch, 0 or more.
        num_tokens (`int`): T, most tokens of a completion.

    Returns:
        `torch.Tensor` of shape `(B, T)`, float64.
    """
    streams = [np.random.default_rng((seed, row)).random(num_tokens) for row in rows]
    return torch.from_numpy(np.stack(streams))


def tokens_at(draws: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The token at which the cumulative distribution passes a number: uniform numbers give samples.

    The number is looked up among blocks of tokens first and then in its block: one pass over the vocabulary.

    Args:
        draws (`torch.Tensor` of shape `(B,)`): in [0, 1).
        actions (`torch.Tensor` of shape `(B, V)`): logits, minus infinity for what is forbidden.

    Returns:
        `torch.Tensor` of shape `(B, 1)`, long.
    """
    probabilities = torch.nn.functional.pad(actions.softmax(-1), (0, -actions.shape[-1] % _BLOCK))
    blocks = probabilities.view(len(actions), -1, _BLOCK)
    masses = blocks.sum(-1).to(draws.dtype)
    shares = draws.unsqueeze(-1)
    block, ends = _passed(masses, shares)
    # What is left of the share within its block, of the block's own mass.
    rest = 1.0 + (shares * ends[:, -1:] - ends.gather(1, block)) / masses.gather(1, block)
    of_block = blocks[torch.arange(len(actions), device=actions.device), block.squeeze(1)].to(draws.dtype)
    return block * _BLOCK + _passed(of_block, rest.clamp(min=0.0))[0]


_BLOCK = 256


def _passed(masses: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where `(B, K)` masses, added up from the left, pass shares `(B, 1)` of their sum; and the sums `(B, K)`."""
    ends = masses.cumsum(-1)
    # A little below 1, so that rounding never moves past the last mass that is not 0.
    below = shares.clamp(max=1.0 - torch.finfo(shares.dtype).eps)
    return torch.searchsorted(ends, below * ends[:, -1:], right=True), ends


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a random stream of its own and leave the global one where it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def random_state() -> tuple[Any, ...]:
    """Where the global random generators are: Python's, NumPy's, PyTorch's, and those of the GPUs."""
    on_device = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device


def set_random_state(state: tuple[Any, ...]) -> None:
    """Put the global random generators back to where [`random_state`] found them."""
    python, numpy, torch_state, on_device = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch_state)
    if on_device is not None:
        torch.cuda.set_rng_state_all(on_device)
