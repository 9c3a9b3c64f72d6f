"""What the metrics of the package `sacrebleu` have in common: scores of single texts, and of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..errors import UserError, one_line
from ..naming import require_package
from .base import Direction, Metric, as_list


Options = tuple[tuple[str, Any], ...]


class SacreBleuMetric(Metric):
    """A metric of `sacrebleu` with the package's own handling of several references, uneven numbers of them included.

    Args:
        name (`str`)
        kind (`str`): `"BLEU"`, `"CHRF"` or `"TER"`, a class of `sacrebleu.metrics`.
        column (`str`): the data set's column with a list of references (or one string).
        options (`dict`): arguments of that class, for the score of a corpus.
        sentence_options (`dict`): what is different for single texts.

    Scores and the corpus number are on the package's scale from 0 to 100, rewards on 0 to 1.

    Raises:
        UserError: the package is missing, or what an option needs.
    """

    better: Direction | None = "higher"
    scale = 1.0
    """The corpus number times this is what [`compute`] gives."""

    def __init__(
        self, name: str, kind: str, column: str, options: dict[str, Any], sentence_options: dict[str, Any]
    ) -> None:
        self.name, self.kind, self.columns = name, kind, (column,)
        self.options: Options = tuple(options.items())
        self.sentence_options: Options = tuple({**options, **sentence_options}.items())
        scorer(name, kind, self.sentence_options, ("",))

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return [
            self.sentence_score(text, references) if (references := tuple(as_list(row))) else None
            for text, row in zip(predictions, columns[self.columns[0]], strict=True)
        ]

    def sentence_score(self, prediction: str, references: tuple[str, ...]) -> float:
        """The score of one text against all its references."""
        if not prediction.strip():
            return 0.0
        made = scorer(self.name, self.kind, self.sentence_options, references)
        # The package's rounding can end a hair above 100.
        return min(100.0, made.corpus_score([prediction], None).score)

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        """The corpus number, of the rows that have references."""
        texts, references = self.rows_with_references(predictions, columns)
        return {self.name: self.corpus(texts, references).score * self.scale}

    def corpus(self, texts: Sequence[str], references: Sequence[tuple[str, ...]]) -> Any:
        """The package's result for texts with their references, uneven numbers of them included."""
        streams = [
            [row[index] if index < len(row) else None for row in references]
            for index in range(max(map(len, references)))
        ]
        return getattr(library(self.name), self.kind)(**dict(self.options)).corpus_score(list(texts), streams)

    def rows_with_references(
        self, predictions: Sequence[str], columns: dict[str, Any]
    ) -> tuple[list[str], list[tuple[str, ...]]]:
        """Texts and their references, without the rows that have none.

        Raises:
            UserError: no row has any.
        """
        references = [tuple(as_list(row)) for row in columns[self.columns[0]]]
        rows = [(text, row) for text, row in zip(predictions, references, strict=True) if row]
        if not rows:
            raise UserError(f"metric {self.name!r} applies to no row: {self.columns[0]} are empty.")
        return [text for text, _ in rows], [row for _, row in rows]

    def as_reward(self, score: float) -> float:
        return score / 100


# Counting a reference's n-grams is half of the work, and a prompt's completions share its references.
@lru_cache(maxsize=256)
def scorer(name: str, kind: str, options: Options, references: tuple[str, ...]) -> Any:
    """`sacrebleu`'s metric with the n-grams of one row's references counted."""
    try:
        return getattr(library(name), kind)(**dict(options), references=[[text] for text in references])
    except (ImportError, RuntimeError) as error:
        # Some tokenizers need packages or files of their own.
        raise UserError(f"metric {name!r}: sacrebleu says: {one_line(error)}") from None


def library(name: str) -> Any:
    """The module `sacrebleu.metrics`.

    Raises:
        UserError: the package is missing.
    """
    return require_package("sacrebleu", f"metric {name!r}").metrics
