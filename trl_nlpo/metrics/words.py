"""Words of a text as the Penn Treebank splits them, by `nltk`, without data to download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..naming import require_package


# References come again with every completion of their prompt and in every epoch.
@lru_cache(maxsize=20_000)
def treebank_words(text: str, metric: str) -> tuple[str, ...]:
    """Words and punctuation marks of a text: "A dog's ball." gives "A", "dog", "'s", "ball" and ".".

    Args:
        text (`str`)
        metric (`str`): who asks, for the message.

    Raises:
        UserError: `nltk` is missing.
    """
    return tuple(tokenizer(f"metric {metric!r}").tokenize(text))


def tokenizer(who: str) -> Any:
    """`nltk`'s tokenizer of words.

    Args:
        who (`str`): what needs it, for the message: `"metric 'meteor'"`.

    Raises:
        UserError: `nltk` is missing.
    """
    require_package("nltk.tokenize", who)
    return _tokenizer()


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()
