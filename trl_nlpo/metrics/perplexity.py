"""How surprising texts are to a language model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import UserError
from ..naming import check_int
from .base import Measurement, RowMetric, require_column
from .pretrained import Pretrained
from .texts import check_flag, joined, prompt_text


class Perplexity(RowMetric):
    """exp of the mean negative log-likelihood of a text's tokens, of the text itself and never of a reference.

    A causal model reads a text that is longer than its context in windows: every token is scored once, with at least
    `max_length - stride` tokens before it. A masked model gives pseudo-perplexity (Salazar et al. 2020): each token is
    masked in turn, one forward pass per token, in the window around it.

    A causal model begins with the tokenizer's beginning-of-sequence token, or, where it sets none, with its
    end-of-text token; with a prompt it begins with the prompt. So the first token counts too. The prompt's tokens are
    only context.

    Args:
        model: a local folder, a Hub id or a loaded model.
        tokenizer (*optional*): by default the model's.
        include_prompt (`bool`, defaults to `False`): the text given its prompt (column `prompts`).
        max_length (`int`, *optional*): tokens in a window; by default what the model can read.
        stride (`int`, *optional*): new tokens in each further window; by default half of `max_length`.
        masked (`bool`, *optional*): a masked model; by default what its config says.
        batch_size (`int`, defaults to 8): windows at a time.
        device (*optional*): by default CUDA where there is one.

    A score is at least 1, and None for a text without tokens. As a reward it is 1 / perplexity, in (0, 1]: the
    geometric mean of the probabilities of the tokens. `compute` is exp(total / tokens) over all texts, so that long
    texts weigh more, where the mean of the scores would be ruled by the worst short text.
    """

    name = "perplexity"
    better = "lower"
    needs_model = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        include_prompt: bool = False,
        max_length: int | None = None,
        stride: int | None = None,
        masked: bool | None = None,
        batch_size: int = 8,
        device: Any = None,
    ):
        check_flag("metric 'perplexity'", include_prompt=include_prompt)
        for option, value, least in (("max_length", max_length, 2), ("stride", stride, 1)):
            if value is not None:
                check_int("metric 'perplexity'", option, value, least, "a number of tokens")
        self.columns = ("prompts",) if include_prompt else ()
        self.max_length, self.stride, self.masked = max_length, stride, masked
        self.pretrained = Pretrained(
            model, "AutoModelForCausalLM", "metric 'perplexity'", tokenizer, batch_size, device
        )

    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        """The total negative log-likelihood of each text and its number of tokens."""
        return [[total, float(count)] if count else None for total, count in self._likelihoods(predictions, columns)]

    def score_of(self, measurement: Any) -> float:
        total, count = measurement
        return _exp(total / count)

    def table_of(self, measurements: Sequence[Any]) -> dict[str, float]:
        total, count = map(sum, zip(*measurements, strict=True))
        return {self.name: _exp(total / count)}

    def _what_is_empty(self) -> str:
        return "the texts"

    def as_reward(self, score: float) -> float:
        return 1.0 / score

    def _likelihoods(self, predictions: Sequence[str], columns: dict[str, Any]) -> list[tuple[float, int]]:
        """The total negative log-likelihood of each text and its number of tokens."""
        prompts: Sequence[Any] = [""] * len(predictions)
        if self.columns:
            prompts = require_column(columns, "prompts", "metric 'perplexity' with include_prompt")
        is_masked = self._is_masked()
        texts = [self._tokens(*pair, is_masked) for pair in zip(map(prompt_text, prompts), predictions, strict=True)]
        width = self._window_width()
        stride = self.stride or max(width // 2, 1)
        if not is_masked and stride >= width:
            raise UserError(f"metric 'perplexity': stride must be less than max_length ({width}), not {stride}.")
        windows = [
            (row, *window)
            for row, (before, text, after) in enumerate(texts)
            if text
            for window in (
                _masked_windows(before, text, after, width, self._mask_token())
                if is_masked
                else _causal_windows(before, text, width, stride)
            )
        ]
        totals = [0.0] * len(texts)
        for row, loss in self._losses(windows, shift=0 if is_masked else 1):
            totals[row] += loss
        return [(total, len(text)) for total, (_, text, _) in zip(totals, texts, strict=True)]

    def _losses(self, windows: list[tuple[int, list[int], int, list[int]]], shift: int) -> Iterator[tuple[int, float]]:
        """Of each window (row, token ids, first position that is scored, targets from there): row and summed loss."""
        import torch
        from torch.nn.functional import cross_entropy

        model, rows = self.pretrained.model, [{"input_ids": ids} for _, ids, _, _ in windows]
        for indices, inputs in self.pretrained.batches(rows):
            with torch.no_grad():
                logits = model(**inputs).logits
            for index, row_logits in zip(indices, logits, strict=True):
                row, _, first, targets = windows[index]
                scored = row_logits[first - shift : first - shift + len(targets)].float()
                loss = cross_entropy(scored, torch.tensor(targets, device=scored.device), reduction="none")
                yield row, float(loss.double().sum())

    def _tokens(self, prompt: str, text: str, is_masked: bool) -> tuple[list[int], list[int], list[int]]:
        """What a text stands after, itself, and what comes after it, as token ids."""
        tokenizer = self.pretrained.tokenizer
        together = joined(prompt, text)
        # Together, as the model would read them: a space between them belongs to the text's first token.
        encoded = tokenizer(
            together, return_special_tokens_mask=True, return_offsets_mapping=tokenizer.is_fast, verbose=False
        )
        ids = encoded["input_ids"]
        own = [position for position, special in enumerate(encoded["special_tokens_mask"]) if not special]
        if tokenizer.is_fast:
            begins = [position for position in own if encoded["offset_mapping"][position][1] > len(prompt)]
        else:
            begins = own[len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) :]
        begins = begins if prompt else own
        if not begins or not text:
            return [], [], []
        before, middle, after = ids[: begins[0]], ids[begins[0] : own[-1] + 1], ids[own[-1] + 1 :]
        if not before and not is_masked:
            before = [self._start_token()]
        return before, middle, after

    def _start_token(self) -> int:
        tokenizer = self.pretrained.tokenizer
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
            if token is not None:
                return token
        raise UserError(
            "metric 'perplexity': the tokenizer has neither a beginning- nor an end-of-sequence token to begin with."
        )

    def _is_masked(self) -> bool:
        if self.masked is None:
            self.masked = _masked_by_its_config(self.pretrained.config(), self.pretrained.architectures())
        if self.masked:
            self.pretrained.auto_class = "AutoModelForMaskedLM"
        return self.masked

    def _window_width(self) -> int:
        limit = self.pretrained.max_length()
        width = min(size for size in (self.max_length, limit, 2**30) if size is not None)
        # A window without room for one token before the one that is scored would score nothing.
        return max(width, 2)

    def _mask_token(self) -> int:
        token = self.pretrained.tokenizer.mask_token_id
        if token is None:
            raise UserError(
                f"metric 'perplexity': the tokenizer of masked model {self.pretrained.name!r} has no mask token."
            )
        return token


def _causal_windows(
    before: list[int], text: list[int], width: int, stride: int
) -> Iterator[tuple[list[int], int, list[int]]]:
    """Token ids, position of the first that is scored, and all that are; each token of the text is in one window."""
    ids, first = before + text, len(before)
    end = min(len(ids), max(width, first + stride))
    while True:
        start = max(0, end - width)
        yield ids[start:end], first - start, ids[first:end]
        if end == len(ids):
            return
        first, end = end, min(len(ids), end + stride)


def _masked_windows(
    before: list[int], text: list[int], after: list[int], width: int, mask_token: int
) -> Iterator[tuple[list[int], int, list[int]]]:
    """For each token of the text, the window around it with the token masked."""
    ids = before + text + after
    for position in range(len(before), len(before) + len(text)):
        start = min(max(0, position - width // 2), max(0, len(ids) - width))
        window = ids[start : start + width]
        window[position - start] = mask_token
        yield window, position - start, [ids[position]]


def _masked_by_its_config(config: Any, architectures: str) -> bool:
    if getattr(config, "is_encoder_decoder", False):
        raise UserError("metric 'perplexity' needs a causal or a masked language model, not an encoder-decoder.")
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if "MaskedLM" in architectures or "CausalLM" in architectures or "LMHead" in architectures:
        return "MaskedLM" in architectures
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING


def _exp(mean_loss: float) -> float:
    return math.exp(mean_loss) if mean_loss < 700 else math.inf
