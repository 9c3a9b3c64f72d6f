"""METEOR: words shared with a reference, their stems and synonyms, and their order (Banerjee and Lavie 2005)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from ..errors import UserError
from .base import Metric, as_list
from .words import require_words, stem, treebank_words


Words = tuple[str, ...]


class Meteor(Metric):
    """METEOR of an English text, the best over its references: METEOR 1.0 as `nltk` has it; Java's 1.5 differs.

    Words are the Penn Treebank's, as for CIDEr and the metrics of naturalness ([`words.treebank_words`]). They are
    matched as they are, then by Porter stem, then by WordNet synonym; with m matches in c chunks,
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
        require_words("metric 'meteor'")
        if synonyms:
            _check_wordnet()

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return [
            self._meteor(text, references) if (references := as_list(row)) else None
            for text, row in zip(predictions, columns[self.columns[0]], strict=True)
        ]

    def _meteor(self, prediction: str, references: list[str]) -> float:
        return max(self._against(treebank_words(prediction), treebank_words(text)) for text in references)

    def _against(self, text: Words, reference: Words) -> float:
        matches = alignment(text, reference, _synonyms if self.synonyms else None)
        if not matches:
            return 0.0
        precision, recall = len(matches) / len(text), len(matches) / len(reference)
        alpha, beta, gamma = self.parameters["alpha"], self.parameters["beta"], self.parameters["gamma"]
        mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
        return (1 - gamma * (chunks(matches) / len(matches)) ** beta) * mean


def alignment(
    text: Words, reference: Words, synonyms: Callable[[str], frozenset[str]] | None = None
) -> list[tuple[int, int]]:
    """Which word of a text is which of a reference: equal ones first, then equal stems, then synonyms of stems.

    As in `nltk`, and unlike the paper, the words are taken from the last to the first, each with the last word of the
    reference that is left and fits; no other alignment is looked for.

    Args:
        text, reference (`tuple[str, ...]`): words in lower case.
        synonyms (`Callable`, *optional*): of a word, itself included; None: none are looked up.

    Returns:
        Pairs of places, in the order of the text.
    """
    own, theirs = dict(enumerate(text)), dict(enumerate(reference))
    matches = _matched(own, theirs)
    own, theirs = ({place: stem(word) for place, word in left.items()} for left in (own, theirs))
    matches += _matched(own, theirs)
    if synonyms is not None and theirs:
        for place in sorted(own, reverse=True):
            known = synonyms(own[place])
            other = next((other for other in sorted(theirs, reverse=True) if theirs[other] in known), None)
            if other is not None:
                matches.append((place, other))
                del theirs[other]
    return sorted(matches)


def chunks(matches: Sequence[tuple[int, int]]) -> int:
    """Runs of matched words that stand side by side in both texts; `matches` (one or more) in the first's order."""
    return 1 + sum((place + 1, other + 1) != following for (place, other), following in itertools.pairwise(matches))


def _matched(own: dict[int, str], theirs: dict[int, str]) -> list[tuple[int, int]]:
    """Pairs of places with equal words, which are taken out of both."""
    places: dict[str, list[int]] = {}
    for place, word in sorted(theirs.items()):
        places.setdefault(word, []).append(place)
    matches = []
    for place in sorted(own, reverse=True):
        if left := places.get(own[place]):
            matches.append((place, left.pop()))
            del own[place], theirs[matches[-1][1]]
    return matches


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


# Looking a word up takes longer than aligning it.
@lru_cache(maxsize=50_000)
def _synonyms(word: str) -> frozenset[str]:
    """A word and the single words that share a meaning with it in WordNet."""
    from nltk.corpus import wordnet

    lemmas = (lemma.name() for synset in wordnet.synsets(word) for lemma in synset.lemmas())
    return frozenset([word, *(name for name in lemmas if "_" not in name)])
