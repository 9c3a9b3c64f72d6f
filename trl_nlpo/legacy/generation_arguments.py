"""What old scripts pass to `generate`, as sampling settings; and completions sampled by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ..algorithm.distribution import MaskSettings, SamplingSettings
from ..algorithm.generation import Sample, sample_completions
from ..errors import UserError
from ..models.inputs import is_encoder_decoder
from ..models.masking_policy import MaskingPolicy
from ..models.modes import evaluation_mode


NO_MASK = MaskSettings("none")
"""Forbids nothing by itself, but has recorded what other settings forbid."""

_OF_BATCHES = ("pad_to_multiple_of", "remove_padding", "synced_gpus")
"""How the old trainer padded: rows are known by their lengths here."""

_DEFAULT_LENGTH = 20
"""Of `transformers`: tokens of a row where nothing says how long it may be."""


def sampling_settings(arguments: Mapping[str, Any], policy: Any, prompt_width: int) -> SamplingSettings:
    """Sampling settings of the keyword arguments of an old script.

    What is not given is off, whatever the model's own generation settings say, except for end tokens and `do_sample`.

    Args:
        arguments: fields of `transformers.GenerationConfig`. Values that old scripts use for "off" are understood:
            `min_length=-1`, `top_k=0.0`, `eos_token_id=-1` or one beyond the vocabulary.
        policy: the model, for its end tokens.
        prompt_width (`int`): tokens of the longest prompt, which `max_length` counts for a decoder-only model.

    Raises:
        UserError: an unknown field, no room for a token, or, where tokens are sampled, a field that the update could
            not account for.
    """
    kwargs = {name: value for name, value in arguments.items() if value is not None and name not in _OF_BATCHES}
    for name in ("min_length", "min_new_tokens"):
        if kwargs.get(name, 1) <= 0:
            del kwargs[name]
    if "top_k" in kwargs:
        kwargs["top_k"] = int(kwargs["top_k"])
    own = getattr(policy, "generation_config", None)
    ends = kwargs.pop("eos_token_id", getattr(own, "eos_token_id", None))
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    size = policy.get_output_embeddings().weight.shape[0]
    kwargs["eos_token_id"] = tuple(int(end) for end in ends if 0 <= end < size)
    kwargs["do_sample"] = kwargs.get("do_sample", bool(getattr(own, "do_sample", False)))
    samples = kwargs["do_sample"] and kwargs.get("num_beams", 1) == 1
    args = SimpleNamespace(
        generation_kwargs=kwargs,
        eval_generation_kwargs=None,
        response_length=_most_new_tokens(kwargs, policy, prompt_width),
        temperature=1.0,
    )
    return SamplingSettings.from_config(args, None, policy, for_evaluation=not samples)


def _most_new_tokens(kwargs: dict[str, Any], policy: Any, prompt_width: int) -> int:
    total = kwargs.pop("max_length", _DEFAULT_LENGTH)
    if "max_new_tokens" in kwargs:
        return int(kwargs.pop("max_new_tokens"))
    # Of an encoder-decoder model the token that the decoder starts from counts.
    left = int(total) - (1 if is_encoder_decoder(policy) else prompt_width)
    if left < 1:
        raise UserError(
            f"generate: max_length is {total}, but the longest prompt has {prompt_width} tokens already: give "
            "max_new_tokens."
        )
    return left


def sampled(
    policy: Any,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSettings,
    mask: MaskSettings = NO_MASK,
    masking_policy: MaskingPolicy | None = None,
) -> Sample:
    """A completion per prompt, drawn from the global random state."""
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"generate: query {index} is empty: there is nothing to complete.")
    with evaluation_mode(policy):
        return sample_completions(policy, prompts, sampling, mask, masking_policy)
