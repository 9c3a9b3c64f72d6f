"""BLEURT: a model that was trained to rate a text against a reference as people do (Sellam et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from .base import Measurement, RowMetric, as_list, require_column
from .classifier import SequenceClassifier


class Bleurt(RowMetric):
    """The rating of a regression model that reads (reference, text), the best over a row's references.

    Args:
        model: a local folder, a Hub id or a loaded model with one label: BLEURT in PyTorch, or any regression head
            trained on such pairs.
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        tokenizer (*optional*): by default the model's.
        batch_size (`int`, defaults to 16): pairs at a time.
        device (*optional*): by default CUDA where there is one.

    A score is on the model's own scale: BLEURT's is about 0 to 1, and values beyond either end occur. An empty text is
    rated by the model as any other. None for a row without references. A pair too long for the model loses the end of
    its longer half.
    """

    name = "bleurt"
    better = "higher"
    needs_model = True

    def __init__(
        self,
        model: Any,
        column: str = "references",
        tokenizer: Any = None,
        batch_size: int = 16,
        device: Any = None,
    ):
        self.columns = (column,)
        self.pretrained = SequenceClassifier(model, "metric 'bleurt'", tokenizer, batch_size, device)

    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        rows = [as_list(row) for row in require_column(columns, self.columns[0], "metric 'bleurt'")]
        pairs = [(other, text) for text, others in zip(predictions, rows, strict=True) for other in others]
        ratings = iter(self._ratings(pairs))
        return [
            max((rating for rating in (next(ratings) for _ in others) if rating is not None), default=None)
            for others in rows
        ]

    def _ratings(self, pairs: list[tuple[str, str]]) -> list[float | None]:
        if not pairs:
            return []
        num_labels = self.pretrained.model.config.num_labels
        if num_labels != 1:
            raise UserError(
                f"metric 'bleurt': model {self.pretrained.name!r} has {num_labels} labels, not one: it is a "
                "classifier and no regression model."
            )
        references, texts = zip(*pairs, strict=True)
        logits = self.pretrained.logits(references, texts)
        return [None if row is None else float(row[0]) for row in logits]
