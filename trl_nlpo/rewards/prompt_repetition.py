"""A penalty for completions that repeat their prompt instead of answering it, for CommonGen and its like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..metrics.base import as_list, require_column
from ..metrics.concepts import plain_words
from ..metrics.texts import completion_text


class PromptRepetition:
    """-1 for a completion that repeats its prompt, 0 for any other; add it to a reward such as METEOR.

    A completion repeats its prompt when it has, case and punctuation aside, one of:
    - all concepts one after the other in the order given ("dog catch ball" for dog, catch, ball);
    - the words of the prompt before its concepts, if there are two or more ("generate a sentence with");
    - one of `words` that the prompt has and that is no concept.

    Args:
        column (`str`, defaults to `"concepts"`): the data set's column with a list of base forms (or one string).
        words (`Sequence[str]`, defaults to `("generate", "sentence")`): telling words of the instruction.

    0 for an empty completion, None ("does not apply") for a row without concepts. A single concept is no repetition.

    Example:
        >>> prompts = ["generate a sentence with: dog catch ball"] * 2
        >>> completions = ["A dog catches the ball.", "dog catch ball."]
        >>> PromptRepetition()(prompts, completions, concepts=[["dog", "catch", "ball"]] * 2)
        [0.0, -1.0]
    """

    def __init__(self, column: str = "concepts", words: Sequence[str] = ("generate", "sentence")):
        self.column, self.words = column, {word.lower() for word in as_list(words)}
        self.__name__ = "prompt_repetition"

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        rows = require_column(columns, self.column, f"reward {self.__name__!r}")
        return [
            self._penalty(completion_text(prompt), completion_text(completion), as_list(row))
            for prompt, completion, row in zip(prompts, completions, rows, strict=True)
        ]

    def _penalty(self, prompt: str, completion: str, concepts: list[str]) -> float | None:
        wanted, given, said = plain_words(" ".join(concepts)), plain_words(prompt), plain_words(completion)
        if not wanted:
            return None
        start = _find(wanted, given)
        repeats = (
            (len(wanted) > 1 and _find(wanted, said) is not None)
            or (start is not None and start > 1 and _find(given[:start], said) is not None)
            or bool((self.words & set(given) & set(said)) - set(wanted))
        )
        return -1.0 if repeats else 0.0


def _find(run: list[str], words: list[str]) -> int | None:
    """Where the words of a run first stand in a row."""
    return next((start for start in range(len(words) - len(run) + 1) if words[start : start + len(run)] == run), None)
