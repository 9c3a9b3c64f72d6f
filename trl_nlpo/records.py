"""What the rooms hand to one another. Frozen; B rows, P prompt tokens, T completion tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .functional.token_sets import TokenSets


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to complete.

    Attributes:
        prompt_ids (`list[list[int]]`): B rows of token ids, unpadded.
        prompts (`list`): B prompts as the data set has them: strings, or lists of messages.
        columns (`dict[str, list]`): every other column of the data set, for the reward functions.
    """

    prompt_ids: list[list[int]]
    prompts: list[Any]
    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt_ids)


@dataclass(frozen=True)
class Completions:
    """Sampled completions, without anything about the models.

    Attributes:
        batch (`PromptBatch`): where they come from.
        completions (`list`): B completions as text, or as a list of one assistant message for conversational prompts.
        prompt_ids, prompt_mask (`(B, P)` long / bool): prompts padded on the left; True = real token.
        completion_ids, completion_mask (`(B, T)` long / bool): completions padded on the right; True = real token,
            the stop token included.
        ended (`(B,)` bool): True where a stop token ended the completion, False where the length limit did. Without
            stop tokens: whether an end token is in it.
    """

    batch: PromptBatch
    completions: list[Any]
    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    ended: torch.Tensor

    def __len__(self) -> int:
        return self.completion_ids.shape[0]

    @property
    def completion_token_ids(self) -> list[list[int]]:
        """The real completion tokens, B rows without padding."""
        lengths = self.completion_mask.sum(-1).tolist()
        return [row[:length] for row, length in zip(self.completion_ids.tolist(), lengths, strict=True)]


@dataclass(frozen=True)
class Rollout(Completions):
    """Completions, and all that has to be known about the moment at which they were sampled.

    Attributes (beside those of [`Completions`]):
        old_logprobs (`(B, T)`): log-probabilities of the tokens taken, under temperature and mask: the distribution
            that was sampled from.
        raw_logprobs (`(B, T)`): the same without the mask, for the KL penalty.
        ref_logprobs (`(B, T)`): of the reference policy, without the mask.
        values (`(B, T)`): V_t, of the state before token t.
        token_sets ([`TokenSets`] of shape `(B, T)`, *optional*): the tokens that were allowed at each position; None:
            all were.
        vocab_size (`int`): V.
        is_encoder_decoder (`bool`): True where prompts go to an encoder of their own.
        anchor_log_mass (`(B, T)`, *optional*): log of the masking policy's probability of the allowed tokens; None
            where the mask is not anchored.
        final_values (`(B,)`, *optional*): V of the state after the last token where the length limit cut the
            completion, 0 where a stop token ended it; None: every completion is taken as ended.
        engine_logprobs (`(B, T)`, *optional*): as `old_logprobs`, computed by a foreign engine that sampled the
            tokens; only compared with them.

    All `(B, T)` tensors are 0 on padding.
    """

    old_logprobs: torch.Tensor
    raw_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    token_sets: TokenSets | None
    vocab_size: int
    is_encoder_decoder: bool = False
    anchor_log_mass: torch.Tensor | None = None
    final_values: torch.Tensor | None = None
    engine_logprobs: torch.Tensor | None = None

    @property
    def token_mask(self) -> torch.Tensor | None:
        """The allowed tokens unpacked, `(B, T, V)` bool: V times the memory of a token. None: all are allowed."""
        return None if self.token_sets is None else self.token_sets.mask()

    def sequences(self, rows: torch.Tensor) -> TokenRows:
        """The token tensors of some rows, trimmed to the width that these rows need.

        Padding is token 0 here: the tokenizer's pad token need not be in the model's vocabulary.
        """
        prompt_mask, completion_mask = self.prompt_mask[rows], self.completion_mask[rows]
        return TokenRows(
            self.prompt_ids[rows].masked_fill(~prompt_mask, 0),
            prompt_mask,
            self.completion_ids[rows].masked_fill(~completion_mask, 0),
            completion_mask,
            self.is_encoder_decoder,
            None if self.token_sets is None else self.token_sets[rows],
            self.vocab_size,
        ).trimmed()


@dataclass(frozen=True)
class TokenRows:
    """Prompts and completions as a model reads them; fields as in [`Rollout`]."""

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    completion_mask: torch.Tensor
    is_encoder_decoder: bool = False
    token_sets: TokenSets | None = None
    vocab_size: int = 0

    def with_a_state_more(self) -> TokenRows:
        """With a column of any token behind the completions: the state before it is that after the last token."""
        return replace(
            self,
            completion_ids=torch.nn.functional.pad(self.completion_ids, (0, 1)),
            completion_mask=torch.nn.functional.pad(self.completion_mask, (0, 1)),
        )

    def trimmed(self) -> TokenRows:
        """Without the columns in which every row is padding. Padding costs time and changes nothing."""
        prompt_width = int(self.prompt_mask.sum(-1).max())
        width = int(self.completion_mask.sum(-1).max())
        start = self.prompt_ids.shape[1] - prompt_width
        return replace(
            self,
            prompt_ids=self.prompt_ids[:, start:],
            prompt_mask=self.prompt_mask[:, start:],
            completion_ids=self.completion_ids[:, :width],
            completion_mask=self.completion_mask[:, :width],
            token_sets=None if self.token_sets is None else self.token_sets[:, :width],
        )

    @property
    def width(self) -> int:
        """T: completion tokens in a row, padding included."""
        return self.completion_ids.shape[1]


