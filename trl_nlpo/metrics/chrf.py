"""chrF and chrF++: F-scores of character n-grams, and of words too (Popović 2015, 2017)."""

from __future__ import annotations

from .sacrebleu_metric import SacreBleuMetric


class Chrf(SacreBleuMetric):
    """chrF of a text, the best over its references, by `sacrebleu`: F2 of character n-grams up to 6.

    Args:
        word_order (`int`, defaults to 0): longest n-gram of words that counts too; 2 is chrF++.
        char_order (`int`, defaults to 6): longest n-gram of characters.
        beta (`int`, defaults to 2): recall weighs beta times as much as precision.
        lowercase (`bool`, defaults to `False`)
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).

    A score is in [0, 100]: 0 for an empty text, None for a row without references. [`compute`] gives the corpus
    number (counts are added over the rows), in [0, 100]. The reward is the score / 100. It needs no tokenizer and
    suits every language.

    Example:
        >>> Chrf().score(["a dog"], references=[["a dog", "a cat"]])
        [100.0]
    """

    def __init__(
        self,
        word_order: int = 0,
        char_order: int = 6,
        beta: int = 2,
        lowercase: bool = False,
        column: str = "references",
        name: str = "chrf",
    ):
        options = {"word_order": word_order, "char_order": char_order, "beta": beta, "lowercase": lowercase}
        super().__init__(name, "CHRF", column, options, {})
