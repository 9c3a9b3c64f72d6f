"""TER: the edits that turn a text into a reference (Snover et al. 2006)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .sacrebleu_metric import SacreBleuMetric, scorer


class Ter(SacreBleuMetric):
    """Translation edit rate, by `sacrebleu`: lower is better.

    TER = 100 x edits / mean length of the references; an edit inserts, deletes or replaces a word or shifts a phrase,
    and the reference that needs the fewest counts.

    Args:
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        normalized (`bool`, defaults to `False`), no_punct (`bool`, defaults to `False`), asian_support (`bool`,
            defaults to `False`), case_sensitive (`bool`, defaults to `False`): as in `sacrebleu`.
        max_words (`int` or `None`, defaults to 80): the search for shifts takes seconds a text from about 100 words
            on. A row whose text or references have more words is counted without shifts, which gives more edits, never
            fewer (a warning says so once). None searches always.

    A score is 100 for an empty text and may pass 100; None for a row without references. [`compute`] gives the corpus
    number, 100 x all edits / all lengths. The reward is 1 - score / 100: 1 for a reference itself, 0 for an empty
    text, **negative** for a text that needs more edits than the reference has words.

    Example:
        >>> Ter().score(["a dog sat"], references=["a cat sat"])
        [33.33333333333333]
    """

    better = "lower"

    def __init__(
        self,
        column: str = "references",
        normalized: bool = False,
        no_punct: bool = False,
        asian_support: bool = False,
        case_sensitive: bool = False,
        max_words: int | None = 80,
    ):
        options = {
            "normalized": normalized,
            "no_punct": no_punct,
            "asian_support": asian_support,
            "case_sensitive": case_sensitive,
        }
        super().__init__("ter", "TER", column, options, {})
        self.max_words = max_words
        self._has_warned = False

    def sentence_score(self, prediction: str, references: tuple[str, ...]) -> float:
        # As many edits as the references have words; where they have none, it still is no success.
        if not prediction.strip():
            return 100.0
        edits, length = self._edits(prediction, references)
        return 100 * edits / length if length else 100.0

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        texts, references = self.rows_with_references(predictions, columns)
        edits, lengths = zip(*map(self._edits, texts, references), strict=True)
        if not sum(lengths):
            return {"ter": 100.0 if sum(edits) else 0.0}
        return {"ter": 100 * sum(edits) / sum(lengths)}

    def as_reward(self, score: float) -> float:
        return 1 - score / 100

    def _edits(self, prediction: str, references: tuple[str, ...]) -> tuple[int, float]:
        """Edits to the nearest reference, and the mean length of all."""
        made = scorer(self.name, self.kind, self.options, references)
        if self.max_words is not None:
            text, *others = (made.tokenizer(text.rstrip()).split() for text in (prediction, *references))
            if max(len(text), *map(len, others)) > self.max_words:
                self._warn()
                return min(_edit_distance(text, other) for other in others), sum(map(len, others)) / len(others)
        result = made.corpus_score([prediction], None)
        return result.num_edits, result.ref_length

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"metric 'ter': a text or reference has more than {self.max_words} words (max_words): such rows are "
                "counted without shifts, which gives more edits, never fewer.",
                stacklevel=2,
            )


def _edit_distance(text: Sequence[str], reference: Sequence[str]) -> int:
    """Insertions, deletions and replacements (Levenshtein 1966) that turn one sequence of words into another."""
    numbers = {word: index for index, word in enumerate({*text, *reference})}
    columns = np.array([numbers[word] for word in reference], dtype=np.int64)
    steps = np.arange(len(reference) + 1)
    row = steps.copy()
    for index, word in enumerate(text, start=1):
        reached = np.concatenate([[index], np.minimum(row[1:] + 1, row[:-1] + (columns != numbers[word]))])
        # Insertions run along a row: from any earlier column, one edit a step.
        row = np.minimum.accumulate(reached - steps) + steps
    return int(row[-1])
