"""The distribution that completions are sampled from: settings, and what they make of a model's logits."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, cast

import torch
import transformers
from transformers import GenerationConfig, LogitsProcessorList

from ..errors import UserError
from ..functional.logprobs import (
    first_occurrences,
    masked_logprobs_and_entropy,
    masked_logprobs_entropy_and_mass,
    penalize_repetition,
    scaled_logits,
    token_logprobs,
)
from ..functional.output_layer import OutputStates, PolicyOutput, output_logprobs
from ..records import TokenRows


# Settings that change logits by something other than a mask or the temperature, with the value that does nothing. The
# update could not compute the probability that a token was sampled with. (`repetition_penalty` is computed again
# there.)
_NOT_IN_ROLLOUTS: dict[str, Any] = {
    "encoder_repetition_penalty": 1.0, "exponential_decay_length_penalty": None, "guidance_scale": 1.0,
    "penalty_alpha": None, "prompt_lookup_num_tokens": None, "sequence_bias": None, "stop_strings": None,
    "max_time": None, "watermarking_config": None, "assistant_early_exit": None, "dola_layers": None,
}  # fmt: skip

# Settings that change what `generate` reads or returns.
_NEVER = (
    "return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    "token_healing",
)  # fmt: skip

# Warpers run after the mask, by the package itself, so that the stored mask is the whole support of the distribution.
_WARPERS = {
    "top_h": ("TopHLogitsWarper", "top_h"),
    "top_k": ("TopKLogitsWarper", "top_k"),
    "top_p": ("TopPLogitsWarper", "top_p"),
    "min_p": ("MinPLogitsWarper", "min_p"),
    "typical_p": ("TypicalLogitsWarper", "mass"),
    "epsilon_cutoff": ("EpsilonLogitsWarper", "epsilon"),
    "eta_cutoff": ("EtaLogitsWarper", "epsilon"),
}
_WARPER_OFF: dict[str, tuple[Any, ...]] = {
    "top_k": (None, 0), "top_p": (None, 1, 1.0), "typical_p": (None, 1, 1.0), "epsilon_cutoff": (None, 0, 0.0),
    "eta_cutoff": (None, 0, 0.0), "min_p": (None, 0, 0.0), "top_h": (None,),
}  # fmt: skip

# Fields that `generate` applies to the logits itself, as minus infinity, before the mask.
_RESTRICTIONS = (
    "bad_words_ids", "begin_suppress_tokens", "encoder_no_repeat_ngram_size", "forced_bos_token_id",
    "forced_eos_token_id", "min_length", "min_new_tokens", "no_repeat_ngram_size", "suppress_tokens",
)  # fmt: skip


# Fields that count or compare the tokens of a row. `generate` would show them its padding, so each row gets its own.
_OF_ROWS = (
    "bad_words_ids", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "exponential_decay_length_penalty",
    "min_length", "no_repeat_ngram_size", "sequence_bias",
)  # fmt: skip


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn.

    Attributes:
        max_new_tokens (`int`): longest completion.
        temperature (`float`): divides the logits of policy, reference and masking policy alike.
        stop_token_ids (`tuple[int, ...]`): tokens that end a completion.
        do_sample (`bool`): False (evaluation only) is greedy or beam search.
        repetition_penalty (`float`): 1 is none; computed again in the update.
        warpers (`dict`): settings that cut the tail of the distribution: `top_k`, `top_p`, `min_p`, ….
        generation_fields (`dict`): all other fields of `GenerationConfig`, passed on.
    """

    max_new_tokens: int
    temperature: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    do_sample: bool = True
    repetition_penalty: float = 1.0
    warpers: dict[str, Any] = field(default_factory=dict)
    generation_fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(
        cls, args: Any, tokenizer: Any, policy: Any = None, *, for_evaluation: bool = False
    ) -> SamplingSettings:
        """Read the settings off an [`NLPOConfig`].

        Args:
            args ([`NLPOConfig`]): the run's configuration.
            tokenizer, policy: for `stop_token="eos"`, which is the tokenizer's EOS and the end tokens in the policy's
                `generation_config`: chat models end a turn with another token than a text.
            for_evaluation (`bool`): take `eval_generation_kwargs` where given; anything `generate` can do is allowed.

        Raises:
            UserError: an unknown field, or one that the update could not account for.
        """
        kwargs = dict(args.generation_kwargs or {})
        name = "generation_kwargs"
        if for_evaluation and args.eval_generation_kwargs is not None:
            kwargs, name = dict(args.eval_generation_kwargs), "eval_generation_kwargs"
        _check_fields(name, kwargs, for_evaluation)
        stop_token_ids = _stop_tokens(args, tokenizer, policy, kwargs.pop("eos_token_id", None))
        max_new_tokens = kwargs.pop("max_new_tokens", None) or args.response_length
        temperature = kwargs.pop("temperature", None)
        temperature = args.temperature if temperature is None else temperature
        if temperature <= 0:
            raise UserError(f"{name}: temperature is {temperature}, but must be greater than 0.")
        # Tokens after a stop token are ignored, so `pad_token_id` has no effect.
        kwargs.pop("pad_token_id", None)
        do_sample = kwargs.pop("do_sample", True)
        warpers = {key: kwargs.pop(key) for key in _WARPERS if key in kwargs}
        return cls(
            max_new_tokens=int(max_new_tokens),
            temperature=float(temperature),
            stop_token_ids=stop_token_ids,
            do_sample=bool(do_sample),
            repetition_penalty=float(kwargs.pop("repetition_penalty", None) or 1.0),
            warpers={key: value for key, value in warpers.items() if value not in _WARPER_OFF[key]},
            generation_fields={key: value for key, value in kwargs.items() if value is not None},
        )

    @property
    def is_left_to_generate(self) -> bool:
        """Whether `generate` decides alone, as in greedy and beam search (evaluation only)."""
        return not self.do_sample or (self.generation_fields.get("num_beams") or 1) > 1

    @property
    def looks_at_rows(self) -> bool:
        """Whether some setting counts or compares the tokens of a row; see `row_processors`."""
        return any(name in self.generation_fields for name in _OF_ROWS)

    @property
    def uses_cache(self) -> bool:
        """Whether steps build on what earlier ones computed; slower without."""
        return self.generation_fields.get("use_cache", True) is not False

    @property
    def restricts_tokens(self) -> bool:
        """Whether something other than the masking policy can forbid a token."""
        return bool(self.warpers) or any(name in self.generation_fields for name in _RESTRICTIONS)

    def logits_warpers(self, device: torch.device) -> LogitsProcessorList:
        """The warpers, in the order in which `generate` applies them."""
        processors = LogitsProcessorList()
        for name, (class_name, argument) in _WARPERS.items():
            if name in self.warpers:
                warper = getattr(transformers, class_name)
                kwargs = {argument: self.warpers[name]}
                if "device" in inspect.signature(warper.__init__).parameters:
                    kwargs["device"] = str(device)
                processors.append(warper(**kwargs))
        return processors

    def generation_config(self, pad_token_id: int, forced_tokens: Mapping[str, Any]) -> GenerationConfig:
        """What `generate` is left to do: nothing that looks at rows; and where this package samples, only to go on."""
        # What is sampled here comes to `generate` as the only token that is left.
        left_to_generate: dict[str, Any] = {"do_sample": False}
        if self.is_left_to_generate:
            warpers = {"temperature": self.temperature, "top_k": 0, **self.warpers} if self.do_sample else {}
            left_to_generate = {
                "do_sample": self.do_sample, "repetition_penalty": self.repetition_penalty, **warpers
            }  # fmt: skip
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            eos_token_id=list(self.stop_token_ids) or None,
            pad_token_id=pad_token_id,
            **left_to_generate,
            **{
                **forced_tokens,
                **{name: value for name, value in self.generation_fields.items() if name not in _OF_ROWS},
            },
        )

    def row_processors(self, prompt_ids: torch.Tensor, is_encoder_decoder: bool) -> LogitsProcessorList:
        """What looks at the tokens of a row, for rows with one prompt without padding.

        Args:
            prompt_ids (`torch.Tensor` of shape `(1, P)`): the prompt.
            is_encoder_decoder (`bool`): whether the prompt stands apart from the completion.
        """
        fields, device = self.generation_fields, str(prompt_ids.device)
        stops = torch.tensor(self.stop_token_ids, dtype=torch.long, device=prompt_ids.device)
        prompt = cast("torch.LongTensor", prompt_ids)
        found = LogitsProcessorList()
        if size := fields.get("no_repeat_ngram_size"):
            found.append(transformers.NoRepeatNGramLogitsProcessor(size))
        if size := fields.get("encoder_no_repeat_ngram_size"):
            found.append(transformers.EncoderNoRepeatNGramLogitsProcessor(size, prompt))
        if words := fields.get("bad_words_ids"):
            found.append(transformers.NoBadWordsLogitsProcessor(words, stops if len(stops) else None))
        if len(stops) and (length := fields.get("min_length")):
            found.append(transformers.MinLengthLogitsProcessor(length, stops, device=device))
        # Evaluation only.
        if (penalty := fields.get("encoder_repetition_penalty") or 1.0) != 1.0:
            found.append(transformers.EncoderRepetitionPenaltyLogitsProcessor(penalty, prompt))
        if bias := fields.get("sequence_bias"):
            found.append(transformers.SequenceBiasLogitsProcessor(bias))
        if len(stops) and (decay := fields.get("exponential_decay_length_penalty")):
            start = 0 if is_encoder_decoder else prompt_ids.shape[1]
            found.append(transformers.ExponentialDecayLengthPenalty(decay, stops, start))
        return found


