"""Whether a completion says what it was asked to say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..naming import require_package
from .base import Metric, as_list


_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_VOWELS = frozenset("aeiouy")


class ConceptCoverage(Metric):
    """The share of a row's concepts that occur in its text, regular inflections included.

    coverage = |concepts found| / |concepts|, in [0, 1], each counted once, so that saying one twice pays nothing.

    Args:
        column (`str`, defaults to `"concepts"`): the data set's column with a list of base forms (or one string).
        inflections (`bool`, defaults to `True`): find "dance" in "dances", "danced" and "dancing" too.
        lemmas (`bool`, defaults to `False`, so that no package is needed): find irregular forms too, "run" in "ran",
            "hold" in "held", "mouse" in "mice", by the lemmas of `simplemma`.

    0 for an empty text, None ("does not apply") for a row without concepts.

    Limits: English suffixes only (-s, -es, -ies, -d, -ed, -ied, -ing, doubled consonants, dropped e), and irregular
    forms with `lemmas` only. A chance match is possible ("used" for "us"). A bare list of the concepts
    covers them all: combine it with a reward for text that reads well, or lean on the KL penalty.

    Raises:
        UserError: `lemmas` without the package `simplemma`.

    Example:
        >>> ConceptCoverage().score(["Two dogs stopped."], concepts=[["dog", "stop", "ball"]])
        [0.6666666666666666]
    """

    name = "concept_coverage"
    better = "higher"

    def __init__(self, column: str = "concepts", inflections: bool = True, lemmas: bool = False):
        self.columns, self.inflections, self.lemmas = (column,), inflections, lemmas
        if lemmas:
            _lemma("mice")

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return [
            self._coverage(text, as_list(row)) for text, row in zip(predictions, columns[self.columns[0]], strict=True)
        ]

    def _coverage(self, text: str, concepts: list[str]) -> float | None:
        wanted = {words for concept in concepts if (words := tuple(plain_words(concept)))}
        if not wanted:
            return None
        forms = [self._forms(word) for word in plain_words(text)]
        return sum(_occurs(concept, forms) for concept in wanted) / len(wanted)

    def _forms(self, word: str) -> set[str]:
        forms = base_forms(word) if self.inflections else {word}
        return forms | {_lemma(word)} if self.lemmas else forms


def base_forms(word: str) -> set[str]:
    """What a lower-case word may be an inflection of, itself included; too many rather than too few.

    Example: "stopped" gives "stopped", "stoppe", "stopp" and "stop".
    """
    candidates = {word}
    for suffix, endings in (
        ("s", ("",)),
        ("es", ("",)),
        ("ies", ("y",)),
        ("d", ("",)),
        ("ed", ("",)),
        ("ied", ("y",)),
        ("ing", ("", "e")),
    ):
        if word.endswith(suffix):
            stem = word[: -len(suffix)]
            candidates |= {stem + ending for ending in endings}
            if suffix in ("ed", "ing") and len(stem) > 2 and stem[-1] == stem[-2]:
                candidates.add(stem[:-1])
    return {form for form in candidates if form == word or (len(form) > 1 and _VOWELS & set(form))}


@lru_cache(maxsize=50_000)
def _lemma(word: str) -> str:
    simplemma = require_package("simplemma", "metric 'concept_coverage' with `lemmas`")
    return simplemma.lemmatize(word, lang="en").lower()


def _occurs(concept: tuple[str, ...], forms: list[set[str]]) -> bool:
    """Whether the words of a concept ("ice", "cream") stand in a row."""
    starts = range(len(forms) - len(concept) + 1)
    return any(all(word in forms[start + i] for i, word in enumerate(concept)) for start in starts)


def plain_words(text: str) -> list[str]:
    """Words in lower case, without punctuation; an underscore parts words, an apostrophe does not."""
    return _WORD.findall(text.lower().replace("_", " "))
