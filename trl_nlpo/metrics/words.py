"""Words of a text as the Penn Treebank cuts them, by `nltk`, without data to download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..errors import UserError


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
    return tuple(tokenizer(metric).tokenize(text))


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def tokenizer(metric: str) -> Any:
    """`nltk`'s tokenizer of words.

    Raises:
        UserError: `nltk` is missing.
    """
    try:
        return _tokenizer()
    except ImportError:
        raise UserError(
            f'metric {metric!r} needs the package nltk: install it with `pip install "trl-nlpo[metrics]"`.'
        ) from None