@dataclass(frozen=True)
class Scores:
    """What the reward functions said.

    Attributes:
        scores (`(B,)`): weighted sum of the functions, with penalties.
        per_function (`(B, F)`): what each function returned, NaN for None ("does not apply"); a function with rewards
            per token counts with their sum.
        names (`list[str]`): F names.
        dense_rewards (`(B, T)`, *optional*): weighted rewards of single tokens, not part of `scores`.
        metrics (`dict[str, list[float]]`): what the functions passed to `log_metric`.
        extra_columns (`dict[str, list]`): what the functions passed to `log_extra`, for the completions table.
        skipped (`(B,)` bool, *optional*): True for completions that could not be scored: their score is NaN, and
            nothing is learned from them. None: all were scored.
        unscaled (`(B,)`, *optional*): `totals` before rewards were divided by their running standard deviations; None:
            they were not.
    """

    scores: torch.Tensor
    per_function: torch.Tensor
    names: list[str]
    dense_rewards: torch.Tensor | None = None
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extra_columns: dict[str, list[Any]] = field(default_factory=dict)
    skipped: torch.Tensor | None = None
    unscaled: torch.Tensor | None = None

    @property
    def totals(self) -> torch.Tensor:
        """`(B,)`: the score and the sum of the rewards per token: what "reward" means in the logs."""
        if self.unscaled is not None:
            return self.unscaled
        return self.scores if self.dense_rewards is None else self.scores + self.dense_rewards.sum(-1)


@dataclass(frozen=True)
class Estimates:
    """What the update learns from.

    Attributes:
        advantages (`(B, T)`): whitened over the real tokens of the whole batch, 0 on padding.
        returns (`(B, T)`): targets of the value function.
        rewards (`(B, T)`): the token rewards they come from, KL penalty included.
        kl (`(B, T)`): KL estimate per token, unmasked, 0 on padding.
        kl_coef (`float`): beta at the time.
        positive (`(B,)` bool, *optional*): True for completions that are also learned by their likelihood.
        skipped (`(B,)` bool, *optional*): True for completions that nothing is learned from; all else is 0 there.
    """

    advantages: torch.Tensor
    returns: torch.Tensor
    rewards: torch.Tensor
    kl: torch.Tensor
    kl_coef: float
    skipped: torch.Tensor | None = None
    positive: torch.Tensor | None = None


@dataclass(frozen=True)
class UpdateStats:
    """Exact averages over the real tokens of all microbatches of an update.

    Attributes:
        num_optimizer_steps (`int`): steps taken. Where there is none, the averages are NaN.
        policy_loss, value_loss (`float`), policy_clipfrac, value_clipfrac (`float`, share of tokens).
        approx_kl (`float`): mean of 0.5 (log ratio)^2: how far the update moved the policy.
        entropy (`float`): of the masked policy, nats per token.
        ratio, ratio_variance (`float`): mean and variance of the importance ratio.
        grad_norm (`float`): mean gradient norm before clipping; the policy's, where the critic's is clipped apart.
        critic_grad_norm (`float`, *optional*): the critic's mean gradient norm before clipping, where that is apart.
        anchor_loss (`float`, *optional*): mean of what the policy's log-probability of the allowed tokens lacks of
            the masking policy's, in nats.
        backtracks (`float`, *optional*): how often a step within a trust region was shortened.
        positive_nll (`float`, *optional*): mean negative log-likelihood of the tokens of positive completions.
        first_ratio_deviation (`float`): largest |ratio - 1| in the first optimizer step, before any learning: 0 up to
            rounding, or something is wrong.
        num_skipped_steps (`int`): steps not taken, as their loss or gradient was not finite or there was nothing to
            learn from.
        skipped_steps_in_a_row (`int`): those since the last step taken.

    Those that are optional are None in an update that has nothing of the kind.
    """

    num_optimizer_steps: int
    policy_loss: float
    value_loss: float
    policy_clipfrac: float
    value_clipfrac: float
    approx_kl: float
    entropy: float
    ratio: float
    ratio_variance: float
    grad_norm: float
    first_ratio_deviation: float
    critic_grad_norm: float | None = None
    anchor_loss: float | None = None
    backtracks: float | None = None
    positive_nll: float | None = None
    num_skipped_steps: int = 0
    skipped_steps_in_a_row: int = 0


def without_skipped(mask: torch.Tensor, skipped: torch.Tensor | None) -> torch.Tensor:
    """A `(B, T)` mask, False also in the rows where `skipped`, `(B,)` bool, is True."""
    return mask if skipped is None else mask & ~skipped[:, None]


def concatenate_columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows of a data set as columns; a key that a row lacks gives None."""
    keys = {key: None for row in rows for key in row}
    return {key: [row.get(key) for row in rows] for key in keys}
