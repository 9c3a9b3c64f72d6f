"""One step of sampling: from logits to the actions that are allowed. Every engine goes through here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from transformers import LogitsProcessorList

from ..functional.logprobs import apply_token_mask, penalize_repetition, scaled_logits
from ..functional.masking import allow_tokens, top_k_mask, top_p_mask
from ..functional.token_sets import TokenSets, padded
from .distribution import MaskSettings, SamplingSettings
from .draws import tokens_at


@dataclass(frozen=True)
class Actions:
    """What may be sampled at one step.

    Attributes:
        logits (`(B, V)`): of all legal tokens, under temperature and repetition penalty but no mask; minus infinity
            for what is illegal.
        allowed (`(B, V)` bool, *optional*): the legal tokens that may be sampled; None: all are legal, and may.
        mass_drift (`(B,)`, *optional*): as in [`Sample`]; None where the mask is not anchored.
    """

    logits: torch.Tensor
    allowed: torch.Tensor | None
    mass_drift: torch.Tensor | None

    @cached_property
    def _few(self) -> _Few | None:
        return None if self.allowed is None else _Few.of(self.logits, self.allowed)

    @property
    def masked_logits(self) -> torch.Tensor:
        """`(B, V)`: minus infinity for what may not be sampled."""
        return apply_token_mask(self.logits, self.allowed)

    def token_sets(self) -> TokenSets:
        """What may be sampled, `(B,)` sets."""
        if self._few is None:
            return TokenSets.everything(self.logits.shape[:1], self.logits.shape[-1], self.logits.device)
        return TokenSets.of_ids(self._few.ids, self._few.sizes, self.logits.shape[-1])

    def drawn(self, draws: torch.Tensor) -> torch.Tensor:
        """The tokens `(B, 1)` that uniform numbers `(B,)` in [0, 1) stand for, see [`tokens_at`]."""
        if self._few is None:
            return tokens_at(draws, self.logits)
        return self._few.ids.gather(1, tokens_at(draws, self._few.logits))

    def logprobs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities `(B,)` of tokens `(B, 1)` that may be sampled."""
        logits = self.logits if self._few is None else self._few.logits
        return self.logits.gather(1, tokens).squeeze(1) - logits.logsumexp(-1)

    def log_mass(self, logits: torch.Tensor, log_normalizer: torch.Tensor) -> torch.Tensor:
        """Log of what the softmax of logits `(B, V)` with normalizer `(B,)` gives what may be sampled: `(B,)`."""
        if self._few is None:
            return torch.zeros_like(log_normalizer)
        return _gathered(logits, self._few.ids, self._few.sizes).logsumexp(-1) - log_normalizer


@dataclass(frozen=True)
class _Few:
    """The allowed tokens of each row in rising order, `(B, K)`: of V tokens a mask leaves few.

    `ids` beyond `sizes` `(B,)` are 0, and their `logits` minus infinity.
    """

    ids: torch.Tensor
    sizes: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, allowed: torch.Tensor) -> _Few:
        rows, tokens = allowed.nonzero(as_tuple=True)
        sizes = torch.bincount(rows, minlength=len(allowed))
        ids = padded(tokens, sizes)
        return cls(ids, sizes, _gathered(logits, ids, sizes))


def _gathered(logits: torch.Tensor, ids: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    is_filling = torch.arange(ids.shape[1], device=ids.device) >= sizes[:, None]
    return logits.gather(1, ids).masked_fill_(is_filling, float("-inf"))


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
        masking_scores (`(B, V)`): of the masking policy; the same object where it is the policy.
        seen (`(B, V)` bool, *optional*): tokens that are in the row already; needed for a repetition penalty only.
        sampling ([`SamplingSettings`]), mask ([`MaskSettings`], *optional*): None forbids nothing.
        warpers: `sampling.logits_warpers(device)`; they look at no token ids.
    """
    logits = _action_logits(scores, seen, sampling)
    # Most often everything is legal, and the smallest is found faster than it is compared with every other.
    legal = None if bool(scores.amin() > float("-inf")) else scores > float("-inf")
    if mask is None:
        return Actions(logits, _warped(logits, legal, warpers), None)
    masking_logits = _legal_alone(masking_scores, legal, sampling.temperature)
    log_normalizer = masking_logits.logsumexp(-1)
    allowed = _allowed_tokens(mask, masking_logits, log_normalizer, legal)
    actions = Actions(logits, _warped(logits, allowed, warpers), None)
    if not mask.is_anchored:
        return actions
    if masking_scores is scores:
        return Actions(logits, actions.allowed, torch.zeros_like(log_normalizer))
    if seen is not None:
        masking_logits = _action_logits(apply_token_mask(masking_scores, legal), seen, sampling)
        log_normalizer = masking_logits.logsumexp(-1)
    drift = actions.log_mass(masking_logits, log_normalizer) - actions.log_mass(logits, logits.logsumexp(-1))
    return Actions(logits, actions.allowed, drift)


def _warped(logits: torch.Tensor, allowed: torch.Tensor | None, warpers: LogitsProcessorList) -> torch.Tensor | None:
    """What the warpers leave of the allowed tokens."""
    if not warpers:
        return allowed
    no_ids = torch.zeros((len(logits), 0), dtype=torch.long, device=logits.device)
    masked = apply_token_mask(logits, allowed)
    return warpers(cast("torch.LongTensor", no_ids), cast("torch.FloatTensor", masked)) > float("-inf")


def _action_logits(scores: torch.Tensor, seen: torch.Tensor | None, sampling: SamplingSettings) -> torch.Tensor:
    """A model's logits under repetition penalty and temperature, as for the policy's actions."""
    logits = scores.float()
    if seen is not None:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    return scaled_logits(logits, sampling.temperature)


def _legal_alone(scores: torch.Tensor, legal: torch.Tensor | None, temperature: float) -> torch.Tensor:
    """Logits `(B, V)` of the masking policy among the legal tokens, so that its set never is without one of them."""
    return scaled_logits(apply_token_mask(scores.float(), legal), temperature)


def _allowed_tokens(
    mask: MaskSettings, logits: torch.Tensor, log_normalizer: torch.Tensor, legal: torch.Tensor | None
) -> torch.Tensor:
    """`(B, V)`: the masking policy's set among the legal tokens."""
    if mask.strategy == "top_p":
        allowed = top_p_mask(logits, mask.top_p, mask.min_tokens, log_normalizer)
    else:
        allowed = top_k_mask(logits, max(mask.top_k or 1, mask.min_tokens))
    allowed = allow_tokens(allowed, mask.always_allowed)
    return allowed if legal is None else allowed & legal
