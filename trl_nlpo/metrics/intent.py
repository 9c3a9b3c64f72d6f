"""Whether a reply does what the speaker meant to do: inform, ask, direct or commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from ..naming import check_int
from .base import Measurement, RowMetric, require_column
from .classifier import SequenceClassifier
from .texts import prompt_text


class Intent(RowMetric):
    """Whether a classifier's intent for a reply is the row's: 1 or 0 for a text, the accuracy in a table.

    The classifier reads the dialogue's last utterances and the reply, joined as it was trained.

    Args:
        model: a local folder, a Hub id or a loaded model.
        column (`str`, defaults to `"act"`): the data set's column with the intent.
        first_label (`int`, defaults to 1): what the data set calls the model's label 0. DailyDialog counts from 1.
        num_utterances (`int`, defaults to 1): utterances of the prompt before the reply; 0 for the reply alone.
        utterance_end (`str`, defaults to `"<EOU>"`): mark between utterances in prompts; one at the end of a reply is
            taken off.
        separator (`str`, defaults to `"<EOU>"`): what stands between utterances when the classifier reads them.
        tokenizer, batch_size, device: as for [`Classifier`].

    None for a row without an intent. An empty reply scores 0.
    """

    name = "intent"
    better = "higher"
    needs_model = True

    def __init__(
        self,
        model: Any,
        column: str = "act",
        first_label: int = 1,
        num_utterances: int = 1,
        utterance_end: str = "<EOU>",
        separator: str = "<EOU>",
        tokenizer: Any = None,
        batch_size: int = 16,
        device: Any = None,
    ):
        for option, value in (("first_label", first_label), ("num_utterances", num_utterances)):
            check_int("metric 'intent'", option, value, 0)
        if not utterance_end:
            raise UserError("metric 'intent': utterance_end is empty: give the mark between utterances in prompts.")
        self.columns = ("prompts", column) if num_utterances else (column,)
        self.column, self.first_label, self.num_utterances = column, first_label, num_utterances
        self.utterance_end, self.separator = utterance_end, separator
        self.pretrained = SequenceClassifier(model, "metric 'intent'", tokenizer, batch_size, device)

    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        intents = require_column(columns, self.column, "metric 'intent'")
        prompts: Sequence[Any] = [""] * len(predictions)
        if self.num_utterances:
            prompts = require_column(columns, "prompts", "metric 'intent'")
        replies = [text.strip().removesuffix(self.utterance_end).strip() for text in predictions]
        texts = [self._read(prompt_text(prompt), reply) for prompt, reply in zip(prompts, replies, strict=True)]
        wanted = [self._label(value, row) for row, value in enumerate(intents)]
        return [
            None if label is None else float(bool(reply) and logits is not None and int(logits.argmax()) == label)
            for label, reply, logits in zip(
                wanted, replies, self.pretrained.logits(texts, truncation_side="left"), strict=True
            )
        ]

    def _read(self, prompt: str, reply: str) -> str:
        """What the classifier reads: the last utterances and the reply."""
        utterances = [part.strip() for part in prompt.split(self.utterance_end) if part.strip()]
        last = utterances[-self.num_utterances :] if self.num_utterances else []
        return self.separator.join([*last, reply])

    def _label(self, value: Any, row: int) -> int | None:
        if value is None:
            return None
        num_labels = self.pretrained.model.config.num_labels
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value - self.first_label < num_labels:
            last = self.first_label + num_labels - 1
            raise UserError(
                f"metric 'intent': {self.column} of row {row} is {value!r}, not a number from {self.first_label} to "
                f"{last}: set the option first_label to what the data set calls the model's label 0."
            )
        return value - self.first_label
