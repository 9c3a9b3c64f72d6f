"""From a data set to batches of token ids: text, conversational and tokenized prompts, in a reproducible order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from ..errors import UserError
from ..records import PromptBatch, concatenate_columns
from .messages import read_prompt, rendered
from .tabular import as_rows, check_row
from .tokenized import read_token_ids, start_token, without_padding


_NO_REWARD_COLUMNS = ("prompt", "completion", "input_ids", "attention_mask")
"""Columns that do not reach reward functions: they get their own `prompts` and `completions`."""

RESERVED_COLUMNS = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
"""Names under which reward functions get something else than a column of the data set."""


_Ids = tuple[list[int], bool]
"""Token ids of a prompt, and whether a mask has said which are real."""


class PromptTokenizer:
    """Prompts as token ids.

    Args:
        tokenizer: the policy's.
        max_length (`int`, *optional*): truncate prompts to this many tokens, special tokens included.
        truncation_side (`str`): which end is truncated.
        chat_template_kwargs (`dict`, *optional*): for conversational prompts.
        start (`int`, *optional*): the token that stands for a prompt of no tokens, as that of an unconditional
            generator; None where there is none: such prompts are left empty.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int | None,
        truncation_side: str,
        chat_template_kwargs: dict | None,
        start: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation_side = truncation_side
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.start = start

    def __call__(self, prompts: list[Any], where: Callable[[int], str] = "prompt {}".format) -> list[list[int]]:
        """Token ids of text or conversational prompts.

        Args:
            prompts (`list`): all text, or all messages in any shape that [`messages.read_prompt`] knows.
            where (`Callable`): names the prompt of an index, for messages.

        Raises:
            UserError: a prompt that cannot be read, or that the chat template does not render.
        """
        if not prompts:
            return []
        read = [_about(where(index), read_prompt, prompt) for index, prompt in enumerate(prompts)]
        for index, prompt in enumerate(read):
            if type(prompt) is not type(read[0]):
                raise UserError(
                    f"{where(index)} has a prompt of {type(prompts[index]).__name__}: prompts must be all text, or "
                    "all lists of messages."
                )
        if isinstance(read[0], str):
            return self.truncated_texts(read, where)[1]
        texts = [
            _about(where(index), rendered, messages, self.tokenizer, self.chat_template_kwargs)
            for index, messages in enumerate(read)
        ]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self._end(row, self.max_length or len(row)) for row in rows]

    def batch(self, prompts: list[Any]) -> PromptBatch:
        """Text or conversational prompts as a [`PromptBatch`] without further columns."""
        return PromptBatch(self(prompts), [read_prompt(prompt) for prompt in prompts])

    def or_start(self, row: list[int]) -> list[int]:
        """A row of token ids, or where it is empty the token that completions start from, if there is one."""
        return row if row or self.start is None else [self.start]

    def truncated_texts(
        self, prompts: list[str], where: Callable[[int], str] = "prompt {}".format
    ) -> tuple[list[str], list[list[int]]]:
        """Text prompts of at most `max_length` tokens, and their token ids.

        Text is truncated, special tokens that the tokenizer adds are not. It is the text that is truncated, and then
        tokenized as any other, so that the supervised stage, which hands texts to other trainers, learns from the same
        ids. For the same reason a text of no tokens becomes that of the start token.

        Raises:
            UserError: `max_length` leaves no room for words.
        """
        texts, rows = list(prompts), self.tokenizer(prompts)["input_ids"]
        if self.max_length is not None:
            for index, row in enumerate(rows):
                if len(row) > self.max_length:
                    texts[index], rows[index] = self._truncated_text(prompts[index], self.max_length, where(index))
        for index, row in enumerate(rows):
            if not row and self.start is not None:
                texts[index], rows[index] = self.tokenizer.convert_ids_to_tokens(self.start), [self.start]
        return texts, rows

    def _truncated_text(self, prompt: str, max_length: int, where: str) -> tuple[str, list[int]]:
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
            f"{where}: max_prompt_length={max_length} leaves no room for words of the prompt, which begins with "
            f"{prompt[:20]!r}: the tokenizer adds {special} special tokens to every prompt; raise it."
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
        dataset: anything with a length and rows that are mappings, a data frame, or a mapping of columns.
        tokenizer ([`PromptTokenizer`]): for text.
        name (`str`): of the argument, for messages.
        longest (`int`, *optional*): tokens that a prompt may have.
        data_collator (`Callable`, *optional*): a user's own, applied to the token columns of each row.

    Raises:
        UserError: no length, no prompt column, a reserved column, an empty prompt with nothing to start from, one that
            is too long, or rows of unequal format.
    """

    def __init__(
        self, dataset: Any, tokenizer: PromptTokenizer, name: str, longest: int | None, data_collator: Any = None
    ):
        self.dataset = as_rows(dataset, name)
        self.name = name
        self.tokenizer = tokenizer
        self.data_collator = data_collator
        self.prompt_ids = self._read()
        self._check_lengths(longest)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.dataset[index]
        ids = self.prompt_ids[index]
        prompt = read_prompt(row["prompt"]) if "prompt" in row else self.tokenizer.decode([ids])[0]
        columns = {key: value for key, value in row.items() if key not in _NO_REWARD_COLUMNS}
        return {"prompt_ids": ids, "prompt": prompt, "columns": columns}

    def _where(self, index: int) -> str:
        return f"{self.name} row {index}"

    def _read(self) -> list[list[int]]:
        """The token ids of all prompts, whichever column they come from."""
        chunks = range(0, len(self.dataset), 1000)
        is_tokenized = all("input_ids" in row for row in self._rows(0))
        read = self._given_ids if is_tokenized else self._tokenized
        found = [row for start in chunks for row in read(self._rows(start), start)]
        if is_tokenized:
            found = self._as_collated(self._stripped(found))
        return [self.tokenizer.or_start(ids) for ids, _ in found]

    def _rows(self, start: int) -> list[Any]:
        rows = [self.dataset[index] for index in range(start, min(start + 1000, len(self.dataset)))]
        for index, row in enumerate(rows, start=start):
            check_row(row, self._where(index))
            for column in RESERVED_COLUMNS:
                if column in row:
                    raise UserError(
                        f"{self.name} has a column {column!r}, a name under which reward functions get something "
                        f"else: rename it, with dataset.rename_column({column!r}, ...) for example."
                    )
        return rows

    def _given_ids(self, rows: list[Any], start: int) -> list[_Ids]:
        return [read_token_ids(row, self._where(index)) for index, row in enumerate(rows, start=start)]

    def _tokenized(self, rows: list[Any], start: int) -> list[_Ids]:
        if not all("prompt" in row for row in rows):
            have = ", ".join(sorted(rows[0])) or "none"
            raise UserError(
                f"{self.name} needs a column 'prompt' (text or messages) or 'input_ids'; it has: {have}."
                + _hint_for_conversations(rows[0])
            )
        ids = self.tokenizer([row["prompt"] for row in rows], lambda index: self._where(start + index))
        return [(row, True) for row in ids]

    def _stripped(self, found: list[_Ids]) -> list[_Ids]:
        """Rows without an attention mask, without the padding that may be in them."""
        unmasked = [ids for ids, has_mask in found if not has_mask]
        stripped = iter(without_padding(unmasked, self.tokenizer.tokenizer, self.name))
        return [(ids if has_mask else next(stripped), has_mask) for ids, has_mask in found]

    def _as_collated(self, found: list[_Ids]) -> list[_Ids]:
        if self.data_collator is None:
            return found
        collated = []
        for index, (ids, has_mask) in enumerate(found):
            columns = {"input_ids": ids, **({"attention_mask": [1] * len(ids)} if has_mask else {})}
            batch = self.data_collator([columns])
            row = {key: batch[key][0] for key in columns | {"attention_mask": None} if key in batch}
            collated.append(read_token_ids(row, f"{self._where(index)}, as data_collator makes it,"))
        return self._stripped(collated)

    def _check_lengths(self, longest: int | None) -> None:
        for index, ids in enumerate(self.prompt_ids):
            if not ids:
                raise UserError(
                    f"{self._where(index)} has an empty prompt, and the tokenizer has neither a BOS nor an EOS token "
                    "to start from: set tokenizer.bos_token."
                )
            if longest is not None and len(ids) > longest:
                raise UserError(
                    f"{self._where(index)} has a prompt of {len(ids)} tokens, but the model's context leaves room "
                    f"for {longest} before the completion: set max_prompt_length={longest} or lower response_length."
                )


def _about(where: str, read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` returns; a mistake that it finds gets `where` before its message."""
    try:
        return read(*arguments)
    except UserError as error:
        raise UserError(f"{where} {error}") from error


def _hint_for_conversations(row: Any) -> str:
    """How to make prompts of whole conversations, the last message of which is an answer."""
    column = next((name for name in ("messages", "conversations", "conversation") if name in row), None)
    if column is None:
        return ""
    return f" Make one of {column!r}: dataset.map(lambda row: {{'prompt': row[{column!r}][:-1]}})."


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


def prompt_tokenizer(args: Any, tokenizer: Any, model: Any = None) -> PromptTokenizer:
    """The [`PromptTokenizer`] of a configuration; `model`, the policy, decides what empty prompts become."""
    return PromptTokenizer(
        tokenizer,
        args.max_prompt_length,
        args.prompt_truncation_side,
        args.chat_template_kwargs,
        start_token(tokenizer, model),
    )


def decoder(tokenizer: Any) -> Callable[[PromptBatch, list[list[int]]], list[Any]]:
    """Completions as reward functions see them: text, or an assistant message for conversational prompts."""

    def decode(batch: PromptBatch, token_ids: list[list[int]]) -> list[Any]:
        texts = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(batch.prompts, texts, strict=True)
        ]

    return decode
