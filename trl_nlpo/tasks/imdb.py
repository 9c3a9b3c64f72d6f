"""IMDB continuation: continue a film review so that it is positive (paper, section 3; Maas et al. 2011)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..metrics.base import Metric
from .base import HubData, Portion, Row, Task
from .grammar import Grammar


POSITIVE = "wonderful brilliant moving charming clever superb delightful gripping"
NEGATIVE = "awful boring silly dreadful clumsy tedious shallow painful"


def rows(reviews: Iterable[Row]) -> Iterator[Row]:
    """A review's first half of words as the prompt, the rest as the reference; `label` 1 is positive."""
    for review in reviews:
        words = review["text"].split(" ")
        half = len(words) // 2
        if half:
            yield {
                "prompt": " ".join(words[:half]),
                "references": [" ".join(words[half:])],
                "label": review["label"],
            }


def _options(words: str) -> list[str]:
    return words.split()


_GRAMMAR = Grammar(
    {
        "FILM": ["film", "movie", "picture", "story", "comedy", "drama"],
        "PART": ["plot", "acting", "music", "ending", "script", "camera work", "cast", "dialogue"],
        "WHEN": ["last night", "on television", "with my family", "at a festival", "years ago", "this weekend"],
        "START": ["I saw this FILM WHEN", "We watched this FILM WHEN", "My brother showed me this FILM WHEN"],
        "WHY": ["because of the PART", "for its PART", "although a friend warned me", "without expecting much"],
        "positive": _options(POSITIVE),
        "negative": _options(NEGATIVE),
        "SAY_positive": ["The PART was positive .", "I found the PART positive and the PART positive ."],
        "SAY_negative": ["The PART was negative .", "I found the PART negative and the PART negative ."],
        "END_positive": ["In short , a positive FILM .", "I would see it again .", "What a positive hour !"],
        "END_negative": ["In short , a negative FILM .", "I want my money back .", "What a negative hour !"],
        "REVIEW_positive": ["START WHY . SAY_positive SAY_positive END_positive", "START . SAY_positive END_positive"],
        "REVIEW_negative": ["START WHY . SAY_negative SAY_negative END_negative", "START . SAY_negative END_negative"],
    }
)


def miniature(rng: random.Random) -> Iterator[Row]:
    """Reviews of one opinion each, drawn from a grammar."""
    while True:
        label = rng.randrange(2)
        text = " ".join(_GRAMMAR.sample(f"REVIEW_{'positive' if label else 'negative'}", rng))
        yield from rows([{"text": re.sub(r" ([.,!])", r"\1", text), "label": label}])


class PositiveWords(Metric):
    """The miniature's sentiment: |positive words| / |judging words| of a text, 0.5 where it judges nothing."""

    name = "positive_words"
    columns = ()

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        return [self._share(re.findall(r"\w+", text.lower())) for text in predictions]

    def _share(self, words: list[str]) -> float:
        positive = sum(word in _options(POSITIVE) for word in words)
        negative = sum(word in _options(NEGATIVE) for word in words)
        return positive / (positive + negative) if positive + negative else 0.5


_SENTIMENT = {"name": "classifier", "model": "lvwerra/distilbert-imdb", "label": 1, "include_prompt": True}

TASK = Task(
    name="imdb",
    summary="Continue a film review so that it is positive.",
    hub=HubData(
        "stanfordnlp/imdb",
        {
            "train": Portion("train", 0.0, 0.8),
            "validation": Portion("train", 0.8, 1.0),
            "test": Portion("test", 0, 0.2),
        },
        {"revision": "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"},
        {"train": 25_000, "test": 25_000},
        shuffle_seed=42,
    ),
    rows=rows,
    miniature=miniature,
    files="imdb",
    max_prompt_length=64,
    prompt_truncation_side="left",
    response_length=48,
    model_name_or_path="lvwerra/gpt2-imdb",
    rewards=(_SENTIMENT,),
    metrics=(_SENTIMENT,),
    offline_rewards=("positive_words",),
)
