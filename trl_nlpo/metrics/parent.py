"""PARENT: n-grams of a text judged against its references and the table that it describes (Dhingra et al. 2019)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..errors import UserError
from ..naming import require_package
from .base import Measurement, RowMetric, as_list
from .bounded_cache import bounded_cache
from .sequences import longest_common_subsequence


MAX_ORDER = 4
_TITLES = ("page_title", "section_title")

Words = tuple[str, ...]


class Parent(RowMetric):
    """PARENT of a text about a table, the best over its references.

    w(g) is the share of an n-gram's words that occur in the table. For n = 1..4, precision counts an n-gram of the
    text as far as a reference has it, and w(g) for the rest; recall counts the reference's n-grams, weighed by w(g),
    that the text has. Their geometric means are P and R_reference; R_table is the mean, over the table's entries, of
    the share of an entry's words that the text has in order (longest common subsequence).
    PARENT = 2 P R / (P + R), with R = R_reference^(1 - lambda) x R_table^lambda.

    Args:
        totto (`bool`, defaults to `False`): ToTTo's variant: words of the whole table, header, page and section titles
            and section text count for w(g), the entries are the highlighted cells and the titles, and lambda is
            1 - R_table of the reference unless given. Needs the column `highlighted_cells`; `page_title`,
            `section_title` and `section_text` are used where they are. Otherwise (the paper's): the words and entries
            are the cells below the header row.
        table_weight (`float`, *optional*): lambda in [0, 1]; by default 0.5, or ToTTo's rule.
        smoothing (`float`, defaults to 1e-5): what a precision or recall of 0 counts as from n = 2 on, and R_reference
            and R_table as a whole.
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        table_column (`str`, defaults to `"table"`): the column with the table: rows of cells, the header first; a cell
            is a text, or a mapping with `value` as in ToTTo's files.

    Words are lower-cased and split by `sacrebleu`'s 13a. A score is in [0, 1]: 0 for an empty text, None for a row
    without references or entries. A text of fewer than four words has no 4-gram and so scores near 0. [`compute`]
    gives the means over the rows, `parent`, `parent_precision` and `parent_recall`, of each row's best reference.

    Raises:
        UserError: `sacrebleu` is missing, an option is out of range, or a row's table has another form.
    """

    name = "parent"
    better = "higher"

    def __init__(
        self,
        totto: bool = False,
        table_weight: float | None = None,
        smoothing: float = 1e-5,
        column: str = "references",
        table_column: str = "table",
    ):
        if table_weight is not None and not 0 <= table_weight <= 1:
            raise UserError(f"metric 'parent': table_weight must lie between 0 and 1, not {table_weight!r}.")
        if not 0 < smoothing < 1:
            raise UserError(f"metric 'parent': smoothing must lie between 0 and 1, not {smoothing!r}.")
        self.columns = (column, table_column, *(("highlighted_cells",) if totto else ()))
        self.totto, self.smoothing = totto, smoothing
        self.table_weight = 0.5 if table_weight is None and not totto else table_weight
        _words("")

    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        return [None if row is None else list(row) for row in self._rows(predictions, columns)]

    def score_of(self, measurement: Any) -> float:
        return _Parent(*measurement).f_score

    def table_of(self, measurements: Sequence[Any]) -> dict[str, float]:
        f_score, precision, recall = (sum(numbers) / len(measurements) for numbers in zip(*measurements, strict=True))
        return {"parent": f_score, "parent_precision": precision, "parent_recall": recall}

    def _what_is_empty(self) -> str:
        return " or ".join(self.columns)

    def _rows(self, predictions: Sequence[str], columns: dict[str, Any]) -> list[_Parent | None]:
        return [
            self._row(
                index, text, {name: values[index] for name, values in columns.items() if _per_row(values, index)}
            )
            for index, text in enumerate(predictions)
        ]

    def _row(self, index: int, prediction: str, row: dict[str, Any]) -> _Parent | None:
        references = [_words(text) for text in as_list(row.get(self.columns[0]))]
        lexicon, entries = self._table(index, row)
        if not references or not entries:
            return None
        text = _words(prediction)
        return max(self._against(text, reference, lexicon, entries) for reference in references)

    def _table(self, index: int, row: dict[str, Any]) -> tuple[frozenset[str], list[Words]]:
        """The words that a text may use, and the entries that it should name."""
        table = _texts_of(row.get(self.columns[1]), index)
        if not self.totto:
            cells = [cell for cells in (table[1:] or table) for cell in cells]
            entries = _entries(cells)
            return frozenset(word for entry in entries for word in entry), entries
        titles = [text for name in _TITLES for text in as_list(row.get(name))]
        entries = _entries([*_highlighted(table, row.get("highlighted_cells"), index), *titles])
        everything = [cell for cells in table for cell in cells] + titles + as_list(row.get("section_text"))
        return frozenset(word for entry in _entries(everything) for word in entry), entries

    def _against(self, text: Words, reference: Words, lexicon: frozenset[str], entries: list[Words]) -> _Parent:
        precisions, recalls = [], []
        for order in range(1, MAX_ORDER + 1):
            floor = self.smoothing if order > 1 else 0.0
            said, wanted = _ngrams(text, order), _ngrams(reference, order)
            precisions.append(_precision(said, wanted, lexicon) or floor)
            recalls.append(_recall(said, wanted, lexicon) or floor)
        precision = _geometric_mean(precisions)
        reference_recall = _geometric_mean(recalls) or self.smoothing
        weight = 1 - _named(entries, reference) if self.table_weight is None else self.table_weight
        recall = reference_recall ** (1 - weight) * (_named(entries, text) or self.smoothing) ** weight
        return _Parent(2 * precision * recall / (precision + recall), precision, recall)


class _Parent(NamedTuple):
    f_score: float
    precision: float
    recall: float


def _precision(said: Counter[Words], wanted: Counter[Words], lexicon: frozenset[str]) -> float:
    counted = sum(
        (shared := min(count, wanted[ngram])) + (count - shared) * _entailed(ngram, lexicon)
        for ngram, count in said.items()
    )
    return counted / said.total() if said else 0.0


def _recall(said: Counter[Words], wanted: Counter[Words], lexicon: frozenset[str]) -> float:
    """1 where nothing that the reference says is in the table."""
    weights = {ngram: _entailed(ngram, lexicon) for ngram in wanted}
    total = sum(count * weights[ngram] for ngram, count in wanted.items())
    found = sum(min(count, said[ngram]) * weights[ngram] for ngram, count in wanted.items())
    return found / total if total else 1.0


def _entailed(ngram: Words, lexicon: frozenset[str]) -> float:
    return sum(word in lexicon for word in ngram) / len(ngram)


def _named(entries: list[Words], text: Words) -> float:
    """The mean, over the entries, of the share of their words that the text has in order."""
    return sum(longest_common_subsequence(entry, text) / len(entry) for entry in entries) / len(entries)


def _ngrams(words: Words, order: int) -> Counter[Words]:
    return Counter(words[start : start + order] for start in range(len(words) - order + 1))


def _geometric_mean(numbers: list[float]) -> float:
    return math.prod(numbers) ** (1 / len(numbers))


def _entries(texts: Iterable[str]) -> list[Words]:
    return [words for text in texts if (words := _words(text))]


def _texts_of(table: Any, index: int) -> list[list[str]]:
    rows = [] if table is None else table
    if isinstance(rows, str) or not all(isinstance(row, (list, tuple)) for row in rows):
        raise UserError(f"metric 'parent': row {index}: the table must be a list of rows of cells, not {table!r:.60}.")
    return [[str(cell["value"] if isinstance(cell, dict) else cell) for cell in row] for row in rows]


def _highlighted(table: list[list[str]], places: Any, index: int) -> list[str]:
    try:
        return [table[row][column] for row, column in places or []]
    except (IndexError, TypeError, ValueError):
        raise UserError(
            f"metric 'parent': row {index}: highlighted_cells must be pairs of a row and a column of the table, "
            f"not {places!r:.60}."
        ) from None


def _per_row(values: Any, index: int) -> bool:
    """Whether a column has an entry for the row; TRL passes other things than columns too."""
    return isinstance(values, Sequence) and not isinstance(values, str) and index < len(values)


@bounded_cache(characters=2_000_000)
def _words(text: str) -> Words:
    return tuple(_tokenizer()(text.strip().lower()).split())


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    return require_package("sacrebleu.tokenizers.tokenizer_13a", "metric 'parent'").Tokenizer13a()
