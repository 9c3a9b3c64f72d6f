"""ROUGE: word overlap with references (Lin 2004), as google-research's `rouge_score` computes it, in every script."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..errors import UserError
from ..naming import did_you_mean, require_package
from .base import Metric, best_over_references
from .bounded_cache import bounded_cache
from .sentences import sentences
from .sequences import longest_common_subsequence
from .texts import check_flag
from .words import stem, stemmer


KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
TOKENIZERS = ("unicode", "rouge_score")

Words = tuple[str, ...]


class Rouge(Metric):
    """ROUGE F-measure of a text, the best over its references.

    Args:
        kind (`str`): `"rouge1"`, `"rouge2"`, `"rougeL"`, or `"rougeLsum"`, which compares sentence by sentence and
            takes every line for a sentence.
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        use_stemmer (`bool`, defaults to `True`): compare Porter stems. English only.
        tokenizer (`str`, defaults to `"unicode"`): `"unicode"` takes letters and digits of every script for words;
            those of scripts without spaces, such as Han and Thai, one by one ([`words_of`]). `"rouge_score"` takes a-z
            and 0-9 only, to the digit as the package: "größe" is "gr" and "e" then, and other scripts have no words.
            Both are the same for texts in ASCII.
        split_sentences (`bool`, defaults to `False`): for `"rougeLsum"`, find the sentences within each line too: for
            models and references that write all on one line.

    A score is in [0, 1]: 0 for an empty text, None for a row without references.

    Raises:
        UserError: `rouge_score` is missing, or an option is wrong.

    Example:
        >>> Rouge("rouge1").score(["a cat sat"], references=[["the cat sat", "a dog"]])
        [0.6666666666666666]
    """

    better = "higher"

    def __init__(
        self,
        kind: str,
        column: str = "references",
        use_stemmer: bool = True,
        tokenizer: str = "unicode",
        split_sentences: bool = False,
    ):
        who = f"metric {kind!r}"
        check_flag(who, use_stemmer=use_stemmer, split_sentences=split_sentences)
        if tokenizer not in TOKENIZERS:
            hint = did_you_mean(str(tokenizer), TOKENIZERS) or "."
            raise UserError(f"{who}: unknown tokenizer {tokenizer!r}{hint} Take one of {', '.join(TOKENIZERS)}.")
        if split_sentences and kind != "rougeLsum":
            raise UserError(f"{who}: split_sentences has no effect: it is for rougeLsum.")
        require_package("rouge_score.rouge_scorer", who)
        self.name, self.columns, self.split_sentences = kind, (column,), split_sentences
        self.cut = (use_stemmer, tokenizer)

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return [
            best_over_references(self._f_measure, text, row)
            for text, row in zip(predictions, columns[self.columns[0]], strict=True)
        ]

    def _f_measure(self, prediction: str, reference: str) -> float:
        if self.name == "rougeLsum":
            return self._of_summaries(prediction, reference)
        text, other = _words(prediction, *self.cut), _words(reference, *self.cut)
        if self.name == "rougeL":
            return _f_score(longest_common_subsequence(text, other), len(text), len(other))
        order = int(self.name[-1])
        own, theirs = (_ngrams(one, order, *self.cut) for one in (prediction, reference))
        return _f_score((own & theirs).total(), own.total(), theirs.total())

    def _of_summaries(self, prediction: str, reference: str) -> float:
        texts = [self._lines(prediction), self._lines(reference)]
        if not any("\n" in text for text in texts):
            text, other = (_words(one, *self.cut) for one in texts)
            return _f_score(longest_common_subsequence(text, other), len(text), len(other))
        return _scorer(*self.cut).score(texts[1], texts[0])["rougeLsum"].fmeasure

    def _lines(self, text: str) -> str:
        """A text with a sentence on each line."""
        if not self.split_sentences:
            return text
        return "\n".join(sentence for line in text.splitlines() for sentence in sentences(line))


class AllRouge(Metric):
    """ROUGE-1, -2, -L and -Lsum at once, for tables. Its score for a single text is ROUGE-L.

    Args:
        column (`str`, defaults to `"references"`): as for [`Rouge`], like the next two.
        use_stemmer (`bool`, defaults to `True`)
        tokenizer (`str`, defaults to `"unicode"`)
        split_sentences (`bool`, defaults to `False`): of ROUGE-Lsum.
    """

    name = "rouge"
    better = "higher"

    def __init__(
        self,
        column: str = "references",
        use_stemmer: bool = True,
        tokenizer: str = "unicode",
        split_sentences: bool = False,
    ):
        self.columns = (column,)
        self.kinds = {
            kind: Rouge(kind, column, use_stemmer, tokenizer, split_sentences and kind == "rougeLsum")
            for kind in KINDS
        }

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return self.kinds["rougeL"].score(predictions, **columns)

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        return {kind: rouge.compute(predictions, **columns)[kind] for kind, rouge in self.kinds.items()}


def words_of(text: str) -> list[str]:
    """Words of a text in any script, in lower case: runs of letters, digits and the marks upon them.

    A letter of a script that is written without spaces between words is a word. Composed and decomposed letters are
    the same. Of a text in ASCII these are `rouge_score`'s words.

    Example:
        >>> words_of("Größe 10, 猫が!")
        ['größe', '10', '猫', 'が']
    """
    found: list[str] = []
    is_open = False
    for letter in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(letter)[0]
        if kind not in "LMN":
            is_open = False
        elif _stands_alone(letter):
            found.append(letter)
            # Its vowels and tones, if any, follow.
            is_open = kind == "M"
        elif is_open or (kind == "M" and found):
            found[-1] += letter
        else:
            found.append(letter)
            is_open = True
    return found


_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),
)  # fmt: skip
"""Thai and Lao, Myanmar, Khmer, Japanese kana, and Han characters."""


def _stands_alone(letter: str) -> bool:
    """Whether a letter (not a mark upon one) is of a script without spaces between words."""
    return unicodedata.category(letter)[0] == "L" and any(
        first <= ord(letter) <= last for first, last in _WITHOUT_SPACES
    )


# A row's references are split once, however often they are compared with.
@bounded_cache(characters=2_000_000)
def _words(text: str, use_stemmer: bool, tokenizer: str) -> Words:
    if tokenizer == "rouge_score":
        from rouge_score.tokenize import tokenize

        return tuple(tokenize(text, stemmer() if use_stemmer else None))
    words = words_of(text)
    # The package leaves words of up to three letters as they are, and Porter's rules are for English.
    stemmed = (stem(word) if len(word) > 3 and word.isascii() else word for word in words)
    return tuple(stemmed if use_stemmer else words)


@bounded_cache(characters=500_000)
def _ngrams(text: str, order: int, use_stemmer: bool, tokenizer: str) -> Counter[Words]:
    words = _words(text, use_stemmer, tokenizer)
    return Counter(words[start : start + order] for start in range(len(words) - order + 1))


def _f_score(common: int, length: int, other: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / length, common / other
    return 2 * precision * recall / (precision + recall)


class _Tokenizer:
    """Our words for the package, which compares summaries sentence by sentence."""

    def __init__(self, use_stemmer: bool, tokenizer: str):
        self.cut = (use_stemmer, tokenizer)

    def tokenize(self, text: str) -> list[str]:
        return list(_words(text, *self.cut))


# Kept out of the metric so that this can be pickled whatever the scorer holds.
@lru_cache(maxsize=8)
def _scorer(use_stemmer: bool, tokenizer: str) -> Any:
    library = require_package("rouge_score.rouge_scorer", "metric 'rougeLsum'")
    return library.RougeScorer(["rougeLsum"], tokenizer=_Tokenizer(use_stemmer, tokenizer))
