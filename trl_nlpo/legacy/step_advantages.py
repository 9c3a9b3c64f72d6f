"""Advantages where some tokens of a completion are not the policy's, as what an environment answers between turns."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..algorithm.advantages import estimate_advantages
from ..records import Estimates, Rollout, Scores


def estimate_over(rollout: Rollout, learned: torch.Tensor, scores: torch.Tensor, **settings: Any) -> Estimates:
    """Advantages over the policy's own tokens: the state after one is that before the next one that is its own.

    The tokens in between are part of that state; they have no value, no KL and no reward, and discount nothing. The
    score is on the last token that is learned from.

    Args:
        rollout ([`Rollout`]): of B completions.
        learned (`torch.Tensor` of shape `(B, T)`, bool): True = sampled by the policy; no padding among these.
        scores (`torch.Tensor` of shape `(B,)`).
        **settings: of [`estimate_advantages`].

    Returns:
        [`Estimates`], 0 where `learned` is False.
    """
    # Own tokens first, in their order: to all that follows the others are padding.
    order = torch.argsort((~learned).int(), dim=1, stable=True)
    names = ("raw_logprobs", "ref_logprobs", "values")
    own = dataclasses.replace(
        rollout,
        completion_mask=learned.gather(1, order),
        **{name: getattr(rollout, name).gather(1, order) for name in names},
    )
    found = estimate_advantages(
        own,
        Scores(scores=scores, per_function=scores[:, None], names=["score"]),
        **settings,
    )

    def back(column: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(column).scatter_(1, order, column)

    columns: dict[str, Any] = {name: back(getattr(found, name)) for name in ("advantages", "returns", "rewards", "kl")}
    return dataclasses.replace(found, **columns)
