"""Completions sampled from a policy with `generate`, under the mask of a masking policy."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..functional.logprobs import first_occurrences
from ..functional.sequences import completion_lengths, left_pad, mask_from_lengths
from ..functional.token_sets import TokenSets
from ..models.inputs import StepwiseLogits, forced_tokens, is_encoder_decoder, prompt_inputs
from ..models.masking_policy import MaskingPolicy
from ..records import TokenRows
from .actions import Actions, allowed_actions
from .distribution import MaskSettings, SamplingSettings


@dataclass(frozen=True)
class Sample:
    """Sampled tokens of some prompts.

    Attributes:
        sequences ([`TokenRows`]): prompts and completions `(B, P)`, `(B, T)`; what was allowed, where that was
            recorded.
        ended (`(B,)` bool): True where an end token is in the completion.
        mass_drift (`(B, T)`, *optional*): log of the allowed tokens' probability under the masking policy, less the
            same under the policy; 0 right after a sync. None where the mask is not anchored.
        engine_logprobs (`(B, T)`, *optional*): log-probabilities of the tokens as a foreign engine computed them, of
            the distribution that it sampled from. None: the engine is the trainer's own model.
    """

    sequences: TokenRows
    ended: torch.Tensor
    mass_drift: torch.Tensor | None = None
    engine_logprobs: torch.Tensor | None = None


@torch.no_grad()
def sample_completions(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSettings,
    mask: MaskSettings | None = None,
    masking_policy: MaskingPolicy | None = None,
    draws: torch.Tensor | None = None,
) -> Sample:
    """Sample one completion per prompt with `generate`; under the mask when one is given.

    Args:
        policy: a language model, in evaluation mode.
        prompts: B rows of token ids.
        sampling ([`SamplingSettings`]): how.
        mask ([`MaskSettings`], *optional*), masking_policy ([`MaskingPolicy`], *optional*): what may be sampled. None:
            everything; then nothing is recorded either.
        draws (`torch.Tensor` of shape `(B, max_new_tokens)`, *optional*): what decides the tokens, see
            [`row_draws`]. None: the global random state.

    Returns:
        [`Sample`], whose `token_sets` are None when every token was allowed everywhere.
    """
    device = next(policy.parameters()).device
    prompt_ids, prompt_mask = (tensor.to(device) for tensor in left_pad(prompts, 0))
    encoder_decoder = is_encoder_decoder(policy)
    forced = forced_tokens(policy)
    actions = _ActionSampler(
        prompt_ids, prompt_mask, encoder_decoder, sampling, mask, masking_policy, bool(forced), draws
    )
    # Tokens after the first stop token are padding; a stop token is in every vocabulary, a pad token need not be.
    config = sampling.generation_config(pad_token_id=(*sampling.stop_token_ids, 0)[0], forced_tokens=forced)
    inputs: dict[str, Any] = prompt_inputs(policy, prompt_ids, prompt_mask)
    if actions.doubled:
        inputs = {name: tensor.repeat(2, 1) for name, tensor in inputs.items()}
        inputs["adapter_names"] = masking_policy.adapters_of_rows(len(prompt_ids)) if masking_policy else None
    restrictions = []
    if sampling.looks_at_rows:
        copies = 2 if actions.doubled else 1
        rows = (prompt_ids.repeat(copies, 1), prompt_mask.repeat(copies, 1))
        restrictions = [_OfRows(*rows, encoder_decoder, sampling)]
    with own_settings_aside(policy, config):
        output = policy.generate(
            **inputs,
            generation_config=config,
            logits_processor=LogitsProcessorList(
                [*restrictions, *([] if sampling.is_left_to_generate else [actions])]
            ),
            # Weights are gathered, and processes may have different numbers of rows: none waits for another.
            synced_gpus=False,
        )
    completion_ids = output[: len(prompt_ids), actions.prefix_width :]
    lengths, ended = completion_lengths(completion_ids, sampling.stop_token_ids)
    if mask is not None and not sampling.stop_token_ids:
        ended = torch.isin(completion_ids, torch.tensor(mask.always_allowed, dtype=torch.long, device=device)).any(-1)
    completion_mask = mask_from_lengths(lengths, completion_ids.shape[1])
    sets = actions.recorded_sets(completion_mask)
    sequences = TokenRows(
        prompt_ids, prompt_mask, completion_ids, completion_mask, encoder_decoder, sets, actions.vocab_size
    )
    return Sample(sequences, ended, actions.recorded_drift(completion_mask))


class _OfRows(LogitsProcessor):
    """Restrictions that look at the tokens of a row, and see each row without its padding.

    So what a row may produce does not depend on the longer prompt beside it.
    """

    def __init__(
        self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, encoder_decoder: bool, sampling: SamplingSettings
    ):
        lengths = prompt_mask.sum(-1).tolist()
        width = prompt_ids.shape[1]
        self.paddings = [0 if encoder_decoder else width - length for length in lengths]
        self.processors = [
            sampling.row_processors(row[width - length :][None], encoder_decoder)
            for row, length in zip(prompt_ids, lengths, strict=True)
        ]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        # Beams of a prompt lie beside one another.
        num_beams = len(input_ids) // len(self.paddings)
        parts = []
        for index, (padding, processors) in enumerate(zip(self.paddings, self.processors, strict=True)):
            rows = slice(index * num_beams, (index + 1) * num_beams)
            ids = cast("torch.LongTensor", input_ids[rows, padding:])
            parts.append(processors(ids, cast("torch.FloatTensor", scores[rows])))
        return torch.cat(parts)


class _ActionSampler(LogitsProcessor):
    """Turns the policy's logits at a step into those of the allowed actions, and records what was allowed.

    `generate` has applied its own restrictions (minimum length, suppressed tokens, …) when this is called, and applies
    nothing afterwards; so the recorded support is exactly the one sampled from. The token is drawn here and left as
    the only one, so that `generate` has nothing to sample.
    """

    def __init__(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        encoder_decoder: bool,
        sampling: SamplingSettings,
        mask: MaskSettings | None,
        masking_policy: MaskingPolicy | None,
        forces_tokens: bool,
        draws: torch.Tensor | None,
    ):
        # `generate` gives prompt and completion of a causal model in one row; of an encoder-decoder model it gives
        # what the decoder has, which begins with its start token.
        self.prefix_width = 1 if encoder_decoder else prompt_ids.shape[1]
        self.prompt_ids, self.prompt_mask = prompt_ids, prompt_mask & (not encoder_decoder)
        self.sampling = sampling
        self.mask = mask if mask is not None and mask.is_active else None
        # Right after a sync the masking policy is the policy, and nothing needs to be computed twice.
        moved = self.mask is not None and masking_policy is not None and not masking_policy.is_current
        self.masking_policy = masking_policy if moved else None
        self.doubled = masking_policy is not None and moved and masking_policy.in_one_batch
        self.masking_logits = StepwiseLogits(prompt_ids, prompt_mask, sampling.uses_cache)
        is_restricted = self.mask is not None or sampling.restricts_tokens or forces_tokens
        # What `generate` decides alone (greedy and beam search) passes nothing through here.
        self.records = mask is not None and is_restricted and not sampling.is_left_to_generate
        self.warpers = sampling.logits_warpers(prompt_ids.device)
        # Apple's GPUs have no float64.
        exactness = torch.float32 if prompt_ids.device.type == "mps" else torch.float64
        self.draws = None if draws is None else draws.to(exactness).to(prompt_ids.device)
        self.vocab_size = 0
        self._sets: list[TokenSets] = []
        self._drift: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        if not self.doubled:
            actions = self._actions(input_ids, scores, None)
            return self._only(self._drawn(input_ids, actions), scores)
        # The second half of the rows is the masking policy's, which follows the first: the token is drawn here, and
        # left to both halves as the only one.
        policy_scores, masking_scores = scores.chunk(2)
        actions = self._actions(input_ids[: len(policy_scores)], policy_scores, masking_scores)
        return self._only(self._drawn(input_ids, actions).repeat(2, 1), scores)

    def _drawn(self, input_ids: torch.Tensor, actions: Actions) -> torch.Tensor:
        """A token for each row, `(B, 1)`."""
        if self.draws is None:
            return torch.multinomial(actions.masked_logits.softmax(-1), num_samples=1)
        return actions.drawn(self.draws[:, input_ids.shape[1] - self.prefix_width])

    @staticmethod
    def _only(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens, 0.0)

    def _actions(self, input_ids: torch.Tensor, scores: torch.Tensor, masking_scores: torch.Tensor | None) -> Actions:
        self.vocab_size = scores.shape[-1]
        if masking_scores is None:
            masking_scores = self._masking_scores(input_ids, scores)
        seen = self._seen(input_ids) if self.sampling.repetition_penalty != 1.0 else None
        actions = allowed_actions(scores, masking_scores, seen, self.sampling, self.mask, self.warpers)
        if self.records:
            self._sets.append(actions.token_sets())
        if actions.mass_drift is not None:
            self._drift.append(actions.mass_drift)
        return actions

    def recorded_drift(self, completion_mask: torch.Tensor) -> torch.Tensor | None:
        """`mass_drift` of [`Sample`], 0 on padding."""
        if not self._drift:
            return None
        drift = torch.stack(self._drift[: completion_mask.shape[1]], dim=1)
        return torch.where(completion_mask, drift, 0.0)

    def recorded_sets(self, completion_mask: torch.Tensor) -> TokenSets | None:
        """The allowed tokens, `(B, T)` sets; padding allows everything."""
        if not self.records:
            return None
        return TokenSets.of_steps(self._sets[: completion_mask.shape[1]]).unrestricted_at(~completion_mask)

    def _seen(self, input_ids: torch.Tensor) -> torch.Tensor:
        completion_ids = input_ids[:, self.prefix_width :]
        first = first_occurrences(self.prompt_ids, self.prompt_mask, completion_ids, self.vocab_size)
        return first < completion_ids.shape[1]

    def _masking_scores(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.masking_policy is None:
            return scores
        with self.masking_policy.model() as masking_model:
            return self.masking_logits.next_logits(masking_model, input_ids)


@contextlib.contextmanager
def own_settings_aside(policy: Any, config: GenerationConfig) -> Iterator[None]:
    """Let none of the model's own generation settings leak: `generate` fills from there what `config` leaves unset."""
    holders = [policy, policy.get_base_model()] if hasattr(policy, "get_base_model") else [policy]
    own = [holder.generation_config for holder in holders]
    try:
        for holder in holders:
            holder.generation_config = copy.deepcopy(config)
        yield
    finally:
        for holder, value in zip(holders, own, strict=True):
            holder.generation_config = value
