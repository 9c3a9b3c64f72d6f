"""One look at the models that a trainer is handed: what cannot work, or would train nothing, is refused in a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..errors import UserError
from .adapters import adapter_parameters, is_adapter_model
from .inputs import context_length, decoder_start_token, is_encoder_decoder
from .policy_and_value import PolicyAndValue, output_layer


logger = logging.get_logger(__name__)

HALF = (torch.bfloat16, torch.float16)
"""Data types whose rounding swallows the steps of a usual learning rate: 3e-6 moves no weight above 0.001."""


def num_tokens_read(model: Any) -> int | None:
    """Rows of the input embedding; None for a model that does not say."""
    layer = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    weight = getattr(layer, "weight", None)
    size = getattr(layer, "num_embeddings", None) or (weight.shape[0] if weight is not None and weight.dim() else 0)
    return int(size) or None


def num_tokens_written(policy: Any) -> int | None:
    """Logits of a position; None for a model that does not say."""
    layer = output_layer(policy)
    # Quantized weights have other shapes than the layer.
    size = getattr(layer, "out_features", None) or (layer.weight.shape[0] if layer.weight.dim() else 0)
    return int(size) or None


def check_token_ids(rows: Sequence[Sequence[int]], name: str, policy: Any, tokenizer: Any) -> None:
    """Refuse prompts with tokens that the policy does not have.

    Args:
        rows: token ids of prompts.
        name (`str`): of the data set, for the message.
        policy: a language model.
        tokenizer: the policy's, for the message.

    Raises:
        UserError: the first token id outside of the input embedding.
    """
    size = num_tokens_read(policy)
    for index, row in enumerate(rows):
        wrong = [] if size is None else [token for token in row if not 0 <= token < size]
        if wrong:
            raise UserError(
                f"{name} row {index} has the token {_named(wrong[0], tokenizer)}, but the model knows {size} tokens: "
                f"{_remedy(wrong[0], tokenizer)}"
            )


def check_ends(rows: Sequence[Sequence[int]], name: str, policy: Any, tokenizer: Any) -> None:
    """Refuse prompts of a decoder-only policy that all end with EOS, or that all begin with BOS twice.

    The first would be asked to go on after the end; the second were rendered with a chat template, and the tokenizer
    adds its own to text.

    Raises:
        UserError: as an encoder-decoder model's prompts may be, but not these.
    """
    end, begin = tokenizer.eos_token_id, getattr(tokenizer, "bos_token_id", None)
    if is_encoder_decoder(policy) or not rows:
        return
    if end is not None and all(row[-1] == end and len(row) > 1 for row in rows):
        raise UserError(
            f"every prompt of {name} ends with the EOS token {_named(end, tokenizer)}, so that the policy would be "
            "asked to go on after the end: load the tokenizer with add_eos_token=False, or take the token off the "
            "prompts."
        )
    if begin is not None and all(list(row[:2]) == [begin, begin] for row in rows):
        raise UserError(
            f"every prompt of {name} begins with the BOS token {_named(begin, tokenizer)} twice: the text has it "
            "already, and the tokenizer adds one; take it off the text, or give messages instead of rendered text."
        )


def check_special_tokens(policy: Any, tokenizer: Any, ids: Mapping[str, Iterable[int]]) -> None:
    """Refuse tokens that a completion is to end, begin or be made with, and that the policy cannot produce.

    The pad token may lie outside: no model is shown it.

    Args:
        policy: a language model.
        tokenizer: the policy's.
        ids: token ids by the name of the setting that they are from.

    Raises:
        UserError: the first one outside of the output layer.
    """
    size = num_tokens_written(policy)
    end = tokenizer.eos_token_id
    starts = [decoder_start_token(policy)] if is_encoder_decoder(policy) else []
    all_ids = {"The EOS token": [] if end is None else [end], "The decoder's start token": starts, **ids}
    for name, tokens in all_ids.items():
        for token in tokens:
            if size is not None and not 0 <= token < size:
                raise UserError(
                    f"{name} is {_named(token, tokenizer)}, but the model has {size} tokens and can never produce it: "
                    f"{_remedy(token, tokenizer)}"
                )


def _named(token: int, tokenizer: Any) -> str:
    text = tokenizer.convert_ids_to_tokens(token) if 0 <= token < len(tokenizer) else None
    return str(token) if text is None else f"{token} ({text!r})"


def _remedy(token: int, tokenizer: Any) -> str:
    if 0 <= token < len(tokenizer):
        return "it is in the tokenizer only; call model.resize_token_embeddings(len(tokenizer)) first."
    return "it is not in the tokenizer either, so these are the ids of another tokenizer."


def check_companion(name: str, model: Any, policy: Any, longest_row: int, num_tokens: int | None) -> None:
    """Refuse a model that is to read the policy's tokens, but knows fewer tokens or takes shorter rows.

    Args:
        name (`str`): of the argument, for the message.
        model: a reference, a value model or a reward model; read as the policy's tokens are.
        policy: the policy.
        longest_row (`int`): most tokens of prompt and completion.
        num_tokens (`int`, *optional*): tokens that it will have to know.

    Raises:
        UserError: it is too small.
    """
    known = num_tokens_read(model)
    if known is not None and num_tokens is not None and known < num_tokens:
        raise UserError(
            f"{name} knows {known} tokens, but the policy's tokens are up to {num_tokens}: it must have the policy's "
            "vocabulary, as it reads the policy's tokens."
        )
    # An encoder-decoder companion reads the prompt and the completion apart, as the policy does, which was looked at.
    if is_encoder_decoder(policy):
        return
    context = context_length(model)
    if context is not None and context < longest_row:
        raise UserError(
            f"{name} has a context of {context} tokens, but prompt and completion have up to {longest_row}: give "
            "a model with a longer context, or lower response_length or max_prompt_length."
        )


def check_separate(trained: PolicyAndValue, others: Mapping[str, Any]) -> None:
    """Refuse models that must stand still but share weights with what is trained, and a value model on the policy.

    Args:
        trained ([`PolicyAndValue`]): its parameters that take a gradient.
        others: models by the name of their arguments; None is passed over.

    Raises:
        UserError: shared weights.
    """
    policy, value = (_addresses(part, trained_only=True) for part in (trained.policy, trained.value_model))
    if policy & _addresses(trained.value_model) or value & _addresses(trained.policy):
        raise UserError(
            "value_model shares weights with the policy: pass None for a value head on the policy's own backbone, or "
            "a model loaded separately."
        )
    for name, model in others.items():
        if isinstance(model, nn.Module) and (policy | value) & _addresses(model):
            owner = "policy" if policy & _addresses(model) else "value_model"
            raise UserError(
                f"{name} shares weights with the {owner}, which is trained, so it would change during training: load "
                "it separately, or pass copy.deepcopy(model)."
            )


def _addresses(model: nn.Module, trained_only: bool = False) -> set[int]:
    """Where the weights lie: two parameters may also share their data without being the same object."""
    parameters = (p for p in model.parameters() if p.requires_grad or not trained_only)
    return {p.data_ptr() for p in parameters if not p.is_meta and p.numel()} - {0}


def check_trainable(trained: PolicyAndValue) -> list[str]:
    """Refuse a policy that no gradient can reach; returns lines about what else takes none.

    Raises:
        UserError: every weight of the policy is frozen, or was made where no gradients are allowed.
    """
    policy = trained.policy
    if not any(parameter.requires_grad for parameter in policy.parameters()):
        raise UserError(
            "No weight of the policy is trained (requires_grad is False everywhere): unfreeze some, or pass a "
            "peft_config to train an adapter."
        )
    if any(parameter.is_inference() for parameter in trained.parameters()):
        raise UserError(
            "The model was loaded under torch.inference_mode(), where no gradients are allowed: load it outside of it."
        )
    if not any(parameter.requires_grad for parameter in trained.value_model.parameters()):
        return ["No weight of value_model takes a gradient: the value function stays as it is."]
    return []


def train_in_float32(trained: PolicyAndValue) -> list[str]:
    """Keep weights that are trained in float32, as TRL's trainers do: half precision rounds small steps away.

    A plain model is cast as a whole. Of a PEFT model only the layers of adapters are, which fit themselves to a base
    of another precision.

    Returns:
        lines about what was done, and about what could not be.
    """
    said = []
    for name, model in (("policy", trained.policy), ("value_model", trained.value_model)):
        half = {p.dtype for p in model.parameters() if p.requires_grad and p.dtype in HALF}
        if not half:
            continue
        kind = str(half.pop()).removeprefix("torch.")
        if is_adapter_model(model):
            _adapters_in_float32(model)
        else:
            model.float()
        left = [full for full, p in model.named_parameters() if p.requires_grad and p.dtype in HALF]
        if left:
            said.append(
                f"{len(left)} trained weights of the {name} stay in {kind} ({left[0]}, …), where small steps are "
                "rounded away: load the model in float32."
            )
        else:
            said.append(
                f"The {name} was loaded in {kind}, where steps of the learning rate are rounded away: its trained "
                "weights are kept in float32 (bf16=True still computes in bfloat16)."
            )
    return said


def _adapters_in_float32(model: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    own = {id(p) for name in model.peft_config for p in adapter_parameters(model, name).values()}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and isinstance(module, nn.Module):
            for parameter in module.parameters():
                if id(parameter) in own and parameter.requires_grad and parameter.dtype in HALF:
                    parameter.data = parameter.data.float()


_HEADS = ("score", "classifier", "classification_head", "qa_outputs")
"""Modules of classifiers, which a language model does not have."""


def check_loaded(name: str, model: Any, found: Mapping[str, Any]) -> None:
    """Refuse a model whose weights were not all in its files: `transformers` draws the others at random.

    Args:
        name (`str`): where it was loaded from, and what that setting is called.
        model: what was loaded.
        found: from `from_pretrained(..., output_loading_info=True)`.

    Raises:
        UserError: weights are missing or have another size, or the files are those of a classifier.
    """
    lost = sorted(found.get("missing_keys") or ()) + sorted(str(key) for key in found.get("mismatched_keys") or ())
    if lost:
        raise UserError(
            f"{name} lacks {len(lost)} weights of a {type(model).__name__} ({lost[0]}, …), "
            "which would be random: the files are not complete, or belong to another kind of model."
        )
    extra = sorted(found.get("unexpected_keys") or ())
    heads = [key for key in extra if key.split(".")[0] in _HEADS]
    if heads:
        raise UserError(
            f"{name} is no language model: it has the head of a classifier ({heads[0]}), and its "
            "backbone was trained for that."
        )
    if extra:
        logger.warning(
            f"{name}: {len(extra)} weights have no place in a {type(model).__name__} and are left out ({extra[0]}, …)."
        )