def _check_fields(name: str, kwargs: Mapping[str, Any], for_evaluation: bool) -> None:
    known = set(GenerationConfig().to_dict()) | {
        *_WARPERS,
        *_RESTRICTIONS,
        *_NOT_IN_ROLLOUTS,
        "temperature",
        "max_new_tokens",
    }
    for key in kwargs:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ": see transformers.GenerationConfig."
            raise UserError(f"{name} has the unknown field {key!r}{hint}")
    for key in _NEVER:
        if kwargs.get(key):
            raise UserError(f"{name}: {key} cannot be used, as it changes what `generate` reads or returns.")
    if (kwargs.get("num_return_sequences") or 1) > 1:
        raise UserError(f"{name}: num_return_sequences must be 1: every prompt has one completion.")
    if for_evaluation:
        return
    if (
        kwargs.get("do_sample") is False
        or (kwargs.get("num_beams") or 1) > 1
        or (kwargs.get("num_return_sequences") or 1) > 1
    ):
        raise UserError(
            f"{name}: rollouts are sampled, one completion a prompt; do_sample=False, num_beams and "
            "num_return_sequences belong into eval_generation_kwargs."
        )
    for key, neutral in _NOT_IN_ROLLOUTS.items():
        if kwargs.get(key) not in (None, neutral):
            raise UserError(
                f"{name}: {key} cannot be used in rollouts, as the update could not tell the probability that a token "
                "was sampled with; put it into eval_generation_kwargs."
            )


