"""Words of a text as the Penn Treebank splits them, and their stems, by `nltk`, without data to download."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from ..naming import require_package
from .bounded_cache import bounded_cache
from .sentences import sentences


def require_words(who: str) -> None:
    """Raise a `UserError` where `nltk` is missing.

    Args:
        who (`str`): what needs it, for the message: `"metric 'meteor'"`.
    """
    require_package("nltk.tokenize", who)


# Several metrics read the same texts, and references come again with every completion and in every epoch.
@bounded_cache(characters=4_000_000)
def treebank_words(text: str) -> tuple[str, ...]:
    """Lower-cased words and punctuation marks: "A dog's ball. Go!" gives "a", "dog", "'s", "ball", ".", "go" and "!".

    nltk's `NLTKWordTokenizer` on each of the [`sentences`], since it parts a full stop from its word only at the end
    of what it is given. The kind of white space makes no difference. Needs `nltk` ([`require_words`]).
    """
    parts, split = sentences(text), _tokenizer().tokenize
    if all(map(_PLAIN.fullmatch, parts[:-1])) and parts and parts[-1][0].isalnum():
        # In one call, which takes half the time: a full stop is parted here where only the end of a text parts it.
        parts = [" ".join([*(f"{part[:-1]} {part[-1]}" for part in parts[:-1]), *parts[-1:]])]
    return tuple(word.lower() for part in parts for word in split(part))


_PLAIN = re.compile(r"\w.*\w[.!?]")
"""A sentence without quotes or brackets at its ends, which the tokenizer may see otherwise where others are beside."""


# Words come again and again.
@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """A word's Porter stem, as `nltk` has it."""
    return stemmer().stem(word)


@lru_cache(maxsize=1)
def stemmer() -> Any:
    """`nltk`'s Porter stemmer."""
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()
