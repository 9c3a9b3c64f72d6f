"""Room 1: completions sampled from the policy under the mask, and what is known about them at that moment.

Nothing here takes a gradient, knows a reward or an optimizer.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from .functional.logprobs import (
    apply_token_mask,
    first_occurrences,
    penalize_repetition,
    scaled_logits,
    token_logprobs,
)
from .functional.masking import allow_tokens, pack_mask, top_k_mask, top_p_mask
from .functional.sequences import completion_lengths, left_pad, mask_from_lengths, right_pad
from .masking_policy import MaskingPolicy
from .models.inputs import StepwiseLogits, forced_tokens, is_encoder_decoder, prompt_inputs
from .models.policy_and_value import PolicyAndValue
from .records import Completions, PromptBatch, Rollout, Sequences
from .sampling import MaskSettings, SamplingSettings, action_logprobs


@dataclass(frozen=True)
class Sample:
    """Sampled tokens of some prompts.

    Attributes:
        sequences ([`Sequences`]): prompts and completions `(B, P)`, `(B, T)`; what was allowed, where that was
            recorded.
        ended (`(B,)` bool): True where an end token is in the completion.
    """

    sequences: Sequences
    ended: torch.Tensor


Decode = Callable[[PromptBatch, list[list[int]]], list[Any]]
"""Turns the token ids of completions into what reward functions see: text, or messages."""

Logits = Callable[[Sequences], torch.Tensor]
"""A model as a function: raw logits `(B, T, V)` of completion tokens."""


@torch.no_grad()
def collect_rollout(
    model: PolicyAndValue,
    batch: PromptBatch,
    *,
    reference_logits: Logits,
    masking_policy: MaskingPolicy,
    sampling: SamplingSettings,
    mask: MaskSettings,
    seed: int,
    forward_batch_size: int,
    pad_token_id: int,
    decode: Decode,
) -> Rollout:
    """Sample a completion for every prompt and score it with policy, reference and value function.

    Args:
        model ([`PolicyAndValue`]): the policy to sample from and its value function.
        batch ([`PromptBatch`]): B prompts.
        reference_logits: the reference policy.
        masking_policy ([`MaskingPolicy`]), mask ([`MaskSettings`]): what may be sampled.
        sampling ([`SamplingSettings`]): temperature, lengths, stop tokens, ….
        seed (`int`): decides the sampling; the global random state is left as it was.
        forward_batch_size (`int`): rows at a time.
        pad_token_id (`int`): fills the records; it is never shown to a model.
        decode: completions for reward functions.

    Returns:
        [`Rollout`], on the policy's device.
    """
    device = next(model.policy.parameters()).device
    samples, evaluations = [], []
    with evaluation_mode(model), seeded(seed, device):
        for start in range(0, len(batch), forward_batch_size):
            prompts = batch.prompt_ids[start : start + forward_batch_size]
            samples.append(sample_completions(model.policy, prompts, sampling, mask, masking_policy))
            evaluations.append(_evaluate(model, samples[-1].sequences, reference_logits, sampling))
    old_logprobs, raw_logprobs, ref_logprobs, values = (
        right_pad([evaluation[index] for evaluation in evaluations], 0.0) for index in range(4)
    )
    masks = [sample.sequences.packed_token_mask for sample in samples]
    return Rollout(
        **vars(joined_completions(batch, samples, pad_token_id, decode)),
        old_logprobs=old_logprobs,
        raw_logprobs=raw_logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        packed_token_mask=None if masks[0] is None else right_pad([m for m in masks if m is not None], 255),
        vocab_size=samples[0].sequences.vocab_size,
        prompts_apart=samples[0].sequences.prompts_apart,
    )


def _evaluate(
    model: PolicyAndValue, sequences: Sequences, reference_logits: Logits, sampling: SamplingSettings
) -> tuple[torch.Tensor, ...]:
    """Old, raw and reference log-probabilities and values, each `(b, T)` and 0 on padding."""
    logits, values = model(sequences, model.parts[0])
    ids, real = sequences.completion_ids, sequences.completion_mask
    old_logprobs, _ = action_logprobs(logits, sequences, sampling)
    raw_logprobs = old_logprobs
    if sequences.packed_token_mask is not None or sampling.repetition_penalty != 1.0:
        raw_logprobs = token_logprobs(scaled_logits(logits, sampling.temperature), ids)
    del logits
    if values is None:
        _, values = model(sequences, "value")
    ref_logprobs = token_logprobs(scaled_logits(reference_logits(sequences), sampling.temperature), ids)
    return tuple(torch.where(real, tensor, 0.0) for tensor in (old_logprobs, raw_logprobs, ref_logprobs, values))


def joined_completions(
    batch: PromptBatch, samples: Sequence[Sample], pad_token_id: int, decode: Decode
) -> Completions:
    """One record out of chunks of different lengths."""
    sequences = [sample.sequences for sample in samples]
    device = sequences[0].completion_ids.device
    prompt_ids, prompt_mask = (tensor.to(device) for tensor in left_pad(batch.prompt_ids, pad_token_id))
    completion_mask = right_pad([part.completion_mask for part in sequences], False)
    completion_ids = right_pad([part.completion_ids for part in sequences], pad_token_id)
    completion_ids = completion_ids.masked_fill(~completion_mask, pad_token_id)
    lengths = completion_mask.sum(-1).tolist()
    token_ids = [row[:length] for row, length in zip(completion_ids.tolist(), lengths, strict=True)]
    return Completions(
        batch=batch,
        completions=decode(batch, token_ids),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=completion_ids,
        completion_mask=completion_mask,
        ended=torch.cat([sample.ended for sample in samples]),
    )


@torch.no_grad()
def sample_completions(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSettings,
    mask: MaskSettings | None = None,
    masking_policy: MaskingPolicy | None = None,
) -> Sample:
    """Sample one completion per prompt with `generate`; under the mask when one is given.

    Args:
        policy: a language model, in evaluation mode.
        prompts: B rows of token ids.
        sampling ([`SamplingSettings`]): how.
        mask ([`MaskSettings`], *optional*), masking_policy ([`MaskingPolicy`], *optional*): what may be sampled. None:
            everything; then nothing is recorded either.

    Returns:
        [`Sample`], whose `packed_token_mask` is None when every token was allowed everywhere.
    """
    device = next(policy.parameters()).device
    prompt_ids, prompt_mask = (tensor.to(device) for tensor in left_pad(prompts, 0))
    prompts_apart = is_encoder_decoder(policy)
    forced = forced_tokens(policy)
    actions = _ActionSampler(prompt_ids, prompt_mask, prompts_apart, sampling, mask, masking_policy, bool(forced))
    # What stands behind a stop token is filling; a stop token is in every vocabulary, which a pad token need not be.
    config = sampling.generation_config(pad_token_id=(*sampling.stop_token_ids, 0)[0], forced_tokens=forced)
    with _generation_config(policy, config):
        output = policy.generate(
            **prompt_inputs(policy, prompt_ids, prompt_mask),
            generation_config=config,
            logits_processor=LogitsProcessorList([actions] if sampling.do_sample else []),
        )
    completion_ids = output[:, actions.prefix_width :]
    lengths, ended = completion_lengths(completion_ids, sampling.stop_token_ids)
    if mask is not None and not sampling.stop_token_ids:
        ended = torch.isin(completion_ids, torch.tensor(mask.always_allowed, dtype=torch.long, device=device)).any(-1)
    completion_mask = mask_from_lengths(lengths, completion_ids.shape[1])
    packed = actions.recorded_masks(completion_mask)
    sequences = Sequences(
        prompt_ids, prompt_mask, completion_ids, completion_mask, prompts_apart, packed, actions.vocab_size
    )
    return Sample(sequences, ended)


class _ActionSampler(LogitsProcessor):
    """Turns the policy's logits at a step into those of the allowed actions, and records what was allowed.

    `generate` has applied its own restrictions (minimum length, suppressed tokens, …) when this is called, and applies
    nothing afterwards; so the recorded support is exactly the one sampled from.
    """

    def __init__(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        prompts_apart: bool,
        sampling: SamplingSettings,
        mask: MaskSettings | None,
        masking_policy: MaskingPolicy | None,
        forces_tokens: bool,
    ):
        # `generate` gives prompt and completion of a causal model in one row; of an encoder-decoder model it gives
        # what the decoder has, which begins with its start token.
        self.prefix_width = 1 if prompts_apart else prompt_ids.shape[1]
        self.prompt_ids, self.prompt_mask = prompt_ids, prompt_mask & (not prompts_apart)
        self.sampling = sampling
        self.mask = mask if mask is not None and mask.is_active else None
        self.masking_policy = masking_policy
        self.masking_logits = StepwiseLogits(prompt_ids, prompt_mask)
        self.records = mask is not None and (self.mask is not None or sampling.restricts_tokens or forces_tokens)
        self.warpers = sampling.logits_warpers(prompt_ids.device)
        self.vocab_size = 0
        self._packed: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        self.vocab_size = scores.shape[-1]
        legal = scores > float("-inf")
        actions = scores.float()
        if self.sampling.repetition_penalty != 1.0:
            actions = penalize_repetition(actions, self._seen(input_ids), self.sampling.repetition_penalty)
        actions = scaled_logits(actions, self.sampling.temperature)
        if self.mask is not None:
            actions = apply_token_mask(actions, self._allowed_tokens(self.mask, input_ids, scores, legal))
        actions = self.warpers(input_ids, actions)
        if self.records:
            self._packed.append(pack_mask(actions > float("-inf")))
        return actions

    def recorded_masks(self, completion_mask: torch.Tensor) -> torch.Tensor | None:
        """Packed masks `(B, T, ceil(V / 8))`; padding allows everything."""
        if not self.records:
            return None
        packed = torch.stack(self._packed[: completion_mask.shape[1]], dim=1)
        return packed.masked_fill(~completion_mask.unsqueeze(-1), 255)

    def _seen(self, input_ids: torch.Tensor) -> torch.Tensor:
        completion_ids = input_ids[:, self.prefix_width :]
        first = first_occurrences(self.prompt_ids, self.prompt_mask, completion_ids, self.vocab_size)
        return first < completion_ids.shape[1]

    def _allowed_tokens(
        self, mask: MaskSettings, input_ids: torch.Tensor, scores: torch.Tensor, legal: torch.Tensor
    ) -> torch.Tensor:
        """The masking policy's set among the legal tokens, so that a mask never leaves a position without any."""
        logits = scores.float()
        # Right after a sync the masking policy is the policy, and nothing needs to be computed twice.
        if self.masking_policy is not None and not self.masking_policy.is_current:
            with self.masking_policy.model() as masking_model:
                logits = self.masking_logits.next_logits(masking_model, input_ids)
        logits = scaled_logits(apply_token_mask(logits, legal), self.sampling.temperature)
        if mask.strategy == "top_p":
            allowed = top_p_mask(logits, mask.top_p, mask.min_tokens)
        else:
            allowed = top_k_mask(logits, max(mask.top_k or 1, mask.min_tokens))
        return allow_tokens(allowed, mask.always_allowed)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (caches on, gradient checkpointing off) for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a random stream of its own and leave the global one where it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _generation_config(policy: Any, config: GenerationConfig) -> Iterator[None]:
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
