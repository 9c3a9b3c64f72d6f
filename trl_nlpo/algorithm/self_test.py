"""A test of the policy at the start: what it computes in a padded batch and step by step is what it computes alone.

Rollout and update rest on this: tokens are sampled step by step in padded batches, and their log-probabilities are
computed in one pass. Where a family of models counts padding, or its cache does not fit, training would go on with
wrong ratios or masks and say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..errors import UserError, one_line
from ..functional.sequences import left_pad
from ..models.inputs import StepwiseLogits, decoder_start_token, is_encoder_decoder, prompt_inputs
from ..models.policy_and_value import completion_logits, output_layer, output_states
from ..records import TokenRows
from .generation import own_settings_aside


SHORT, LONG, NEW = 3, 7, 4
"""Tokens of the prompts and completions that are tried, at most."""


def trial_rows(prompts: Sequence[Sequence[int]], policy: Any) -> TokenRows:
    """The beginning of the shortest and the longest prompt, with a few tokens after each.

    Prompts of one length are never padded, so these are not either.
    """
    by_length = sorted(prompts, key=lambda ids: len(ids))
    short, long = list(by_length[0]), list(by_length[-1])
    lengths = (min(len(short), SHORT), min(len(long), LONG)) if len(short) < len(long) else (min(len(long), LONG),) * 2
    prompt_ids, prompt_mask = left_pad([short[: lengths[0]], long[: lengths[1]]], 0)
    following = [(long * NEW)[-NEW:], (long * NEW)[:NEW]]
    completion_ids = torch.tensor(following)
    device = next(policy.parameters()).device
    return TokenRows(
        prompt_ids.to(device),
        prompt_mask.to(device),
        completion_ids.to(device),
        torch.ones_like(completion_ids, dtype=torch.bool).to(device),
        is_encoder_decoder(policy),
    )


@torch.no_grad()
def can_use_cache(policy: Any, rows: TokenRows) -> bool:
    """Whether a policy, in evaluation mode, computes the same with a cache as without one.

    Args:
        policy: a language model.
        rows ([`TokenRows`]): from [`trial_rows`].

    Returns:
        `bool`: False where steps must be computed anew from the whole row, which is slower and right.

    Raises:
        UserError: a padded row is not computed as the row alone, or steps differ even without a cache.
    """
    try:
        expected = _alone(policy, rows)
    except Exception as error:
        raise UserError(
            f"{_family(policy)} cannot read a few tokens of the prompts: {one_line(error, 200)}"
        ) from error
    fault = _fault(expected, lambda: completion_logits(policy, rows), policy)
    if fault is not None:
        raise UserError(
            f"{_family(policy)} computes other logits for a prompt in a padded batch than for the prompt alone "
            f"({fault}), so what it learns would depend on the rows beside it: use a family that takes padding, or "
            "prompts that all have the same number of tokens."
        )
    for use_cache in (True, False):
        faults = [
            _fault(expected, partial(steps, policy, rows, use_cache), policy) for steps in (_generated, _stepwise)
        ]
        if faults == [None, None]:
            return use_cache
    raise UserError(
        f"{_family(policy)} samples from other probabilities than a pass over the whole row gives "
        f"({next(fault for fault in faults if fault is not None)}), so ratios would be wrong: use another family."
    )


@torch.no_grad()
def can_fuse_output_layer(model: Any, rows: TokenRows) -> bool:
    """Whether a model's logits are what its output layer makes of the states that it reads, and nothing else.

    Not so where a family changes them afterwards (a cap, a bias, a scale), where the layer is more than a matrix (an
    adapter on it, quantized weights), or where something hooks into it and changes what it computes.
    """
    layer = output_layer(model)
    # accelerate's hook of layers that are kept elsewhere has this name.
    if type(layer) is not torch.nn.Linear or hasattr(layer, "_hf_hook"):
        return False
    return not differs(completion_logits(model, rows), output_states(model, rows).logits(), model)


@torch.no_grad()
def differs(first: torch.Tensor, second: torch.Tensor, model: Any) -> bool:
    """Whether logits differ by more than rounding."""
    return first.shape != second.shape or not bool(
        (first.float() - second.float()).abs().max() <= _limit(first, model)
    )


def _family(policy: Any) -> str:
    base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    return type(base).__name__


def _limit(logits: torch.Tensor, model: Any) -> float:
    """0.1 % of the spread of the logits; 20 % in half precision or for quantized weights."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    is_exact = getattr(base, "quantization_method", None) is None and all(
        p.dtype in (torch.float32, torch.float64) for p in base.parameters()
    )
    spread = float((logits.float() - logits.float().mean(-1, keepdim=True)).abs().max())
    return (0.001 if is_exact else 0.2) * spread


