"""Prompts and completions as inputs of causal and encoder-decoder models, for a full pass or step by step."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from ..errors import UserError
from ..functional.sequences import flush_left, position_ids_from
from ..records import TokenRows


def is_encoder_decoder(model: Any) -> bool:
    """Whether the prompt goes to an encoder of its own."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def decoder_start_token(model: Any) -> int:
    """The token that an encoder-decoder model's completions start from.

    Raises:
        UserError: neither the generation settings nor the configuration name one.
    """
    for holder in (getattr(model, "generation_config", None), model.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            token = getattr(holder, name, None)
            if isinstance(token, int):
                return token
    raise UserError(
        f"{type(model).__name__} does not say which token its decoder starts from: set config.decoder_start_token_id."
    )


_LIMITS = ("max_seq_len", "max_sequence_length", "max_seq_length", "seq_length", "n_positions", "n_ctx")
"""Other names for `max_position_embeddings`, which only models that count positions take for a limit."""

_WITHOUT_LIMIT = ("relative_attention_num_buckets", "relative_attention_max_distance")


def context_length(model: Any, of_encoder: bool = False) -> int | None:
    """Most tokens of a row, by whatever name the model's family gives it; None where there is no limit.

    Args:
        model: any model; nothing is known of one without a configuration.
        of_encoder (`bool`): of an encoder-decoder model, the encoder's; otherwise the decoder's.
    """
    config = getattr(model, "config", None)
    part = "encoder" if of_encoder else "decoder"
    for name in (part, "text_config"):
        if hasattr(getattr(config, name, None), "to_dict"):
            config = getattr(config, name)
    names = [f"max_{part}_position_embeddings", "max_position_embeddings"]
    is_relative = getattr(config, "model_type", None) == "bloom" or any(
        hasattr(config, name) for name in _WITHOUT_LIMIT
    )
    names += () if is_relative else _LIMITS
    limits = [getattr(config, name, None) for name in names]
    found = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    return None if found is None else found - _unused_positions(model)


def _unused_positions(model: Any) -> int:
    """RoBERTa and its like begin to count after the pad token."""
    for name, module in model.named_modules():
        if type(module) is nn.Embedding and "position" in name and module.padding_idx is not None:
            return int(module.padding_idx) + 1
    return 0


def longest_prompt(policy: Any, max_new_tokens: int) -> int | None:
    """Tokens that a prompt may have beside the completion in the policy's context; None where the model has no limit.

    Raises:
        UserError: the completion alone fills the context.
    """
    context = context_length(policy)
    if context is not None and max_new_tokens >= context:
        raise UserError(
            f"response_length is {max_new_tokens}, but the model's context has only {context} tokens for prompt and "
            "completion: lower response_length."
        )
    # An encoder and its decoder have the context each for themselves.
    if is_encoder_decoder(policy):
        return context_length(policy, of_encoder=True)
    return None if context is None else context - max_new_tokens


def forced_tokens(model: Any) -> dict[str, Any]:
    """The first and last tokens that an encoder-decoder model is made to produce (a language code, an end token)."""
    if not is_encoder_decoder(model):
        return {}
    settings = {}
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        token = getattr(getattr(model, "generation_config", None), name, None)
        token = getattr(model.config, name, None) if token is None else token
        if token is not None:
            settings[name] = token
    return {"decoder_start_token_id": decoder_start_token(model), **settings}


def prompt_inputs(model: Any, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Prompts `(B, P)`, padded on the left, as `generate` wants them: an encoder has its padding on the right."""
    if is_encoder_decoder(model):
        prompt_ids, prompt_mask = flush_left(prompt_ids, prompt_mask)
    return {"input_ids": prompt_ids.masked_fill(~prompt_mask, 0), "attention_mask": prompt_mask.long()}


def completion_inputs(model: Any, sequences: TokenRows) -> dict[str, Any]:
    """Inputs of one pass over prompt and completion whose last T logits predict the T completion tokens."""
    if is_encoder_decoder(model):
        B = len(sequences.completion_ids)
        start = sequences.completion_ids.new_full((B, 1), decoder_start_token(model))
        ids = sequences.completion_ids.masked_fill(~sequences.completion_mask, 0)
        return {
            **prompt_inputs(model, sequences.prompt_ids, sequences.prompt_mask),
            "decoder_input_ids": torch.cat([start, ids[:, :-1]], dim=1),
            "use_cache": False,
            "return_dict": True,
        }
    inputs = joined_inputs(model, *joined(sequences))
    if "logits_to_keep" in forward_parameters(model):
        inputs["logits_to_keep"] = sequences.width
    return inputs


def joined(sequences: TokenRows) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt and completion in one row, less the last token, which predicts nothing that is asked for."""
    ids = torch.cat([sequences.prompt_ids, sequences.completion_ids], dim=1)[:, :-1]
    mask = torch.cat([sequences.prompt_mask, sequences.completion_mask], dim=1)[:, :-1]
    return ids, mask


def joined_inputs(model: Any, ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, Any]:
    """Rows `(B, L)` of a decoder-only model or backbone."""
    # A pad token may lie outside the embedding, as one that was added to the tokenizer only; what stands on masked
    # positions is never looked at, so any id of the vocabulary does.
    inputs = {
        "input_ids": ids.masked_fill(~attention_mask, 0),
        "attention_mask": attention_mask.long(),
        "use_cache": False,
        "return_dict": True,
    }
    if "position_ids" in forward_parameters(model):
        inputs["position_ids"] = position_ids_from(attention_mask)
    return inputs


def forward_parameters(model: Any) -> set[str]:
    """Names that the model's (or its base model's) forward pass takes."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(base.forward).parameters)


class StepwiseLogits:
    """A model's next-token logits for rows that grow by a token at a time, with a key-value cache.

    The prompt is read once: by the encoder, or into the cache.

    Args:
        prompt_ids, prompt_mask (`(B, P)` long / bool): prompts padded on the left; True = real token.
        use_cache (`bool`): False computes every step from the whole row, for families without a cache that fits.
    """

    def __init__(self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, use_cache: bool = True):
        self.prompt_ids, self.prompt_mask = prompt_ids, prompt_mask
        self.use_cache = use_cache
        self._cache: Any = None
        self._encoded: BaseModelOutput | None = None
        self._num_cached = 0

    def next_logits(self, model: Any, ids: torch.Tensor) -> torch.Tensor:
        """Logits `(B, V)` of the token after `ids` `(B, L)`: prompt and completion, or what the decoder has so far."""
        inputs = self._decoder_inputs(model, ids) if is_encoder_decoder(model) else self._causal_inputs(model, ids)
        if not self.use_cache:
            logits: torch.Tensor = model(**inputs, use_cache=False, return_dict=True).logits
            return logits[:, -1].float()
        # transformers called the cache past_key_values before 5.24, and models from elsewhere still do.
        name = "cache" if "cache" in forward_parameters(model) else "past_key_values"
        output = model(**inputs, **{name: self._cache}, use_cache=True, return_dict=True)
        self._cache, self._num_cached = getattr(output, name), ids.shape[1]
        if is_encoder_decoder(model) and self._encoded is None:
            self._encoded = BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)
        return output.logits[:, -1].float()

    def _causal_inputs(self, model: Any, ids: torch.Tensor) -> dict[str, Any]:
        num_new = ids.shape[1] - self.prompt_mask.shape[1]
        attention_mask = torch.cat([self.prompt_mask, self.prompt_mask.new_ones(len(ids), num_new)], dim=1)
        inputs: dict[str, Any] = joined_inputs(model, ids, attention_mask)
        del inputs["use_cache"], inputs["return_dict"]
        for name in ("input_ids", "position_ids"):
            if name in inputs:
                inputs[name] = inputs[name][:, self._num_cached :]
        if "logits_to_keep" in forward_parameters(model):
            inputs["logits_to_keep"] = 1
        return inputs

    def _decoder_inputs(self, model: Any, ids: torch.Tensor) -> dict[str, Any]:
        inputs: dict[str, Any] = prompt_inputs(model, self.prompt_ids, self.prompt_mask)
        if self._encoded is not None:
            del inputs["input_ids"]
            inputs["encoder_outputs"] = self._encoded
        return {**inputs, "decoder_input_ids": ids[:, self._num_cached :]}
