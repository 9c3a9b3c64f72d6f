"""Reward models as reward functions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import RewardError, UserError
from ..metrics.classifier import SequenceClassifier, reward_offset
from ..metrics.texts import joined
from ..models.inputs import context_length
from ..models.policy_and_value import backbone_hidden_states
from ..records import Completions


class ModelReward:
    """The score that a model with one label gives to prompt and completion.

    Args:
        model (`nn.Module`): a sequence classifier. Without a tokenizer of its own it reads the policy's tokens, and a
            `score` head is read at the last real token, as in TRL's PPO.
        tokenizer (*optional*): the model's own, which is copied. Prompt and completion are decoded and encoded again
            as the model was trained: text with the tokenizer's special tokens, messages through its chat template
            with the answer's turn closed, as in TRL's GRPO. Of what is longer than the model can read, the beginning
            is truncated, which is said once.
        forward_batch_size (`int`, defaults to 64): rows at a time.
        name (`str`, *optional*): how logs call it; by default the last part of the model's path, or its class.
        chat_template_kwargs (`dict`, *optional*): extra arguments of the chat template.

    The model is put into evaluation mode.

    Raises:
        UserError: several labels, a language model, weights that were not loaded, or a model that has no room for a
            token beside the tokenizer's special ones.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        forward_batch_size: int = 64,
        name: str = "",
        chat_template_kwargs: dict[str, Any] | None = None,
    ):
        path = name or getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
        self.__name__ = path.rstrip("/").split("/")[-1]
        check_reward_model(model, self.__name__)
        self.model = model.eval()
        self.forward_batch_size = forward_batch_size
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.tokenizer = tokenizer
        self._reader: SequenceClassifier | None = None
        self._has_said_truncated = False
        if tokenizer is not None:
            self._reader = SequenceClassifier(model, f"reward model {self.__name__!r}", tokenizer, forward_batch_size)
            self._check_room(self._reader)

    @torch.no_grad()
    def score_completions(self, rollout: Completions) -> list[float | None]:
        """One float per completion; None where neither prompt nor completion has a token.

        Raises:
            RewardError: the policy's tokens are not in the model's vocabulary or more than it can read, its tokenizer
                does not fit it or has no chat template for messages, or it gives no single number.
        """
        # Who trains a model that shares modules with this one may have put it into training mode.
        self.model.eval()
        try:
            if self._reader is not None:
                return self._score_texts(rollout, self._reader)
            scores: list[float | None] = []
            for start in range(0, len(rollout), self.forward_batch_size):
                logits = self._token_logits(rollout, slice(start, start + self.forward_batch_size))
                scores += self._single(logits).tolist()
            return scores
        except RewardError:
            raise
        except UserError as error:
            raise RewardError(str(error)) from error

    def _single(self, logits: torch.Tensor) -> torch.Tensor:
        """Rewards `(B,)` from logits `(B, 1)`, in float32."""
        if logits.dim() != 2 or logits.shape[-1] != 1:
            raise RewardError(
                f"The reward model {self.__name__!r} gives logits of shape {tuple(logits.shape)}, but a reward model "
                "has one label, so that they are (rows, 1)."
            )
        return logits[:, 0].float() + reward_offset(self.model)

    def _token_logits(self, rollout: Completions, rows: slice) -> torch.Tensor:
        ids = torch.cat([rollout.prompt_ids[rows], rollout.completion_ids[rows]], dim=1)
        mask = torch.cat([rollout.prompt_mask[rows], rollout.completion_mask[rows]], dim=1)
        self._check_tokens(ids.masked_fill(~mask, 0), mask)
        if not hasattr(self.model, "score"):
            # Such a model counts positions by columns, so its rows begin in the first.
            order = (~mask).long().argsort(dim=1, stable=True)
            ids, mask = ids.gather(1, order), mask.gather(1, order)
            inputs = {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}
            logits: torch.Tensor = self.model(**inputs).logits
            return logits
        last = rollout.prompt_ids.shape[1] + rollout.completion_mask[rows].sum(-1) - 1
        hidden = backbone_hidden_states(self.model, ids, mask)
        scores: torch.Tensor = self.model.score(hidden[torch.arange(len(last)), last])
        return scores

    def _check_tokens(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        if not hasattr(self.model, "get_input_embeddings"):
            return
        size = self.model.get_input_embeddings().weight.shape[0]
        if int(ids.max()) >= size:
            raise RewardError(
                f"The reward model {self.__name__!r} knows {size} tokens, but the policy produced token "
                f"{int(ids.max())}: it has another tokenizer; give it as reward_processing_classes."
            )
        limit, longest = context_length(self.model), int(mask.sum(-1).max())
        if limit is not None and longest > limit:
            raise RewardError(
                f"The reward model {self.__name__!r} can read {limit} tokens, but a prompt with its completion has "
                f"{longest}: lower max_prompt_length or response_length, or give a model with a longer context."
            )

    def _check_room(self, reader: SequenceClassifier) -> None:
        limit, special = reader.max_length(), reader.tokenizer.num_special_tokens_to_add()
        if limit is not None and limit <= special:
            raise UserError(
                f"reward model {self.__name__!r} can read {limit} tokens at once, which leaves no room for a "
                f"completion beside {special} special tokens: look at model_max_length of its tokenizer."
            )

    def _score_texts(self, rollout: Completions, reader: SequenceClassifier) -> list[float | None]:
        texts, are_texts = texts_to_score(
            rollout.batch.prompts, rollout.completions, reader, self.__name__, self.chat_template_kwargs
        )
        # A chat template writes the special tokens itself.
        encoded = reader.encode(texts, truncation_side="left", add_special_tokens=are_texts)
        self._say_truncated(texts, [len(row["input_ids"]) for row in encoded], reader, are_texts)
        scores: list[float | None] = [None] * len(texts)
        readable = [index for index, row in enumerate(encoded) if row["input_ids"]]
        for indices, inputs in reader.batches([encoded[index] for index in readable]):
            numbers = self._single(self.model(**inputs).logits).tolist()
            for index, number in zip(indices, numbers, strict=True):
                scores[readable[index]] = number
        return scores

    def _say_truncated(
        self, texts: list[str], lengths: list[int], reader: SequenceClassifier, add_special_tokens: bool
    ) -> None:
        limit = reader.max_length()
        full = [text for text, length in zip(texts, lengths, strict=True) if length == limit]
        if self._has_said_truncated or not full:
            return
        ids = reader.tokenizer(full, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        longest = max(map(len, ids))
        if limit is not None and longest > limit:
            self._has_said_truncated = True
            warnings.warn(
                f"The reward model {self.__name__!r} can read {limit} tokens, and a prompt with its completion has "
                f"{longest}: the beginning of such texts is truncated (this is said once).",
                stacklevel=2,
            )


def texts_to_score(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    reader: SequenceClassifier,
    name: str,
    chat_template_kwargs: dict[str, Any] | None = None,
) -> tuple[list[str], bool]:
    """What a reward model with a tokenizer of its own reads: when it is trained, and when it scores.

    Args:
        prompts, completions: texts, or lists of messages; an empty prompt where the completions have it in them.
        reader ([`SequenceClassifier`]), name (`str`): of messages.
        chat_template_kwargs (`dict`, *optional*): for messages.

    Returns:
        The texts, and whether the tokenizer has to add its special tokens: a chat template has written them.

    Raises:
        RewardError: messages, and the tokenizer has no chat template.
    """
    pairs = list(zip(prompts, completions, strict=True))
    are_texts = isinstance(completions[0], str)
    if are_texts:
        return [joined(*pair) for pair in pairs], True
    kwargs = chat_template_kwargs or {}
    return [_rendered([*prompt, *completion], reader, name, kwargs) for prompt, completion in pairs], False


def _rendered(
    messages: list[dict[str, Any]], reader: SequenceClassifier, name: str, chat_template_kwargs: dict[str, Any]
) -> str:
    """A finished conversation as text, as TRL's GRPO gives it to reward models."""
    from trl import apply_chat_template

    if not getattr(reader.tokenizer, "chat_template", None):
        raise RewardError(
            f"The tokenizer of reward model {name!r} has no chat template, but the prompts are messages: "
            "give a tokenizer that has one, or use the built-in reward {name: classifier, model: ..., label: ...}."
        )
    text: str = apply_chat_template({"messages": messages}, reader.tokenizer, **chat_template_kwargs)["text"]
    return text


def check_reward_model(model: Any, name: str) -> None:
    """Refuse a model whose score would not be what was asked for.

    Raises:
        UserError: several labels, a language model, or weights that were not loaded.
    """
    if any(weight.is_meta for weight in model.parameters()) and not getattr(model, "hf_device_map", None):
        raise UserError(
            f"reward model {name!r} has weights that were never loaded (they are on the device 'meta'): load it with "
            "from_pretrained."
        )
    if hasattr(model, "get_output_embeddings") and model.get_output_embeddings() is not None:
        raise UserError(
            f"reward model {name!r} is a language model ({type(model).__name__}), which gives no score: give a "
            "sequence classifier with one label, such as one trained by TRL's RewardTrainer."
        )
    labels = _labels(model)
    if len(labels) != 1:
        raise UserError(
            f"reward model {name!r} has {len(labels)} labels ({', '.join(labels[:5])}), and which of them is the "
            f"reward is not said: use the built-in reward {{name: classifier, model: ..., label: {labels[-1]}}} (in a "
            f"script get_reward('classifier', model=..., label={labels[-1]!r}) of trl_nlpo.rewards), or give a model "
            "with one label."
        )


def _labels(model: Any) -> list[str]:
    """Names of a model's outputs, numbers where they have none."""
    config = getattr(model, "config", None)
    names = getattr(config, "id2label", None) or {0: "0"}
    head = getattr(getattr(model, "score", None), "out_features", None)
    size = len(names) if head is None else head
    return [str(names.get(index, index)) for index in range(size)]


def as_reward_functions(
    reward_funcs: Any,
    processing_classes: Any = None,
    device: torch.device | str | None = None,
    batch_size: int = 64,
    *,
    trained: nn.Module | None = None,
    chat_template_kwargs: Any = None,
) -> list[Any]:
    """Reward functions, models and paths of models, one or a list, as a list of reward functions.

    Args:
        reward_funcs: callables, `nn.Module`s, or local folders or Hub ids of sequence classifiers; one or a list.
        processing_classes (*optional*): tokenizers of the models, one or a list; None for functions and for models
            that share the policy's tokenizer.
        device (*optional*): where models go.
        batch_size (`int`): rows that a model reads at a time.
        trained (`nn.Module`, *optional*): what is trained, with which a reward model must not share trained weights.
        chat_template_kwargs (`dict`, *optional*): for models that read messages.

    Raises:
        UserError: something that cannot be called, no function at all, another number of tokenizers, or a model that
            cannot be loaded whole, has several labels, or shares trained weights.
    """
    functions = list(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else [reward_funcs]
    if not functions or functions == [None]:
        raise UserError("No reward: pass reward_funcs (a function, a model, or a list of these) or reward_model.")
    tokenizers = processing_classes if isinstance(processing_classes, (list, tuple)) else [processing_classes]
    if processing_classes is None:
        tokenizers = [None] * len(functions)
    if len(tokenizers) != len(functions):
        raise UserError(
            f"reward_processing_classes has {len(tokenizers)} entries for {len(functions)} rewards: give one each, "
            "None for functions."
        )
    made = [
        _as_function(*pair, device, batch_size, chat_template_kwargs)
        for pair in zip(functions, tokenizers, strict=True)
    ]
    for reward in made:
        if isinstance(reward, ModelReward) and trained is not None:
            _check_shares_nothing(reward, trained)
    return made


def _as_function(
    reward: Any,
    tokenizer: Any,
    device: torch.device | str | None,
    batch_size: int,
    chat_template_kwargs: Any,
) -> Any:
    name = ""
    if isinstance(reward, (str, os.PathLike)):
        name = str(reward)
        loaded = SequenceClassifier(reward, f"reward model {name!r}", tokenizer, batch_size, device)
        reward, tokenizer = loaded.model, loaded.tokenizer
    if isinstance(reward, nn.Module):
        # One that transformers has spread over devices, or quantized, stays where it is.
        is_placed = getattr(reward, "hf_device_map", None) or getattr(reward, "is_quantized", False)
        made = ModelReward(reward, tokenizer, batch_size, name, chat_template_kwargs)
        if device is not None and not is_placed:
            reward.to(device)
        return made
    if not callable(reward) and not isinstance(reward, ModelReward):
        raise UserError(f"A reward must be a function, a model or the path of one, not {type(reward).__name__}.")
    return reward


def _check_shares_nothing(reward: ModelReward, trained: nn.Module) -> None:
    """Frozen weights may be shared; an adapter's or a backbone's that learn would move the reward with the policy."""
    learns = {id(weight) for weight in trained.parameters() if weight.requires_grad}
    shared = [name for name, weight in reward.model.named_parameters() if id(weight) in learns]
    if shared:
        raise UserError(
            f"reward model {reward.__name__!r} shares weights with the policy or value model ({shared[0]} and "
            f"{len(shared) - 1} more), so training would change the reward: give a copy (copy.deepcopy) or load it "
            "again."
        )
