"""Reward models as reward functions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ..errors import RewardError, UserError
from ..models.policy_and_value import backbone_hidden_states
from ..records import Completions


class ModelReward:
    """The score that a model gives to prompt and completion.

    Args:
        model (`nn.Module`): a sequence classifier. Without a tokenizer of its own it reads the policy's tokens, and a
            `score` head is read at the last real token, as in TRL's PPO.
        tokenizer (*optional*): the model's own; prompt and completion are decoded and encoded again, and the first
            logit is the score, as in TRL's GRPO.
        forward_batch_size (`int`): rows at a time.
    """

    def __init__(self, model: Any, tokenizer: Any = None, forward_batch_size: int = 64):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.forward_batch_size = forward_batch_size
        name = getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
        self.__name__ = name.rstrip("/").split("/")[-1]
        if tokenizer is not None and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer is not None and getattr(model, "config", None) is not None:
            model.config.pad_token_id = tokenizer.pad_token_id

    @torch.no_grad()
    def score_completions(self, rollout: Completions) -> list[float]:
        """One float per completion.

        Raises:
            RewardError: the policy's tokens are not in the model's vocabulary.
        """
        scores: list[float] = []
        for start in range(0, len(rollout), self.forward_batch_size):
            rows = slice(start, start + self.forward_batch_size)
            part = self._score_tokens(rollout, rows) if self.tokenizer is None else self._score_text(rollout, rows)
            scores += part.float().tolist()
        return scores

    def _score_tokens(self, rollout: Completions, rows: slice) -> torch.Tensor:
        ids = torch.cat([rollout.prompt_ids[rows], rollout.completion_ids[rows]], dim=1)
        mask = torch.cat([rollout.prompt_mask[rows], rollout.completion_mask[rows]], dim=1)
        self._check_vocabulary(ids.masked_fill(~mask, 0))
        if not hasattr(self.model, "score"):
            # Such a model counts positions by columns, so its rows begin in the first.
            order = (~mask).long().argsort(dim=1, stable=True)
            ids, mask = ids.gather(1, order), mask.gather(1, order)
            inputs = {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()}
            logits: torch.Tensor = self.model(**inputs).logits
            return logits[:, 0]
        last = rollout.prompt_ids.shape[1] + rollout.completion_mask[rows].sum(-1) - 1
        hidden = backbone_hidden_states(self.model, ids, mask)
        scores: torch.Tensor = self.model.score(hidden[torch.arange(len(last)), last])
        return scores[:, 0]

    def _check_vocabulary(self, ids: torch.Tensor) -> None:
        if not hasattr(self.model, "get_input_embeddings"):
            return
        size = self.model.get_input_embeddings().weight.shape[0]
        if int(ids.max()) >= size:
            raise RewardError(
                f"The reward model {self.__name__!r} knows {size} tokens, but the policy produced token "
                f"{int(ids.max())}: it has another tokenizer; give it as reward_processing_classes."
            )

    def _score_text(self, rollout: Completions, rows: slice) -> torch.Tensor:
        pairs = zip(rollout.batch.prompts[rows], rollout.completions[rows], strict=True)
        texts = [
            prompt + completion if isinstance(prompt, str) else _rendered(self.tokenizer, [*prompt, *completion])
            for prompt, completion in pairs
        ]
        device = next(self.model.parameters()).device
        inputs = self.tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="right", truncation=True, add_special_tokens=False
        )
        logits: torch.Tensor = self.model(**inputs.to(device)).logits
        return logits[:, 0]


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """Messages as text, as TRL's online trainers render them."""
    from trl import apply_chat_template

    return apply_chat_template({"prompt": messages}, tokenizer)["prompt"]


def as_reward_functions(
    reward_funcs: Any, processing_classes: Any = None, device: torch.device | str | None = None, batch_size: int = 64
) -> list[Any]:
    """Reward functions, models and paths of models, one or a list, as a list of reward functions.

    Args:
        reward_funcs: callables, `nn.Module`s, or local folders or Hub ids of sequence classifiers; one or a list.
        processing_classes (*optional*): tokenizers of the models, one or a list; None for functions and for models
            that share the policy's tokenizer.
        device (*optional*): where models go.
        batch_size (`int`): rows that a model reads at a time.

    Raises:
        UserError: something that cannot be called, no function at all, or another number of tokenizers.
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
    return [_as_function(*pair, device, batch_size) for pair in zip(functions, tokenizers, strict=True)]


def _as_function(reward: Any, tokenizer: Any, device: torch.device | str | None, batch_size: int) -> Any:
    if isinstance(reward, str):
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(reward)
        reward = AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1)
    if isinstance(reward, nn.Module):
        return ModelReward(reward.to(device) if device is not None else reward, tokenizer, batch_size)
    if not callable(reward) and not isinstance(reward, ModelReward):
        raise UserError(f"A reward must be a function, a model or the path of one, not {type(reward).__name__}.")
    return reward
