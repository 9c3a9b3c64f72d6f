"""ROUGE: word overlap with references (Lin 2004), by google-research's `rouge_score`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..naming import require_package
from .base import Metric, best_over_references
from .sequences import longest_common_subsequence


KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(Metric):
    """ROUGE F-measure of a text, the best over its references.

    Args:
        kind (`str`): `"rouge1"`, `"rouge2"`, `"rougeL"`, or `"rougeLsum"`, which takes every line for a sentence.
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        use_stemmer (`bool`, defaults to `True`): compare Porter stems. English only.

    A score is in [0, 1]: 0 for an empty text, None for a row without references.

    Example:
        >>> Rouge("rouge1").score(["a cat sat"], references=[["the cat sat", "a dog"]])
        [0.6666666666666666]
    """

    better = "higher"

    def __init__(self, kind: str, column: str = "references", use_stemmer: bool = True):
        self.name, self.columns, self.use_stemmer = kind, (column,), use_stemmer
        _scorer(kind, use_stemmer)

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return [
            best_over_references(self._f_measure, text, row)
            for text, row in zip(predictions, columns[self.columns[0]], strict=True)
        ]

    def _f_measure(self, prediction: str, reference: str) -> float:
        if self.name == "rougeL" or (self.name == "rougeLsum" and "\n" not in prediction + reference):
            return _rouge_l(_tokens(prediction, self.use_stemmer), _tokens(reference, self.use_stemmer))
        return _scorer(self.name, self.use_stemmer).score(reference, prediction)[self.name].fmeasure


class AllRouge(Metric):
    """ROUGE-1, -2, -L and -Lsum at once, for tables. Its score for a single text is ROUGE-L.

    Args:
        column (`str`, defaults to `"references"`), use_stemmer (`bool`, defaults to `True`): as for [`Rouge`].
    """

    name = "rouge"
    better = "higher"

    def __init__(self, column: str = "references", use_stemmer: bool = True):
        self.columns = (column,)
        self.kinds = {kind: Rouge(kind, column, use_stemmer) for kind in KINDS}

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return self.kinds["rougeL"].score(predictions, **columns)

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        return {kind: rouge.compute(predictions, **columns)[kind] for kind, rouge in self.kinds.items()}


@lru_cache(maxsize=4096)
def _tokens(text: str, use_stemmer: bool) -> tuple[str, ...]:
    """Words as `rouge_score` splits them; a row's references are split once, however often they are compared with."""
    from rouge_score.tokenize import tokenize

    if not use_stemmer:
        return tuple(tokenize(text, None))
    return tuple(tokenize(text, _stemmer()))


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def _rouge_l(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """F-measure of the longest common subsequence; texts of one line have the same ROUGE-Lsum."""
    if not prediction or not reference:
        return 0.0
    common = longest_common_subsequence(prediction, reference)
    precision, recall = common / len(prediction), common / len(reference)
    return 2 * precision * recall / (precision + recall) if common else 0.0


# Kept out of the metric so that this can be pickled whatever the scorer holds.
@lru_cache(maxsize=8)
def _scorer(kind: str, use_stemmer: bool) -> Any:
    library = require_package("rouge_score.rouge_scorer", f"metric {kind!r}")
    return library.RougeScorer([kind], use_stemmer=use_stemmer)
