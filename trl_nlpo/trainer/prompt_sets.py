"""The prompts of a trainer: those to train on, and held-out ones by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..config import NLPOConfig
from ..errors import UserError
from ..models.checks import check_ends, check_token_ids
from ..models.inputs import longest_prompt
from ..prompts import PromptDataset, prompt_tokenizer
from ..prompts.tabular import is_columns


class PromptSets:
    """Training and evaluation prompts, tokenized.

    Args:
        args ([`NLPOConfig`]): how prompts are truncated and rendered.
        tokenizer: the policy's.
        policy: its context limits the prompts.
        max_new_tokens (`int`): room that completions need, in tokens.
        train_dataset, eval_dataset, data_collator: as [`NLPOTrainer`] takes them.

    Attributes:
        train ([`PromptDataset`])
        held_out (`dict[str, PromptDataset]`): by name; a single one has the name "".

    Raises:
        UserError: a data set without prompts, or with one that is too long or has tokens that the policy lacks.
    """

    def __init__(
        self,
        args: NLPOConfig,
        tokenizer: Any,
        policy: nn.Module,
        max_new_tokens: int,
        train_dataset: Any,
        eval_dataset: Any = None,
        data_collator: Any = None,
    ):
        self.tokenizer = prompt_tokenizer(args, tokenizer, policy)
        self._policy = policy
        self._longest = longest_prompt(policy, max_new_tokens)
        self._data_collator = data_collator
        self.train = self._tokenized(one_data_set(train_dataset), "train_dataset")[""]
        self.held_out = {} if eval_dataset is None else self._tokenized(eval_dataset, "eval_dataset")

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt of all."""
        return max(len(ids) for prompts in self.all for ids in prompts.prompt_ids)

    @property
    def all(self) -> list[PromptDataset]:
        """Training prompts, then held-out ones."""
        return [self.train, *self.held_out.values()]

    def to_evaluate(self, eval_dataset: Any = None) -> dict[str, PromptDataset]:
        """Prompts to evaluate on.

        Args:
            eval_dataset (*optional*): another data set, a dictionary of them, or the name of one that is held out.

        Raises:
            UserError: there are none.
        """
        if eval_dataset is None:
            prompts = self.held_out
        elif isinstance(eval_dataset, str):
            if eval_dataset not in self.held_out:
                known = ", ".join(map(repr, self.held_out)) or "none"
                raise UserError(f"There is no eval_dataset {eval_dataset!r}; the trainer's are: {known}.")
            prompts = {eval_dataset: self.held_out[eval_dataset]}
        else:
            prompts = self._tokenized(eval_dataset, "eval_dataset")
        if not prompts or not all(len(rows) for rows in prompts.values()):
            raise UserError("There is nothing to evaluate on: pass eval_dataset to the trainer or to evaluate().")
        return prompts

    def _tokenized(self, dataset: Any, name: str) -> dict[str, PromptDataset]:
        named = dict(dataset) if isinstance(dataset, Mapping) and not is_columns(dataset) else {"": dataset}
        prompts = {
            key: PromptDataset(
                rows, self.tokenizer, f"{name}[{key!r}]" if key else name, self._longest, self._data_collator
            )
            for key, rows in named.items()
        }
        for rows in prompts.values():
            check_token_ids(rows.prompt_ids, rows.name, self._policy, self.tokenizer.tokenizer)
            check_ends(rows.prompt_ids, rows.name, self._policy, self.tokenizer.tokenizer)
        return prompts


def one_data_set(train_dataset: Any) -> Any:
    """The data set to train on, where several were given by their names, as `load_dataset` gives them without a split.

    Raises:
        UserError: several, none of which is called "train".
    """
    if not isinstance(train_dataset, Mapping) or is_columns(train_dataset):
        return train_dataset
    names = ", ".join(map(str, train_dataset))
    if len(train_dataset) == 1:
        return next(iter(train_dataset.values()))
    if "train" not in train_dataset:
        raise UserError(f"train_dataset has several data sets ({names or 'none'}): pass one, or name one 'train'.")
    warnings.warn(
        f"train_dataset has several data sets ({names}): 'train' is trained on; pass eval_dataset for another.",
        stacklevel=2,
    )
    return train_dataset["train"]
