"""Results of texts kept for the next time, within a bound on how much text there is to them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar


Result = TypeVar("Result")

# What an entry costs besides its text, so that many empty texts are bounded too.
_CHARACTERS_OF_AN_ENTRY = 100


def bounded_cache(characters: int) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """A decorator: keep the results of a function of a text, the least recently used ones going first.

    `functools.lru_cache` counts entries, and an entry may be a caption or an article: what it holds in memory is then
    anybody's guess. Here the sum of the texts' lengths is bounded (every entry counts for 100 characters more), to
    which what is made of a text, such as its words, is proportional. A text that is longer than all of it is not kept.
    Threads may share it.

    Args:
        characters (`int`): of all texts kept. The function's first argument is the text; it and any others must be
            hashable, and are given by position.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        kept: OrderedDict[tuple[Any, ...], Result] = OrderedDict()
        lock = threading.Lock()
        free = characters

        @wraps(function)
        def cached(text: str, *others: Any) -> Result:
            nonlocal free
            key = (text, *others)
            with lock:
                if key in kept:
                    kept.move_to_end(key)
                    return kept[key]
            # Outside of the lock: it takes long, and two threads that make the same do no harm.
            result = function(text, *others)
            with lock:
                if key not in kept and _cost(text) <= characters:
                    kept[key] = result
                    free -= _cost(text)
                    while free < 0:
                        (oldest, *_), _ = kept.popitem(last=False)
                        free += _cost(oldest)
            return result

        return cached

    return decorate


def _cost(text: str) -> int:
    return len(text) + _CHARACTERS_OF_AN_ENTRY
