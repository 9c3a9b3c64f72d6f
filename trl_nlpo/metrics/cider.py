"""CIDEr-D: n-grams shared with the references, weighed by how rare they are in others (Vedantam et al. 2015)."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..storage.json_lines import read_json_lines
from .base import Metric, as_list, mean_score
from .bounded_cache import bounded_cache
from .words import require_words, treebank_words


MAX_ORDER = 4
_MARKS = frozenset([*"'`-.?!,:;()[]{}", '"', "''", "``", "--", "..."])

NGram = tuple[str, ...]


class DocumentFrequencies(NamedTuple):
    """In how many rows' references an n-gram occurs.

    Attributes:
        counts (`Counter`): by n-gram, 1 to 4 words.
        rows (`int`): rows counted.
    """

    counts: Counter[NGram]
    rows: int

    def weight(self, ngram: NGram) -> float:
        """log(rows / rows with the n-gram); one that no row has counts as if one had it."""
        return math.log(self.rows) - math.log(max(1, self.counts[ngram]))


class Cider(Metric):
    """CIDEr-D: 10 x the mean, over n = 1..4 and the references, of the cosine of n-gram counts weighed by tf-idf.

    Counts are clipped at the reference's, and a reference of another length weighs exp(-(difference)^2 / (2 sigma^2)).
    Words are the Penn Treebank's, in lower case, without punctuation (by `nltk`, so that no Java is needed), as for
    METEOR and the metrics of naturalness ([`words.treebank_words`]).

    The weights ask in how many rows an n-gram occurs. [`compute`] counts the rows that it is given, as is usual;
    numbers of different test sets do not compare. A score, and so a reward, must not depend on what else is in the
    batch: it takes the counts of `document_frequencies` or of [`fit`], best the train split's references. Without
    them, all n-grams weigh alike, and a warning says so once.

    Args:
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        document_frequencies (`str`, `list` or `None`): references to count: a list with a list of texts per row, or
            the path of a file: JSON of such a list, or JSON Lines whose rows have `column`.
        sigma (`float`, defaults to 6.0): tolerance for another length, in words.

    A score is in [0, 10]: 0 for an empty text, None for a row without references. The reward is the score / 10.

    Raises:
        UserError: `nltk` is missing, or the file, or it has no references.

    Example:
        >>> Cider(document_frequencies=[["a dog"], ["a cat"]]).score(["a dog"], references=["a dog"])
        [5.0]
    """

    name = "cider"
    better = "higher"

    def __init__(
        self,
        column: str = "references",
        document_frequencies: str | Sequence[Sequence[str]] | None = None,
        sigma: float = 6.0,
    ):
        if not sigma > 0:
            raise UserError(f"metric 'cider': sigma must be above 0, not {sigma!r}.")
        self.columns, self.fit_column, self.sigma = (column,), column, sigma
        self.document_frequencies: DocumentFrequencies | None = None
        self._has_warned = False
        require_words("metric 'cider'")
        if document_frequencies is not None:
            given = document_frequencies
            self.fit(_read(given, column) if isinstance(given, (str, Path)) else given)

    def fit(self, references: Sequence[Any]) -> None:
        """Count the n-grams of all rows' references, such as the train split's, for the scores to come.

        Args:
            references (`list[list[str]]`): a row's references each (or one string); rows without any are left out.

        Raises:
            UserError: there are fewer than two rows, whose n-grams would all weigh nothing.
        """
        counted = _count(references)
        if counted.rows < 2:
            raise UserError(
                f"metric 'cider': document frequencies need the references of two rows at least, not {counted.rows}."
            )
        self.document_frequencies = counted

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        if self.document_frequencies is None:
            self._warn("there are no document frequencies (give document_frequencies, or call fit)")
        return self._scores(predictions, columns[self.columns[0]], self.document_frequencies)

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        rows = columns[self.columns[0]]
        counted: DocumentFrequencies | None = _count(rows)
        if counted is not None and counted.rows == 1:
            self._warn("the document frequencies of a single row weigh every n-gram with log 1 = 0")
            counted = None
        mean = mean_score(self._scores(predictions, rows, counted))
        if mean is None:
            raise UserError(f"metric {self.name!r} applies to no row: {self.columns[0]} are empty.")
        return {self.name: mean}

    def as_reward(self, score: float) -> float:
        return score / 10

    def _scores(
        self, predictions: Sequence[str], rows: Sequence[Any], frequencies: DocumentFrequencies | None
    ) -> list[float | None]:
        return [
            self._cider(text, references, frequencies) if (references := as_list(row)) else None
            for text, row in zip(predictions, rows, strict=True)
        ]

    def _cider(self, prediction: str, references: list[str], frequencies: DocumentFrequencies | None) -> float:
        text = _vector(prediction, frequencies)
        total = 0.0
        for reference in references:
            other = _vector(reference, frequencies)
            tolerance = math.exp(-((text.length - other.length) ** 2) / (2 * self.sigma**2))
            total += tolerance * sum(_clipped_cosine(text, other, order) for order in range(MAX_ORDER))
        return 10 * total / (MAX_ORDER * len(references))

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(f"metric 'cider': {reason}: all n-grams weigh alike.", stacklevel=3)


class _Vector(NamedTuple):
    weights: tuple[dict[NGram, float], ...]
    norms: tuple[float, ...]
    length: int


def _vector(text: str, frequencies: DocumentFrequencies | None) -> _Vector:
    """Weighed n-gram counts by order, their norms, and the length, which the original counts in pairs of words."""
    counts = _ngram_counts(text)
    weights: tuple[dict[NGram, float], ...] = tuple({} for _ in range(MAX_ORDER))
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * (1.0 if frequencies is None else frequencies.weight(ngram))
    norms = tuple(math.sqrt(sum(weight**2 for weight in order.values())) for order in weights)
    return _Vector(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _clipped_cosine(text: _Vector, reference: _Vector, order: int) -> float:
    product = text.norms[order] * reference.norms[order]
    if not product:
        return 0.0
    theirs = reference.weights[order]
    shared = (
        min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in text.weights[order].items() if ngram in theirs
    )
    return sum(shared) / product


# An n-gram takes some 200 bytes, and a text has nearly one of each order for every word: about 80 MB.
@bounded_cache(characters=500_000)
def _ngram_counts(text: str) -> Counter[NGram]:
    words = [word for word in treebank_words(text) if word not in _MARKS]
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, MAX_ORDER + 1)
        for start in range(len(words) - order + 1)
    )


def _count(rows: Iterable[Any]) -> DocumentFrequencies:
    counts: Counter[NGram] = Counter()
    number = 0
    for row in rows:
        references = as_list(row)
        number += bool(references)
        counts.update({ngram for reference in references for ngram in _ngram_counts(reference)})
    return DocumentFrequencies(counts, number)


def _read(path: str | Path, column: str) -> list[Any]:
    """References of all rows of a JSON or JSON Lines file."""
    try:
        if Path(path).suffix == ".jsonl":
            rows = [row for _, row in read_json_lines(Path(path))]
        else:
            rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"metric 'cider': document_frequencies {str(path)!r} cannot be read: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"metric 'cider': document_frequencies {str(path)!r} must hold a list, one entry per row.")
    if any(isinstance(row, dict) and column not in row for row in rows):
        raise UserError(f"metric 'cider': document_frequencies {str(path)!r} has a row without {column!r}.")
    return [row[column] if isinstance(row, dict) else row for row in rows]