def _stop_tokens(args: Any, tokenizer: Any, policy: Any, override: int | Sequence[int] | None) -> tuple[int, ...]:
    if override is not None:
        return (override,) if isinstance(override, int) else tuple(override)
    if args.stop_token == "eos":
        if tokenizer.eos_token_id is None:
            raise UserError("stop_token is 'eos', but the tokenizer has no eos_token: set one, or give stop_token_id.")
        return tuple(dict.fromkeys([tokenizer.eos_token_id, *_end_tokens(policy)]))
    return () if args.stop_token_id is None else (args.stop_token_id,)


def _end_tokens(policy: Any) -> list[int]:
    """The end tokens in a model's generation settings; not those of a default beyond its vocabulary."""
    ends = getattr(getattr(policy, "generation_config", None), "eos_token_id", None)
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    size = getattr(getattr(policy, "config", None), "vocab_size", None)
    return [end for end in ends if end >= 0 and (not isinstance(size, int) or end < size)]


@dataclass(frozen=True)
class MaskSettings:
    """What the masking policy allows; fields as in [`NLPOConfig`].

    Attributes:
        strategy (`str`): `"top_p"`, `"top_k"` or `"none"`.
        top_p, top_k, min_tokens: size of the mask.
        always_allowed (`tuple[int, ...]`): stop tokens, which stay legal everywhere.
        is_anchored (`bool`): whether the update holds on to what the masking policy gave the allowed tokens.
    """

    strategy: str
    top_p: float = 1.0
    top_k: int | None = None
    min_tokens: int = 1
    always_allowed: tuple[int, ...] = ()
    is_anchored: bool = False

    @classmethod
    def from_config(cls, args: Any, tokenizer: Any, policy: Any, sampling: SamplingSettings) -> MaskSettings:
        """Read the settings off an [`NLPOConfig`]; the end tokens of tokenizer and model count as stop tokens."""
        ends = _end_tokens(policy)
        if tokenizer.eos_token_id is not None:
            ends.append(tokenizer.eos_token_id)
        allowed = tuple(sorted({*sampling.stop_token_ids, *ends}))
        return cls(
            args.mask_strategy,
            args.mask_top_p,
            args.mask_top_k,
            args.mask_min_tokens,
            allowed,
            args.mask_anchor_coef > 0.0,
        )

    @property
    def is_active(self) -> bool:
        """Whether anything can be forbidden: NLPO with top-p 1 is PPO."""
        return self.strategy == "top_k" or (self.strategy == "top_p" and self.top_p < 1.0)


