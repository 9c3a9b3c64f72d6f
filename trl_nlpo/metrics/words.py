"""Words of a text as the Penn Treebank splits them, by `nltk`, without data to download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..naming import require_package
from .bounded_cache import bounded_cache
from .sentences import sentences


def treebank_words(text: str, who: str) -> tuple[str, ...]:
    """Lower-cased words and punctuation marks: "A dog's ball. Go!" gives "a", "dog", "'s", "ball", ".", "go" and "!".

    nltk's `NLTKWordTokenizer` on each of the [`sentences`], since it parts a full stop from its word only at the end
    of what it is given. The kind of white space makes no difference.

    Args:
        text (`str`)
        who (`str`): who asks, for the message: `"metric 'meteor'"`.

    Raises:
        UserError: `nltk` is missing.
    """
    require_package("nltk.tokenize", who)
    return _words(text)


def tokenizer(who: str) -> Any:
    """`nltk`'s tokenizer of the words of a sentence.

    Args:
        who (`str`): what needs it, for the message: `"metric 'meteor'"`.

    Raises:
        UserError: `nltk` is missing.
    """
    require_package("nltk.tokenize", who)
    return _tokenizer()


# Several metrics read the same texts, and references come again with every completion and in every epoch.
@bounded_cache(characters=4_000_000)
def _words(text: str) -> tuple[str, ...]:
    split = _tokenizer().tokenize
    return tuple(word.lower() for sentence in sentences(text) for word in split(sentence))


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()
