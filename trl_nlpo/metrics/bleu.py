"""BLEU: n-gram precision against references, with a penalty for texts that are too short (Papineni et al. 2002)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import UserError
from ..naming import check_int, did_you_mean
from .sacrebleu_metric import SacreBleuMetric, library, scorer


SMOOTHINGS = ("exp", "add-k", "floor", "none")
REFERENCE_LENGTHS = ("closest", "shortest")


class Bleu(SacreBleuMetric):
    """BLEU over words as white space separates them, by `sacrebleu`'s counting.

    BLEU = min(1, exp(1 - r / c)) x (p_1 x ... x p_N)^(1/N), with p_n the share of the text's n-grams that occur in a
    reference (each as often as in one reference at most), c its length and r the length of a reference.

    Args:
        max_order (`int`, defaults to 4): N, the longest n-gram. `bleu3` and `bleu4` fix it.
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        tokenize (`str`, defaults to `"none"`): `"none"` splits at white space, as the paper does; or a tokenizer of
            `sacrebleu`, such as `"13a"` or `"intl"`.
        lowercase (`bool`, defaults to `False`)
        smoothing (`str`, defaults to `"exp"`): of single texts, for p_n = 0. `"exp"`: 1/2, 1/4, ... of an n-gram
            for each order without a match (Chen and Cherry 2014, method 3); `"add-k"` (method 2), `"floor"`
            (method 1), or `"none"`, which scores 0 a text without a matching 4-gram. Orders longer than the text
            are left out ("effective order"), so that a short one does not score 0.

        reference_length (`str`, defaults to `"closest"`): of several references, whose length is r: the one nearest to
            c, the shorter of two (Papineni et al.), or the `"shortest"`, as in RL4LMs' `bleu`, the script of Hugging
            Face's `evaluate`: long texts are punished less then, and figures are higher or equal.

    A score is in [0, 1]: 0 for an empty text or one without a word of a reference, None for a row without references.
    [`compute`] gives the BLEU of the whole corpus, in [0, 1], without smoothing; it is not the mean of the scores.

    Example:
        >>> Bleu().score(["the cat sat on the mat"], references=[["the cat sat on the mat"]])
        [1.0]
    """

    scale = 0.01

    def __init__(
        self,
        max_order: int = 4,
        column: str = "references",
        tokenize: str = "none",
        lowercase: bool = False,
        smoothing: str = "exp",
        reference_length: str = "closest",
        name: str = "bleu",
    ):
        check_int(f"metric {name!r}", "max_order", max_order, 1)
        _check("smoothing", smoothing, SMOOTHINGS, name)
        _check("tokenizer", tokenize, library(name).BLEU.TOKENIZERS, name)
        _check("reference_length", reference_length, REFERENCE_LENGTHS, name)
        self.reference_length = reference_length
        options: dict[str, Any] = {
            "max_ngram_order": max_order,
            "tokenize": tokenize,
            "lowercase": lowercase,
            "smooth_method": "none",
            "force": True,
        }
        super().__init__(name, "BLEU", column, options, {"smooth_method": smoothing, "effective_order": True})

    def sentence_score(self, prediction: str, references: tuple[str, ...]) -> float:
        if self.reference_length == "shortest":
            if not prediction.strip():
                return 0.0
            counted = scorer(self.name, self.kind, self.sentence_options, references).corpus_score([prediction], None)
            return min(1.0, self._with_shortest(counted, [references]))
        return super().sentence_score(prediction, references) / 100

    def compute(self, predictions: Sequence[str], **columns: Any) -> dict[str, float]:
        if self.reference_length == "closest":
            return super().compute(predictions, **columns)
        texts, references = self.rows_with_references(predictions, columns)
        counted = self.corpus(texts, references)
        return {self.name: self._with_shortest(counted, references)}

    def _with_shortest(self, counted: Any, references: Sequence[tuple[str, ...]]) -> float:
        """BLEU of counts that were made with another brevity penalty than that of the shortest references."""
        if not counted.score:
            return 0.0
        made = getattr(library(self.name), self.kind)(**dict(self.options))
        is_lowered = dict(self.options)["lowercase"]

        def length(text: str) -> int:
            return len(made.tokenizer((text.lower() if is_lowered else text).rstrip()).split())

        shortest = sum(min(map(length, row)) for row in references)
        penalty = math.exp(min(0.0, 1 - shortest / counted.sys_len)) if counted.sys_len else 0.0
        return counted.score / 100 / counted.bp * penalty

    def as_reward(self, score: float) -> float:
        return score


class SacreBleu(SacreBleuMetric):
    """BLEU as the package `sacrebleu` reports it (Post 2018): its own tokenizer, 4-grams, on 0 to 100.

    Args:
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        tokenize (`str`, defaults to `"13a"`): a tokenizer of `sacrebleu`; the paper's translation task has `"intl"`.
        lowercase (`bool`, defaults to `False`)
        smoothing (`str`, defaults to `"exp"`): as for [`Bleu`], of the corpus too, as is the package's habit.

    A score is in [0, 100], with orders longer than the text left out: 0 for an empty text, None for a row without
    references. [`compute`] gives the corpus number, in [0, 100]. The reward is the score / 100.

    Example:
        >>> SacreBleu().score(["The cat sat on the mat."], references=["The cat sat on the mat."])
        [100.0]
    """

    def __init__(
        self,
        column: str = "references",
        tokenize: str = "13a",
        lowercase: bool = False,
        smoothing: str = "exp",
    ):
        _check("smoothing", smoothing, SMOOTHINGS, "sacrebleu")
        _check("tokenizer", tokenize, library("sacrebleu").BLEU.TOKENIZERS, "sacrebleu")
        options = {"tokenize": tokenize, "lowercase": lowercase, "smooth_method": smoothing}
        super().__init__("sacrebleu", "BLEU", column, options, {"effective_order": True, "force": True})


def _check(what: str, value: str, known: Iterable[str], name: str) -> None:
    if value not in known:
        nearest = did_you_mean(str(value), known)
        raise UserError(f"metric {name!r}: unknown {what} {value!r}{nearest} Take one of {', '.join(known)}.")