def action_logprobs(
    output: PolicyOutput,
    sequences: TokenRows,
    sampling: SamplingSettings,
    *,
    with_mass: bool = False,
    entropy_gradient: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the tokens taken, and entropies, under the distribution that was sampled from.

    The one function that turns what a model computes into the distribution of actions (temperature, repetition
    penalty, mask): called by the rollout for the old log-probabilities and by the update for the new ones, so that
    their ratio is 1 as long as the policy has not moved.

    Args:
        output (`torch.Tensor` of shape `(B, T, V)` or [`OutputStates`]): raw logits, or what they come from.
        sequences ([`TokenRows`]): the tokens, and the stored mask.
        sampling ([`SamplingSettings`]): as at sampling.
        with_mass (`bool`): whether log Z is asked for: Z is the probability of the allowed tokens without the mask.
        entropy_gradient (`bool`): whether entropies are differentiated.

    Returns:
        log-probabilities, entropies and log Z (0 where that is not asked for), each `(B, T)`. What stands on padding
        means nothing.
    """
    ids, mask = sequences.completion_ids, sequences.token_sets
    if isinstance(output, OutputStates) and sampling.repetition_penalty == 1.0:
        return output_logprobs(
            output, ids, sequences.completion_mask, mask, sampling.temperature, with_mass, entropy_gradient
        )
    logits = action_logits(output.logits() if isinstance(output, OutputStates) else output, sequences, sampling)
    if with_mass:
        return masked_logprobs_entropy_and_mass(logits, ids, mask)
    logprobs, entropies = masked_logprobs_and_entropy(logits, ids, mask)
    return logprobs, entropies, torch.zeros_like(logprobs)


def raw_logprobs(output: PolicyOutput, sequences: TokenRows, temperature: float) -> torch.Tensor:
    """Log-probabilities `(B, T)` of the tokens taken without mask and penalty, as the KL penalty compares them."""
    ids = sequences.completion_ids
    if isinstance(output, OutputStates):
        return output_logprobs(output, ids, sequences.completion_mask, None, temperature, entropy_gradient=False)[0]
    return token_logprobs(scaled_logits(output, temperature), ids)


def action_logits(logits: torch.Tensor, sequences: TokenRows, sampling: SamplingSettings) -> torch.Tensor:
    """Logits `(B, T, V)` of the actions, after repetition penalty and temperature and before the mask."""
    if sampling.repetition_penalty != 1.0:
        # What an encoder reads is not repeated by the decoder.
        in_row = sequences.prompt_mask & (not sequences.is_encoder_decoder)
        first = first_occurrences(sequences.prompt_ids, in_row, sequences.completion_ids, logits.shape[-1])
        steps = torch.arange(sequences.width, device=logits.device)
        seen = first[:, None, :] < steps[None, :, None]
        logits = penalize_repetition(logits.float(), seen, sampling.repetition_penalty)
    return scaled_logits(logits, sampling.temperature)
