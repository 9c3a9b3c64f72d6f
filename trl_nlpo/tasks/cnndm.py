"""CNN/DailyMail: the highlights of a news article (Hermann et al. 2015; See et al. 2017)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from .base import HubData, Portion, Row, Task


def rows(articles: Iterable[Row]) -> Iterator[Row]:
    """Article and highlights, one per line."""
    for article in articles:
        yield {"prompt": article["article"], "references": [article["highlights"]]}


_NAMES = ("Ann Miller", "Bob Stone", "Carla Diaz", "David King", "Eva Brown", "Frank Moss", "Grace Hill", "Henry Wood")
_TOWNS = ("Oakville", "Riverton", "Lakeside", "Hillford", "Marstown", "Stonebridge")
_EVENTS = (
    ("opened a bakery", "The shop sells bread and cake every morning."),
    ("won a chess game", "The final lasted for more than six hours."),
    ("found a lost dog", "The animal had been missing for two weeks."),
    ("planted a forest", "The first trees came from a school garden."),
    ("built a wooden boat", "The work took three winters in a cold barn."),
    ("wrote a song", "The tune was played at a wedding in spring."),
)
_FILLERS = (
    "The weather was mild that day.", "Many people came to look.", "A local paper told the story first.",
    "The mayor sent a short letter.", "Children asked a lot of questions.", "It was not easy, friends say.",
)  # fmt: skip
_REACTIONS = (
    ("Neighbors were proud.", "Neighbors are proud"),
    ("The family was surprised.", "Family is surprised"),
    ("The town plans a party.", "Town plans a party"),
)


def miniature(rng: random.Random) -> Iterator[Row]:
    """Short news with fillers between what matters: who did what and where, and how it was received."""
    while True:
        name, town = rng.choice(_NAMES), rng.choice(_TOWNS)
        (event, detail), (reaction, short) = rng.choice(_EVENTS), rng.choice(_REACTIONS)
        fillers = rng.sample(_FILLERS, 2)
        sentences = [f"{name} has {event} in {town}.", fillers[0], detail, reaction, fillers[1]]
        yield {
            "prompt": " ".join(sentences),
            "references": [f"{name} {event} in {town} .\n{short} ."],
        }


TASK = Task(
    name="cnndm",
    summary="The highlights of a news article.",
    hub=HubData(
        "abisee/cnn_dailymail",
        {"train": Portion("train"), "validation": Portion("validation"), "test": Portion("test")},
        {"name": "3.0.0", "revision": "96df5e686bee6baa90b8bee7c28b81fa3fa6223d"},
        {"train": 287_113, "validation": 13_368, "test": 11_490},
    ),
    rows=rows,
    miniature=miniature,
    files="cnn_dailymail",
    prompt_template="Summarize: {prompt}",
    response_length=100,
    rewards=("meteor",),
    metrics=(
        # T5 writes one line, and the references have a line for each highlight.
        {"name": "rouge", "split_sentences": True}, "meteor", "bleu",
        {"name": "bertscore", "model": "FacebookAI/roberta-large", "layer": 17},
        {"name": "summac", "model": "tals/albert-xlarge-vitaminc-mnli"},
    ),
)  # fmt: skip
