"""Context-free grammars: draw a text from one, and check whether a text is in its language."""

from __future__ import annotations

import random
from functools import cache


class Grammar:
    """A context-free grammar without left recursion.

    Args:
        rules (`dict[str, list[str]]`): what each symbol may be rewritten as. Symbols and words are separated by
            spaces; what is not a key of `rules` is a word.

    Example:
        >>> grammar = Grammar({"GREETING": ["hello NAME", "good morning NAME"], "NAME": ["Ann", "Bob"]})
        >>> grammar.accepts("GREETING", ["good", "morning", "Ann"])
        True
    """

    def __init__(self, rules: dict[str, list[str]]):
        self.rules = {symbol: [tuple(option.split()) for option in options] for symbol, options in rules.items()}

    def sample(self, symbol: str, rng: random.Random) -> list[str]:
        """Words for a symbol, every alternative equally likely at each step."""
        if symbol not in self.rules:
            return [symbol]
        return [word for part in rng.choice(self.rules[symbol]) for word in self.sample(part, rng)]

    def accepts(self, symbol: str, words: list[str]) -> bool:
        """Whether the symbol can be rewritten as exactly these words."""
        return len(words) in self._ends(symbol, words)

    def words(self) -> list[str]:
        """Every word of the language, sorted."""
        return sorted(
            {part for options in self.rules.values() for option in options for part in option} - set(self.rules)
        )

    def _ends(self, symbol: str, words: list[str]) -> frozenset[int]:
        """Where a rewriting of `symbol` from the first word on may end."""

        @cache
        def ends(part: str, start: int) -> frozenset[int]:
            if part not in self.rules:
                return frozenset({start + 1}) if start < len(words) and words[start] == part else frozenset()
            found: set[int] = set()
            for option in self.rules[part]:
                positions = {start}
                for item in option:
                    positions = {end for position in positions for end in ends(item, position)}
                found |= positions
            return frozenset(found)

        return ends(symbol, 0)
