"""Prompts that come as token ids: read from whatever holds them, and their padding taken off."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError


def as_list(value: Any) -> Any:
    """A tensor, an array or a tuple as a list; everything else as it is."""
    if getattr(value, "ndim", 0) > 0 and hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def read_token_ids(row: Mapping[str, Any], where: str) -> tuple[list[int], bool]:
    """The `input_ids` of a row at which its `attention_mask`, if it has one, is not 0.

    Args:
        row (`Mapping`): of a data set.
        where (`str`): which one, for messages.

    Returns:
        `(list[int], bool)`: the ids, and whether there was a mask: without one they may still be padded.

    Raises:
        UserError: no list of token ids, or a mask of another length.
    """
    ids = as_list(row["input_ids"])
    if not isinstance(ids, list):
        raise UserError(f"{where} has no token ids: input_ids is {ids!r:.60}.")
    for token in ids:
        if isinstance(token, bool) or not isinstance(as_int(token), int) or as_int(token) < 0:
            raise UserError(f"{where} has {token!r:.60} among its input_ids: write one list of token ids per row.")
    mask = as_list(row.get("attention_mask"))
    if mask is None:
        return [as_int(token) for token in ids], False
    if not isinstance(mask, list) or len(mask) != len(ids):
        raise UserError(f"{where} has {len(ids)} input_ids but an attention_mask of another length: {mask!r:.60}.")
    return [as_int(token) for token, kept in zip(ids, mask, strict=True) if kept], True


def as_int(value: Any) -> Any:
    """A NumPy or PyTorch number as Python's."""
    return value.item() if hasattr(value, "item") else value


def without_padding(rows: list[list[int]], tokenizer: Any, name: str) -> list[list[int]]:
    """Rows without the pad tokens at their ends, where the rows of a data set have no attention mask.

    A pad token that is also the tokenizer's BOS, EOS or unknown token may be meant as such. It is taken for padding
    where a row has two of them at an end, or where rows of one length have different numbers of them; a line says so.

    Args:
        rows (`list[list[int]]`): of a data set.
        tokenizer: its `pad_token_id` is taken off.
        name (`str`): of the data set, for the line.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return rows
    ends = [_pads_at_the_ends(row, pad) for row in rows]
    if not any(left or right for left, right in ends):
        return rows
    if _means_more_than_padding(tokenizer, pad):
        if not _is_padded(rows, ends):
            return rows
        warnings.warn(
            f"{name} has no attention_mask, and the pad token {tokenizer.pad_token!r} has another meaning too: those "
            "at the ends of input_ids are taken for padding; add an attention_mask to keep some.",
            stacklevel=2,
        )
    return [row[left : len(row) - right] for row, (left, right) in zip(rows, ends, strict=True)]


def _pads_at_the_ends(row: Sequence[int], pad: int) -> tuple[int, int]:
    """How many pad tokens a row begins and ends with; a row of nothing else begins with them."""
    left = next((place for place, token in enumerate(row) if token != pad), len(row))
    rest = row[left:]
    return left, next((place for place, token in enumerate(reversed(rest)) if token != pad), 0)


def _means_more_than_padding(tokenizer: Any, pad: int) -> bool:
    names = ("bos_token_id", "eos_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id")
    return pad in [getattr(tokenizer, name, None) for name in names]


def _is_padded(rows: list[list[int]], ends: list[tuple[int, int]]) -> bool:
    if any(max(counts) > 1 for counts in ends):
        return True
    return len({len(row) for row in rows}) == 1 and len(set(ends)) > 1


def start_token(tokenizer: Any, model: Any = None) -> int | None:
    """The token that an empty prompt consists of: an unconditional generator starts from it.

    A decoder-only model starts from BOS: the tokenizer's, or the model's if that is one of the tokenizer's special
    tokens, or from EOS, which stands between texts in training where there is no BOS. An encoder reads EOS, which ends
    all that it reads, or BOS where there is none.

    Args:
        tokenizer: the policy's.
        model (*optional*): the policy; None for a decoder-only one.

    Returns:
        `int` or None where there is neither.
    """
    config = getattr(model, "config", None)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is None:
        of_model = getattr(config, "bos_token_id", None)
        bos = of_model if of_model in getattr(tokenizer, "all_special_ids", []) else None
    order = (eos, bos) if getattr(config, "is_encoder_decoder", False) else (bos, eos)
    return next((token for token in order if token is not None), None)
