"""One step of sampling: from logits to the actions that are allowed. Every engine goes through here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from transformers import LogitsProcessorList

from ..functional.logprobs import apply_token_mask, penalize_repetition, scaled_logits
from ..functional.masking import allow_tokens, top_k_mask, top_p_mask
from .distribution import MaskSettings, SamplingSettings


@dataclass(frozen=True)
class Actions:
    """What may be sampled at one step.

    Attributes:
        logits (`(B, V)`): of the actions, minus infinity for what is forbidden.
        mass_drift (`(B,)`, *optional*): as in [`Sample`]; None where the mask is not anchored.
    """

    logits: torch.Tensor
    mass_drift: torch.Tensor | None

    @property
    def allowed(self) -> torch.Tensor:
        """`(B, V)` bool."""
        return self.logits > float("-inf")


def allowed_actions(
    scores: torch.Tensor,
    masking_scores: torch.Tensor,
    seen: torch.Tensor | None,
    sampling: SamplingSettings,
    mask: MaskSettings | None,
    warpers: LogitsProcessorList,
) -> Actions:
    """The policy's logits under repetition penalty, temperature, mask and warpers.

    Args:
        scores (`torch.Tensor` of shape `(B, V)`): of the policy, minus infinity for what is illegal.
        masking_scores (`(B, V)`): of the masking policy.
        seen (`(B, V)` bool, *optional*): tokens that are in the row already; needed for a repetition penalty only.
        sampling ([`SamplingSettings`]), mask ([`MaskSettings`], *optional*): None forbids nothing.
        warpers: `sampling.logits_warpers(device)`; they look at no token ids.
    """
    legal = scores > float("-inf")
    unmasked = _action_logits(scores, seen, sampling)
    actions = unmasked
    if mask is not None:
        actions = apply_token_mask(actions, _allowed_tokens(mask, masking_scores, legal, sampling.temperature))
    no_ids = torch.zeros((len(scores), 0), dtype=torch.long, device=scores.device)
    actions = warpers(cast("torch.LongTensor", no_ids), cast("torch.FloatTensor", actions))
    drift = None
    if mask is not None and mask.is_anchored:
        allowed = actions > float("-inf")
        masking = _action_logits(apply_token_mask(masking_scores, legal), seen, sampling)
        drift = _log_mass(masking, allowed) - _log_mass(unmasked, allowed)
    return Actions(actions, drift)


def _action_logits(scores: torch.Tensor, seen: torch.Tensor | None, sampling: SamplingSettings) -> torch.Tensor:
    """A model's logits under repetition penalty and temperature, as for the policy's actions."""
    logits = scores.float()
    if seen is not None:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    return scaled_logits(logits, sampling.temperature)


def _allowed_tokens(
    mask: MaskSettings, masking_scores: torch.Tensor, legal: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The masking policy's set among the legal tokens, so that a mask never leaves a position without any."""
    logits = scaled_logits(apply_token_mask(masking_scores.float(), legal), temperature)
    if mask.strategy == "top_p":
        allowed = top_p_mask(logits, mask.top_p, mask.min_tokens)
    else:
        allowed = top_k_mask(logits, max(mask.top_k or 1, mask.min_tokens))
    return allow_tokens(allowed, mask.always_allowed)


def _log_mass(logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """`(B,)`: log of the softmax's probability of the allowed tokens."""
    return apply_token_mask(logits, allowed).logsumexp(-1) - logits.logsumexp(-1)
