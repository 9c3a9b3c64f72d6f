"""How varied texts are, whatever they say: word n-grams counted as GEM's metrics (Gehrmann et al. 2021) do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import UserError
from ..naming import check_int
from .base import Direction, Metric
from .words import require_words, treebank_words


def ngram_counts(texts: Iterable[Sequence[str]], n: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram occurs in texts given as tokens; none goes from one text into the next."""
    return Counter(tuple(tokens[i : i + n]) for tokens in texts for i in range(len(tokens) - n + 1))


def distinct(counts: Counter[tuple[str, ...]]) -> float:
    """Different n-grams / all n-grams (Li et al. 2016); 0 when there are none."""
    return len(counts) / counts.total() if counts else 0.0


def entropy(counts: Counter[tuple[str, ...]]) -> float:
    """Shannon entropy of the n-grams, -sum p log2 p, in bits; 0 when there are none."""
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def unique(counts: Counter[tuple[str, ...]]) -> float:
    """How many n-grams occur exactly once."""
    return float(sum(count == 1 for count in counts.values()))


def msttr(texts: Iterable[Sequence[str]], window: int) -> float | None:
    """Mean segmental type-token ratio (Johnson 1944): the mean of different tokens / `window` over windows.

    The texts' tokens are strung together and split into windows one after the other; the last, shorter one is dropped.

    Returns:
        In (0, 1], or None where the texts do not fill one window.
    """
    tokens = [token for text in texts for token in text]
    segments = [tokens[start : start + window] for start in range(0, len(tokens) - window + 1, window)]
    return sum(len(set(segment)) for segment in segments) / (window * len(segments)) if segments else None


class _OfAllTexts(Metric):
    """A number of a set of texts together; the score of a text is that number of it alone."""

    columns = ()
    # Neither many different words nor few are better by themselves.
    better: Direction | None = None

    def __init__(self) -> None:
        require_words("a metric of naturalness")

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return [self._number([treebank_words(text)]) for text in predictions]

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        number = self._number([treebank_words(text) for text in predictions])
        if number is None:
            raise UserError(f"metric {self.name!r}: {self._why_none()}.")
        return {self.name: number}

    def _number(self, texts: Sequence[Sequence[str]]) -> float | None:
        raise NotImplementedError

    def _why_none(self) -> str:
        return "applies to no text"


class MSTTR(_OfAllTexts):
    """Mean segmental type-token ratio of all texts together ([`msttr`]), on [`words.treebank_words`].

    Args:
        window (`int`, defaults to 100): tokens in a segment.

    In (0, 1]. The score of a text with fewer tokens than a window is None ("does not apply"). Not rounded, where GEM
    rounds to five digits.
    """

    name = "msttr"

    def __init__(self, window: int = 100):
        check_int("metric 'msttr'", "window", window, 1, "a number of tokens")
        super().__init__()
        self.window = window

    def _number(self, texts: Sequence[Sequence[str]]) -> float | None:
        return msttr(texts, self.window)

    def _why_none(self) -> str:
        return f"the texts have fewer than {self.window} tokens together: set the option window to less"


class NgramStatistic(_OfAllTexts):
    """A number of the n-grams of all texts together, on [`words.treebank_words`].

    Args:
        kind (`str`): `"distinct"` (share of different n-grams, in [0, 1]), `"entropy"` (bits) or `"unique"` (how many
            occur once).
        n (`int`): words in an n-gram.

    0 where there are no n-grams.

    Example:
        >>> NgramStatistic("distinct", 1).compute(["a b", "A c"])
        {'distinct1': 0.75}
    """

    def __init__(self, kind: str, n: int):
        super().__init__()
        self.name, self.kind, self.n = f"{kind}{n}", kind, n

    def _number(self, texts: Sequence[Sequence[str]]) -> float:
        return _STATISTICS[self.kind](ngram_counts(texts, self.n))


class MeanLength(_OfAllTexts):
    """Tokens in a text ([`words.treebank_words`], punctuation included), on average over all texts."""

    name = "mean_length"

    def _number(self, texts: Sequence[Sequence[str]]) -> float:
        return sum(map(len, texts)) / len(texts)


class Diversity(_OfAllTexts):
    """All the numbers of this module at once, for tables. Its score for a single text is distinct-2.

    Args:
        window (`int`, defaults to 100): of [`MSTTR`], which is left out of the table where the texts do not fill one.
    """

    name = "diversity"

    def __init__(self, window: int = 100):
        super().__init__()
        self.msttr = MSTTR(window)

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        texts = [treebank_words(text) for text in predictions]
        ratio = msttr(texts, self.msttr.window)
        numbers = {} if ratio is None else {"msttr": ratio}
        for n in (1, 2):
            counts = ngram_counts(texts, n)
            numbers |= {f"{kind}{n}": statistic(counts) for kind, statistic in _STATISTICS.items()}
        return {**numbers, "mean_length": sum(map(len, texts)) / len(texts)}

    def _number(self, texts: Sequence[Sequence[str]]) -> float:
        return distinct(ngram_counts(texts, 2))


_STATISTICS = {"distinct": distinct, "entropy": entropy, "unique": unique}
