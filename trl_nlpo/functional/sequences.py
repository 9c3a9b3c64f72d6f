"""Rows of tokens of different lengths in one tensor. Padding is known from lengths, never from a token's value."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def left_pad(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts ending at the same column.

    Returns:
        ids `(B, P)` long, and mask `(B, P)` bool, True = real token. `[[5, 6], [7]]` gives `[[5, 6], [pad, 7]]`.
    """
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for index, row in enumerate(rows):
        if len(row):
            ids[index, width - len(row) :] = torch.as_tensor(row, dtype=torch.long)
            mask[index, width - len(row) :] = True
    return ids, mask


def flush_left(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the left as rows padded on the right: `[[pad, 7], [5, 6]]` gives `[[7, pad], [5, 6]]`.

    Args:
        ids, mask (`(B, P)` long / bool): True = real token.
    """
    width = ids.shape[1]
    shift = width - mask.sum(-1, keepdim=True)
    order = (torch.arange(width, device=ids.device) + shift) % width
    return ids.gather(1, order), mask.gather(1, order)


def right_pad(tensors: Sequence[torch.Tensor], value: float, length: int | None = None) -> torch.Tensor:
    """Stack chunks `(b_i, T_i, ...)` into `(sum b_i, T, ...)`, right-padded with `value`."""
    length = length if length is not None else max(tensor.shape[1] for tensor in tensors)
    padded = []
    for tensor in tensors:
        shape = (tensor.shape[0], length - tensor.shape[1], *tensor.shape[2:])
        padded.append(torch.cat([tensor, tensor.new_full(shape, value)], dim=1))
    return torch.cat(padded)


def completion_lengths(
    completion_ids: torch.Tensor, stop_token_ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tokens of each sampled row are real: up to and with the first stop token, else all.

    Args:
        completion_ids (`torch.Tensor` of shape `(B, T)`): as sampled; what stands behind the first stop token is
            filling.
        stop_token_ids: tokens that end a completion. Empty: none does.

    Returns:
        lengths `(B,)` long, at least 1, and whether a stop token ended the row `(B,)` bool.
        With stop token 9, `[[4, 9, 9], [4, 5, 6]]` gives lengths `[2, 3]` and ended `[True, False]`.
    """
    B, T = completion_ids.shape
    if not stop_token_ids:
        full = torch.full((B,), T, dtype=torch.long, device=completion_ids.device)
        return full, torch.zeros(B, dtype=torch.bool, device=completion_ids.device)
    stops = torch.isin(completion_ids, torch.as_tensor(list(stop_token_ids), device=completion_ids.device))
    ended = stops.any(-1)
    return torch.where(ended, stops.int().argmax(-1) + 1, T), ended


def mask_from_lengths(lengths: torch.Tensor, width: int) -> torch.Tensor:
    """Bool `(B, width)`, True on the first `lengths[b]` columns."""
    return torch.arange(width, device=lengths.device)[None, :] < lengths[:, None]


def position_ids_from(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions `(B, L)` that count real tokens only, so that padding does not move a token."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