def _fault(expected: torch.Tensor, compute: Callable[[], torch.Tensor], model: Any) -> str | None:
    """What is wrong with what is computed, or None."""
    try:
        found = compute()
    # Whatever a family's code raises, it cannot be computed this way.
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error, 120)}"
    if not differs(expected, found, model):
        return None
    return f"by up to {float((expected.float() - found.float()).abs().max()):.2g}"


def _alone(policy: Any, rows: TokenRows) -> torch.Tensor:
    """Logits `(B, T, V)` from plain passes over one row each, without padding, masks or positions."""
    found = []
    for prompt, mask, completion in zip(rows.prompt_ids, rows.prompt_mask, rows.completion_ids, strict=True):
        prompt = prompt[mask][None]
        if rows.is_encoder_decoder:
            start = completion.new_full((1,), decoder_start_token(policy))
            decoder_ids = torch.cat([start, completion[:-1]])[None]
            found.append(policy(input_ids=prompt, decoder_input_ids=decoder_ids, return_dict=True).logits[0])
        else:
            ids = torch.cat([prompt, completion[None, :-1]], dim=1)
            found.append(policy(input_ids=ids, return_dict=True).logits[0, -rows.width :])
    return torch.stack(found)


def _stepwise(policy: Any, rows: TokenRows, use_cache: bool) -> torch.Tensor:
    """Logits `(B, T, V)` as the masking policy computes them in a rollout."""
    ids = rows.prompt_ids
    if rows.is_encoder_decoder:
        ids = rows.completion_ids.new_full((len(rows.completion_ids), 1), decoder_start_token(policy))
    steps, found = StepwiseLogits(rows.prompt_ids, rows.prompt_mask, use_cache), []
    for token in rows.completion_ids.unbind(1):
        found.append(steps.next_logits(policy, ids))
        ids = torch.cat([ids, token[:, None]], dim=1)
    return torch.stack(found, dim=1)


def _generated(policy: Any, rows: TokenRows, use_cache: bool) -> torch.Tensor:
    """Logits `(B, T, V)` that `generate` samples from in a rollout, made to go the way of the rows."""
    forced = _Forced(rows.completion_ids)
    start = {"decoder_start_token_id": decoder_start_token(policy)} if rows.is_encoder_decoder else {}
    config = GenerationConfig(max_new_tokens=rows.width, use_cache=use_cache, pad_token_id=0, **start)
    with own_settings_aside(policy, config):
        policy.generate(
            **prompt_inputs(policy, rows.prompt_ids, rows.prompt_mask),
            generation_config=config,
            logits_processor=LogitsProcessorList([forced]),
            synced_gpus=False,
        )
    return torch.stack(forced.seen, dim=1)


class _Forced(LogitsProcessor):
    """Lets `generate` produce given tokens and keeps the logits that it had for them."""

    def __init__(self, tokens: torch.Tensor):
        self.tokens = tokens
        self.seen: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        tokens = self.tokens[:, len(self.seen)]
        self.seen.append(scores.float().clone())
        return torch.full_like(scores, float("-inf")).scatter_(1, tokens[:, None], 0.0)
