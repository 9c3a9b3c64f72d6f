"""Word-overlap metrics against the libraries that define them, side by side in one process, on texts made up here.

    NLTK_DATA=DIR python benchmarks/metric_speed.py      # DIR has WordNet (docs/metrics.md); without: no synonyms

ROUGE-1 and -2 against `rouge_score`, METEOR against `nltk`, for a batch with several references; each side first on
texts that it has not seen ("first"), then with the same references and new predictions ("again"), as a second epoch.
Scores are compared too. Last, what CIDEr holds in memory after many batches. Prints tables with ratios.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import resource
import statistics
import time
from collections.abc import Callable

from nltk.corpus import wordnet
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer

from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.sentences import sentences


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--words", type=int, default=100, help="in a text")
    parser.add_argument("--references", type=int, default=5, help="of a row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=310, help="of CIDEr, for its memory")
    return parser.parse_args()


class Texts:
    """Sentences of common words, in proportions like a language's."""

    def __init__(self, words: int, seed: str):
        self.draw, self.words = random.Random(seed), words
        stems = "walk talk jump play look turn open close call move start need want help show live seem carry wait"
        nouns = "dog cat house river child car street film tree book night friend city table road school hand game"
        self.vocabulary = ["the", "a", "of", "and", "to", "in", "was", "on"]
        self.vocabulary += [stem + ending for stem in stems.split() for ending in ("", "s", "ed", "ing")]
        self.vocabulary += [noun + ending for noun in nouns.split() for ending in ("", "s")]
        self.vocabulary += [f"{first}{second}" for first in nouns.split() for second in nouns.split()]
        self.weights = [1 / (rank + 5) for rank in range(len(self.vocabulary))]

    def text(self) -> str:
        words = self.draw.choices(self.vocabulary, self.weights, k=self.words)
        return " ".join(f"{word}." if place % 15 == 14 else word for place, word in enumerate(words))

    def batch(self, rows: int, references: int) -> tuple[list[str], list[list[str]]]:
        return [self.text() for _ in range(rows)], [[self.text() for _ in range(references)] for _ in range(rows)]


Score = Callable[[list[str], list[list[str]]], list[float]]


def by_package(kind: str) -> Score:
    scorer = RougeScorer([kind], use_stemmer=True)
    return lambda predictions, references: [
        max(scorer.score(one, text)[kind].fmeasure for one in row)
        for text, row in zip(predictions, references, strict=True)
    ]


def by_nltk(has_wordnet: bool) -> Score:
    source, split = wordnet if has_wordnet else _NoSynonyms, NLTKWordTokenizer().tokenize

    def words(text: str) -> list[str]:
        return [word for sentence in sentences(text) for word in split(sentence)]

    return lambda predictions, references: [
        meteor_score([words(one) for one in row], words(text), wordnet=source)
        for text, row in zip(predictions, references, strict=True)
    ]


class _NoSynonyms:
    @staticmethod
    def synsets(word: str) -> list[str]:
        return []


def seconds(score: Score, batches: list[tuple[list[str], list[list[str]]]]) -> tuple[list[float], list[list[float]]]:
    times, found = [], []
    for predictions, references in batches:
        start = time.perf_counter()
        found.append(score(predictions, references))
        times.append(time.perf_counter() - start)
    return times, found


def compare(name: str, theirs: Score, ours: Score, args: argparse.Namespace) -> None:
    """Both sides in turn: fresh texts in every round, then new predictions for the references of the last one."""
    texts = Texts(args.words, name)
    fresh = [texts.batch(args.rows, args.references) for _ in range(args.rounds)]
    again = [(texts.batch(args.rows, 0)[0], fresh[-1][1]) for _ in range(args.rounds)]
    for what, batches in (("first", fresh), ("again", again)):
        spent: dict[str, list[float]] = {"theirs": [], "ours": []}
        largest = 0.0
        for batch in batches:
            (one, expected), (other, found) = seconds(theirs, [batch]), seconds(ours, [batch])
            spent["theirs"] += one
            spent["ours"] += other
            pairs = zip(expected[0], found[0], strict=True)
            largest = max(largest, max(abs(a - b) for a, b in pairs))
        theirs_ms, ours_ms = (1000 * statistics.median(spent[side]) for side in ("theirs", "ours"))
        print(f"| {name}, {what} | {theirs_ms:.0f} | {ours_ms:.0f} | {theirs_ms / ours_ms:.1f} | {largest:.1e} |")


def memory_of_cider(args: argparse.Namespace) -> None:
    texts = Texts(args.words, "CIDEr")
    metric = get_metric("cider")
    metric.fit([row for _ in range(2) for row in texts.batch(args.rows, args.references)[1]])
    print("\n| CIDEr: batches | MiB of the process above its start |\n|---|---|")
    gc.collect()
    start = _resident()
    for number in range(1, args.batches + 1):
        predictions, references = texts.batch(args.rows, args.references)
        metric.score(predictions, references=references)
        if number in (1, 10, 50, args.batches):
            gc.collect()
            print(f"| {number} | {_resident() - start:.0f} |")
    print(f"\nHighest of the whole process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB.")


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    args = parse()
    has_wordnet = "NLTK_DATA" in os.environ
    print(f"{args.rows} rows of {args.words} words, {args.references} references, median of {args.rounds} rounds.\n")
    print("| | library, ms | ours, ms | times faster | largest difference |\n|---|---|---|---|---|")
    for kind in ("rouge1", "rouge2", "rougeL"):
        metric = get_metric(kind)
        ours = lambda texts, rows, metric=metric: metric.score(texts, references=rows)  # noqa: E731
        compare(kind, by_package(kind), ours, args)
    metric = get_metric("meteor", synonyms=has_wordnet)
    name = "METEOR" if has_wordnet else "METEOR without synonyms"
    compare(name, by_nltk(has_wordnet), lambda texts, rows: metric.score(texts, references=rows), args)
    memory_of_cider(args)


if __name__ == "__main__":
    main()
