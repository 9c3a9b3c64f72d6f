"""Word overlap with references."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..errors import UserError
from .texts import as_list, completion_text, require_column


class Rouge:
    """ROUGE F-measure of a completion, the best over its references (Lin 2004; google-research's `rouge_score`).

    Args:
        kind (`str`): `"rouge1"`, `"rouge2"`, `"rougeL"`, or `"rougeLsum"`, which takes every line for a sentence.
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        use_stemmer (`bool`, defaults to `True`): compare Porter stems. English only.

    Called with `completions` and that column, it returns one number in [0, 1] per completion: 0 for an empty
    completion, None ("does not apply") for a row without references.

    Example:
        >>> Rouge("rouge1")(completions=["a cat sat"], references=[["the cat sat", "a dog"]])
        [0.6666666666666666]
    """

    def __init__(self, kind: str, column: str = "references", use_stemmer: bool = True):
        self.kind, self.column, self.use_stemmer = kind, column, use_stemmer
        self.__name__ = kind
        _scorer(kind, use_stemmer)

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        references = require_column(columns, self.column, self.kind)
        scorer = _scorer(self.kind, self.use_stemmer)
        return [
            max(
                (scorer.score(target, completion_text(text))[self.kind].fmeasure for target in as_list(row)),
                default=None,
            )
            for text, row in zip(completions, references, strict=True)
        ]


# Kept out of the reward so that this can be pickled whatever the scorer holds.
@lru_cache(maxsize=8)
def _scorer(kind: str, use_stemmer: bool) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError(
            f'reward {kind!r} needs the package rouge-score: install it with `pip install "trl-nlpo[metrics]"`.'
        ) from None
    return RougeScorer([kind], use_stemmer=use_stemmer)
