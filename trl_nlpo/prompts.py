"""From a data set to batches of token ids: text, conversational and tokenized prompts, in a reproducible order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from .errors import UserError
from .records import PromptBatch, concatenate_columns


_TOKEN_COLUMNS = ("input_ids", "attention_mask")
_NO_REWARD_COLUMNS = ("prompt", "completion", "completion_ids", *_TOKEN_COLUMNS)
"""Columns that do not reach reward functions: they get their own `prompts`, `completions` and `completion_ids`."""


class PromptTokenizer:
    """Prompts as token ids.

    Args:
        tokenizer: the policy's.
        max_length (`int`, *optional*): truncate prompts to this many tokens, special tokens included.
        truncation_side (`str`): which end is truncated.
        chat_template_kwargs (`dict`, *optional*): for conversational prompts.
    """

    def __init__(
        self, tokenizer: Any, max_length: int | None, truncation_side: str, chat_template_kwargs: dict | None
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation_side = truncation_side
        self.chat_template_kwargs = chat_template_kwargs or {}

    def __call__(self, prompts: list[Any]) -> list[list[int]]:
        """Token ids of text or conversational prompts."""
        if prompts and not isinstance(prompts[0], str):
            if getattr(self.tokenizer, "chat_template", None) is None:
                raise UserError(
                    "Prompts are messages, but the tokenizer has no chat template: set tokenizer.chat_template, or "
                    "use text."
                )
            from trl import apply_chat_template

            texts = [
                apply_chat_template({"prompt": prompt}, self.tokenizer, **self.chat_template_kwargs)["prompt"]
                for prompt in prompts
            ]
            rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
            return [self._end(row, self.max_length or len(row)) for row in rows]
        return self.truncated_texts(prompts)[1]

    def truncated_texts(self, prompts: list[str]) -> tuple[list[str], list[list[int]]]:
        """Text prompts of at most `max_length` tokens, and their token ids.

        Text is truncated, special tokens that the tokenizer adds are not. It is the text that is truncated, and then
        tokenized as any other, so that the supervised stage, which hands texts to other trainers, learns from the same
        ids.

        Raises:
            UserError: `max_length` leaves no room for words.
        """
        texts, rows = list(prompts), self.tokenizer(prompts)["input_ids"]
        if self.max_length is not None:
            for index, row in enumerate(rows):
                if len(row) > self.max_length:
                    texts[index], rows[index] = self._truncated_text(prompts[index], self.max_length)
        return texts, rows

    def _truncated_text(self, prompt: str, max_length: int) -> tuple[str, list[int]]:
        special = self.tokenizer.num_special_tokens_to_add(pair=False)
        words = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast)
        room = max_length - special
        while room > 0:
            text = self._text_of(prompt, words, room)
            row = self.tokenizer(text)["input_ids"]
            if len(row) <= max_length:
                return text, row
            # A word, or a letter of several bytes, that was split in two can have more tokens than its half had.
            room -= len(row) - max_length
        raise UserError(
            f"max_prompt_length={max_length} leaves no room for words of the prompt that begins with {prompt[:20]!r}: "
            f"the tokenizer adds {special} special tokens to every prompt; raise it."
        )

    def _text_of(self, prompt: str, words: Any, room: int) -> str:
        """The end of a prompt that is kept, of `room` tokens; tokenizers that know no places in the text decode it."""
        if "offset_mapping" not in words:
            return self.tokenizer.decode(self._end(words["input_ids"], room), clean_up_tokenization_spaces=False)
        places = self._end(words["offset_mapping"], room)
        return prompt[places[0][0] :] if self.truncation_side == "left" else prompt[: places[-1][1]]

    def _end(self, row: list[Any], length: int) -> list[Any]:
        """The `length` entries at the end that is kept."""
        return row[-length:] if self.truncation_side == "left" else row[:length]

    def decode(self, rows: list[list[int]]) -> list[str]:
        """Text of tokenized prompts, for reward functions."""
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)


class PromptDataset(Dataset):
    """A data set in TRL's prompt-only format (`prompt`: text or messages) or TRL PPO's tokenized one (`input_ids`).

    All prompts are tokenized at once, so that one that is too long is known before training starts.

    Args:
        dataset: anything with a length and rows that are mappings.
        tokenizer ([`PromptTokenizer`]): for text.
        name (`str`): of the argument, for messages.
        longest (`int`, *optional*): tokens that a prompt may have.
        data_collator (`Callable`, *optional*): a user's own, applied to the token columns of each row.

    Raises:
        UserError: no length, no prompt column, an empty prompt, one that is too long, or rows of unequal format.
    """

    def __init__(
        self, dataset: Any, tokenizer: PromptTokenizer, name: str, longest: int | None, data_collator: Any = None
    ):
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise UserError(f"{name} has no length (a streaming data set): load it without streaming.")
        self.dataset = dataset
        self.name = name
        self.tokenizer = tokenizer
        self.data_collator = data_collator
        self.prompt_ids = [ids for start in range(0, len(dataset), 1000) for ids in self._tokenized(start)]
        self._check_lengths(longest)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.dataset[index]
        ids = self.prompt_ids[index]
        prompt = row["prompt"] if "prompt" in row else self.tokenizer.decode([ids])[0]
        columns = {key: value for key, value in row.items() if key not in _NO_REWARD_COLUMNS}
        return {"prompt_ids": ids, "prompt": prompt, "columns": columns}

    def _tokenized(self, start: int) -> list[list[int]]:
        rows = [self.dataset[index] for index in range(start, min(start + 1000, len(self.dataset)))]
        if all("input_ids" in row for row in rows):
            if self.data_collator is not None:
                rows = [self._collated(row) for row in rows]
            for index, row in enumerate(rows, start=start):
                if not isinstance(row["input_ids"], (list, tuple, torch.Tensor)):
                    raise UserError(f"{self.name} row {index} has no token ids: input_ids is {row['input_ids']!r}.")
            return [list(row["input_ids"]) for row in rows]
        if not all("prompt" in row for row in rows):
            have = ", ".join(sorted(rows[0])) or "none"
            raise UserError(f"{self.name} needs a column 'prompt' (text or messages) or 'input_ids'; it has: {have}.")
        prompts = [row["prompt"] for row in rows]
        for index, prompt in enumerate(prompts, start=start):
            if not isinstance(prompt, type(prompts[0])) or not (isinstance(prompt, str) or _is_messages(prompt)):
                raise UserError(
                    f"{self.name} row {index} has a prompt of {type(prompt).__name__}: prompts must be all text, or "
                    "all lists of messages."
                )
        try:
            return self.tokenizer(prompts)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None

    def _collated(self, row: dict[str, Any]) -> dict[str, Any]:
        collated = self.data_collator([{key: row[key] for key in _TOKEN_COLUMNS if key in row}])
        ids = torch.as_tensor(collated["input_ids"])[0]
        if "attention_mask" in collated:
            ids = ids[torch.as_tensor(collated["attention_mask"])[0].bool()]
        return {"input_ids": ids.tolist()}

    def _check_lengths(self, longest: int | None) -> None:
        for index, ids in enumerate(self.prompt_ids):
            if not ids:
                raise UserError(f"{self.name} row {index} has an empty prompt: there is nothing to complete.")
            if longest is not None and len(ids) > longest:
                raise UserError(
                    f"{self.name} row {index} has a prompt of {len(ids)} tokens, but the model's context leaves room "
                    f"for {longest} before the completion: set max_prompt_length={longest} or lower response_length."
                )


def _is_messages(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt)


def collate_prompts(rows: list[dict[str, Any]]) -> PromptBatch:
    """Rows of a [`PromptDataset`] as a [`PromptBatch`]."""
    return PromptBatch(
        prompt_ids=[row["prompt_ids"] for row in rows],
        prompts=[row["prompt"] for row in rows],
        columns=concatenate_columns([row["columns"] for row in rows]),
    )


class UpdateSampler(Sampler[list[int]]):
    """The rows of every update of a run, one list per update: a fresh permutation in each pass over the data.

    Which rows an update takes depends on the seed and the number of the update only, so that a run can resume from
    any. What is left of a pass (less than a batch) opens the next one, so that no row is left out.

    Args:
        num_rows (`int`): rows of the data set.
        batch_size (`int`): rows of an update, over all processes.
        num_updates (`int`): updates in the run.
        seed (`int`): decides the order.
        process_index, num_processes (`int`): which part of each batch is this process's.
        first_update (`int`): where to start.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        num_updates: int,
        seed: int,
        process_index: int = 0,
        num_processes: int = 1,
        first_update: int = 0,
    ):
        self.num_rows, self.batch_size, self.num_updates, self.seed = num_rows, batch_size, num_updates, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.first_update = first_update

    def __len__(self) -> int:
        return self.num_updates - self.first_update

    def __iter__(self) -> Iterator[list[int]]:
        local = self.batch_size // self.num_processes
        orders: dict[int, list[int]] = {}
        for update in range(self.first_update, self.num_updates):
            start = update * self.batch_size + self.process_index * local
            places = [divmod(position, self.num_rows) for position in range(start, start + local)]
            passes = {number for number, _ in places}
            orders = {number: orders[number] if number in orders else self._order(number) for number in passes}
            yield [orders[number][place] for number, place in places]

    def _order(self, pass_number: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + pass_number)
        return torch.randperm(self.num_rows, generator=generator).tolist()


def prompt_tokenizer(args: Any, tokenizer: Any) -> PromptTokenizer:
    """The [`PromptTokenizer`] that a configuration asks for."""
    return PromptTokenizer(tokenizer, args.max_prompt_length, args.prompt_truncation_side, args.chat_template_kwargs)


def decoder(tokenizer: Any) -> Callable[[PromptBatch, list[list[int]]], list[Any]]:
    """Completions as reward functions see them: text, or an assistant message for conversational prompts."""

    def decode(batch: PromptBatch, token_ids: list[list[int]]) -> list[Any]:
        texts = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(batch.prompts, texts, strict=True)
        ]

    return decode
