"""What each built-in reward is, in lines: `trl-nlpo rewards`."""

from __future__ import annotations

import math

from ..metrics.listing import FACTS, Entry, in_words, metric_entry, options_of
from ..metrics.registry import metric_names
from .registry import built_in_names, reward_class


ANYTHING_ELSE = (
    "A reward may also be the path or Hub id of a classifier (with a slash), evaluate:name for a module of Hugging "
    "Face's evaluate, or code of yours: my_module.my_reward. {name: bleu, weight: 2.0, lowercase: true} has a weight "
    'and options. What needs trl-nlpo[metrics] needs `pip install "trl-nlpo[metrics]"`.'
)

_RANGES: dict[str, tuple[float, float]] = {
    "cider": (0, 1),
    "chrf": (0, 1),
    "chrf++": (0, 1),
    "perplexity": (0, 1),
    "sacrebleu": (0, 1),
    "ter": (-math.inf, 1),
}
"""Least and greatest reward, where that is not the score."""

_OURS: dict[str, tuple[str, tuple[float, float]]] = {
    "grammatical": ("whether prompt and completion are a sentence of the quickstart's language", (0, 1)),
    "pleasant_sentence": ("how pleasantly a sentence of the quickstart's language continues", (0, 1)),
    "positive_words": ("share of positive words among those that judge, of imdb's miniature", (0, 1)),
    "prompt_repetition": ("-1 for a completion that repeats its prompt (a penalty to add)", (-1, 0)),
}


def reward_range(name: str) -> tuple[float, float]:
    """Least and greatest reward of a built-in."""
    return _OURS[name][1] if name in _OURS else _RANGES.get(name, FACTS[name].scale)


def reward_entries() -> list[Entry]:
    """Every built-in reward, sorted by name. More is better for all of them."""
    return [_entry(name) for name in built_in_names()]


def _entry(name: str) -> Entry:
    if name in metric_names():
        return metric_entry(name, reward_range(name), "higher")
    meaning, scale = _OURS[name]
    return Entry(name, meaning, (f"{in_words(scale)}; higher is better.",), options_of(reward_class(name), {}))
