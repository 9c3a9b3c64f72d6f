"""Room 1: completions sampled from the policy under the mask, and what is known about them at that moment.

Nothing here takes a gradient, knows a reward or an optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import torch

from ..functional.output_layer import PolicyOutput
from ..functional.sequences import left_pad, right_pad
from ..functional.token_sets import TokenSets
from ..models.masking_policy import MaskingPolicy
from ..models.modes import evaluation_mode
from ..models.policy_and_value import PolicyAndValue
from ..records import Completions, PromptBatch, Rollout, TokenRows
from .distribution import MaskSettings, SamplingSettings, action_logprobs, raw_logprobs
from .draws import row_draws, seeded
from .engines import RolloutEngine
from .engines.generate import TransformersEngine
from .generation import Sample


Decode = Callable[[PromptBatch, list[list[int]]], list[Any]]
"""Turns the token ids of completions into what reward functions see: text, or messages."""

Output = Callable[[TokenRows], PolicyOutput]
"""A model as a function: raw logits `(B, T, V)` of completion tokens, or what they are computed from."""


@torch.no_grad()
def collect_rollout(
    model: PolicyAndValue,
    batch: PromptBatch,
    *,
    reference: Output,
    masking_policy: MaskingPolicy,
    sampling: SamplingSettings,
    mask: MaskSettings,
    seed: int,
    forward_batch_size: int,
    pad_token_id: int,
    decode: Decode,
    first_row: int = 0,
    bootstraps: bool = False,
    engine: RolloutEngine | None = None,
) -> Rollout:
    """Sample a completion for every prompt and score it with policy, reference and value function.

    Args:
        model ([`PolicyAndValue`]): the policy to sample from and its value function.
        batch ([`PromptBatch`]): B prompts.
        reference: the reference policy.
        masking_policy ([`MaskingPolicy`]), mask ([`MaskSettings`]): what may be sampled.
        sampling ([`SamplingSettings`]): temperature, lengths, stop tokens, ….
        seed (`int`): decides the sampling, with the number of each row; the global random state is left as it was.
        forward_batch_size (`int`): rows at a time.
        pad_token_id (`int`): fills the records; it is never shown to a model.
        decode: completions for reward functions.
        first_row (`int`): number of the first of these rows in the batch of all processes.
        bootstraps (`bool`): whether to ask the value function about the state after the last token as well.
        engine ([`RolloutEngine`], *optional*): what samples; None: the policy itself, with `generate`.

    Returns:
        [`Rollout`], on the policy's device.
    """
    sampled = _samples(model, batch, masking_policy, sampling, mask, seed, forward_batch_size, engine, first_row)
    # Closed at once if an evaluation fails: what comes then, such as a checkpoint, is outside of its modes.
    with contextlib.closing(sampled):
        return evaluate_samples(
            model,
            batch,
            sampled,
            reference=reference,
            sampling=sampling,
            pad_token_id=pad_token_id,
            decode=decode,
            bootstraps=bootstraps,
        )


@torch.no_grad()
def evaluate_samples(
    model: PolicyAndValue,
    batch: PromptBatch,
    samples: Iterable[Sample],
    *,
    reference: Output,
    sampling: SamplingSettings,
    pad_token_id: int,
    decode: Decode,
    bootstraps: bool = False,
) -> Rollout:
    """What policy, reference and value function say of completions, whoever sampled them.

    Args:
        model ([`PolicyAndValue`]): the policy and its value function, in evaluation mode.
        batch ([`PromptBatch`]): B prompts.
        samples: completions of some of them at a time, in their order.
        sampling ([`SamplingSettings`]): as the completions were sampled.
        reference, pad_token_id, decode, bootstraps: as in [`collect_rollout`].

    Returns:
        [`Rollout`], on the policy's device.
    """
    seen, evaluations = [], []
    for sample in samples:
        seen.append(sample)
        evaluations.append(_evaluate(model, sample, reference, sampling, bootstraps))
    names = [name for name in evaluations[0] if name != "final_values"]
    columns: dict[str, Any] = {
        name: right_pad([evaluation[name] for evaluation in evaluations], 0.0) for name in names
    }
    if bootstraps:
        columns["final_values"] = torch.cat([found["final_values"] for found in evaluations])
    sets = [sample.sequences.token_sets for sample in seen if sample.sequences.token_sets is not None]
    known: dict[str, Any] = {**vars(joined_completions(batch, seen, pad_token_id, decode)), **columns}
    return Rollout(
        **known,
        token_sets=TokenSets.concatenated(sets) if sets else None,
        vocab_size=seen[0].sequences.vocab_size,
        is_encoder_decoder=seen[0].sequences.is_encoder_decoder,
    )


@torch.no_grad()
def sample_only(
    model: PolicyAndValue,
    batch: PromptBatch,
    *,
    masking_policy: MaskingPolicy,
    sampling: SamplingSettings,
    mask: MaskSettings,
    seed: int,
    forward_batch_size: int,
    pad_token_id: int,
    decode: Decode,
    engine: RolloutEngine | None = None,
) -> Completions:
    """Completions as [`collect_rollout`] samples them, and nothing else about them; arguments as there."""
    samples = list(_samples(model, batch, masking_policy, sampling, mask, seed, forward_batch_size, engine))
    return joined_completions(batch, samples, pad_token_id, decode)


def _samples(
    model: PolicyAndValue,
    batch: PromptBatch,
    masking_policy: MaskingPolicy,
    sampling: SamplingSettings,
    mask: MaskSettings,
    seed: int,
    forward_batch_size: int,
    engine: RolloutEngine | None,
    first_row: int = 0,
) -> Generator[Sample, None, None]:
    """Completions of some rows at a time; while this is iterated over, the model is in evaluation mode and seeded."""
    draws = row_draws(seed, range(first_row, first_row + len(batch)), sampling.max_new_tokens)
    with evaluation_mode(model), seeded(seed, next(model.policy.parameters()).device):
        engine = TransformersEngine() if engine is None else engine
        engine.sync(model.policy, masking_policy)
        yield from engine.sample(batch.prompt_ids, draws, sampling, mask, forward_batch_size)


def _evaluate(
    model: PolicyAndValue, sample: Sample, reference: Output, sampling: SamplingSettings, bootstraps: bool
) -> dict[str, torch.Tensor]:
    """Columns of a [`Rollout`], each `(b, T)` and 0 on padding; `final_values` is `(b,)`."""
    sequences = sample.sequences
    real, is_penalized = sequences.completion_mask, sampling.repetition_penalty != 1.0
    # A state more: that after the last token.
    output, values = model(sequences.with_a_state_more() if bootstraps else sequences, model.parts[0])
    output = output[:, : sequences.width]
    with_mass = sample.mass_drift is not None and is_penalized
    old, _, log_mass = action_logprobs(output, sequences, sampling, with_mass=with_mass, entropy_gradient=False)
    found = {"old_logprobs": old, "raw_logprobs": old}
    if sequences.token_sets is not None or is_penalized:
        found["raw_logprobs"] = raw_logprobs(output, sequences, sampling.temperature)
    if sample.mass_drift is not None:
        # Without a penalty, the allowed tokens' mass is what lies between the two: no other pass over the vocabulary.
        found["anchor_log_mass"] = (log_mass if is_penalized else found["raw_logprobs"] - old) + sample.mass_drift
    if sample.engine_logprobs is not None:
        found["engine_logprobs"] = sample.engine_logprobs.to(real.device)
    del output
    if values is None:
        _, values = model(sequences.with_a_state_more() if bootstraps else sequences, "value")
    found["values"] = values[:, : sequences.width]
    found["ref_logprobs"] = raw_logprobs(reference(sequences), sequences, sampling.temperature)
    found = {name: torch.where(real, column, 0.0) for name, column in found.items()}
    if bootstraps:
        last = values.gather(1, real.sum(-1, keepdim=True)).squeeze(1)
        found["final_values"] = torch.where(sample.ended, 0.0, last)
    return found


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
