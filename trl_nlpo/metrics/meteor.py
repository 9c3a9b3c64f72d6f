"""METEOR: words shared with a reference, their stems and synonyms, and their order (Banerjee and Lavie 2005)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..errors import UserError
from .base import Metric, as_list
from .words import tokenizer, treebank_words


class Meteor(Metric):
    """METEOR of an English text, the best over its references, by `nltk` (METEOR 1.0; Java's 1.5 differs).

    Words are matched as they are, then by Porter stem, then by WordNet synonym; with m matches in c chunks,
    METEOR = (1 - gamma (c / m)^beta) x P R / (alpha P + (1 - alpha) R).

    Args:
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        synonyms (`bool`, defaults to `True`): match synonyms, which needs WordNet 3.0's files. False: words and stems
            only, which scores lower and is comparable with itself alone. `nltk` looks synonyms up among the stems, so
            that "child" finds "kid", but "automobile" (stem "automobil") does not find "car".
        alpha (`float`, defaults to 0.9), beta (`float`, defaults to 3.0), gamma (`float`, defaults to 0.5): weight of
            precision's counterpart, shape and weight of the penalty for broken order.

    A score is in [0, 1): 0 for an empty text, None for a row without references; a reference itself scores
    1 - gamma / m^beta. Case does not matter. A table has the mean over the rows.

    Raises:
        UserError: `nltk` is missing, or WordNet; the message says how to get it.

    Example:
        >>> Meteor(synonyms=False).score(["a dog"], references=[["the dogs", "a dog"]])
        [0.9375]
    """

    name = "meteor"
    better = "higher"

    def __init__(
        self,
        column: str = "references",
        synonyms: bool = True,
        alpha: float = 0.9,
        beta: float = 3.0,
        gamma: float = 0.5,
    ):
        self.columns, self.synonyms = (column,), synonyms
        self.parameters = {"alpha": alpha, "beta": beta, "gamma": gamma}
        tokenizer("metric 'meteor'")
        if synonyms:
            _check_wordnet()

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return [
            self._meteor(text, references) if (references := as_list(row)) else None
            for text, row in zip(predictions, columns[self.columns[0]], strict=True)
        ]

    def _meteor(self, prediction: str, references: list[str]) -> float:
        from nltk.translate.meteor_score import meteor_score

        return meteor_score(
            [treebank_words(text, self.name) for text in references],
            treebank_words(prediction, self.name),
            stemmer=_Stemmer,
            wordnet=_WordNet if self.synonyms else _NoSynonyms,
            **self.parameters,
        )


def _check_wordnet() -> None:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip(" *")), type(error).__name__)
        raise UserError(
            f"metric 'meteor' needs WordNet's files ({reason}). With a network: `python -m nltk.downloader wordnet`. "
            "From Debian: `apt-get install wordnet-base`, copy /usr/share/wordnet to DIR/corpora/wordnet, add the "
            "file lexnames of WordNet 3.0 and an empty index.sense, and set NLTK_DATA=DIR. Or set `synonyms: false` "
            "to match words and stems only, which scores lower."
        ) from None


# nltk asks these three for a word at a time; the two that have something to look up remember what they found.
class _Stemmer:
    @staticmethod
    @lru_cache(maxsize=50_000)
    def stem(word: str) -> str:
        return _porter().stem(word)


class _WordNet:
    @staticmethod
    @lru_cache(maxsize=50_000)
    def synsets(word: str) -> list[Any]:
        from nltk.corpus import wordnet

        return wordnet.synsets(word)


class _NoSynonyms:
    @staticmethod
    def synsets(word: str) -> list[Any]:
        return []


@lru_cache(maxsize=1)
def _porter() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
