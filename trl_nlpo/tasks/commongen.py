"""CommonGen: a sentence out of a few concepts (Lin et al. 2020)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import groupby

from .base import HubData, Portion, Row, Task


def rows(sentences: Iterable[Row]) -> Iterator[Row]:
    """The Hub has a row per sentence; here a set of concepts has all its sentences."""
    for _, group in groupby(sentences, key=lambda row: row["concept_set_idx"]):
        same_set = list(group)
        concepts = list(same_set[0]["concepts"])
        targets = [row["target"] for row in same_set if row["target"]]
        if targets:
            yield {"prompt": " ".join(concepts), "references": targets, "concepts": concepts}


_ACTORS = ("dog", "boy", "girl", "farmer", "player", "nurse", "horse", "bird", "sailor", "child", "artist", "cook")
_ACTIONS = {
    "throw": ("throws", ("ball", "stick", "stone", "frisbee")),
    "carry": ("carries", ("box", "basket", "bucket", "bag")),
    "paint": ("paints", ("wall", "picture", "fence", "door")),
    "watch": ("watches", ("train", "boat", "game", "parade")),
    "wash": ("washes", ("car", "dish", "window", "shirt")),
    "eat": ("eats", ("apple", "sandwich", "cake", "soup")),
}
_PLACES = ("park", "garden", "street", "beach", "kitchen", "field", "river", "school")


def miniature(rng: random.Random) -> Iterator[Row]:
    """Who, what, to what and where, in the order of the alphabet; three sentences that say it."""
    while True:
        actor, action, place = rng.choice(_ACTORS), rng.choice(list(_ACTIONS)), rng.choice(_PLACES)
        third_person, things = _ACTIONS[action]
        thing = rng.choice(things)
        concepts = sorted([actor, action, thing, place])
        yield {
            "prompt": " ".join(concepts),
            "references": [
                f"The {actor} {third_person} the {thing} near the {place}.",
                f"A {actor} {third_person} a {thing} in the {place}.",
                f"In the {place} a {actor} {third_person} the {thing}.",
            ],
            "concepts": concepts,
        }


TASK = Task(
    name="commongen",
    summary="A sentence that uses the given concepts.",
    # The test split has no targets: half of the validation split takes its place.
    hub=HubData(
        "allenai/common_gen",
        {
            "train": Portion("train"),
            "validation": Portion("validation", 0.0, 0.5),
            "test": Portion("validation", 0.5, 1.0),
        },
        # Not pinned: of the commit that has the Parquet files only the first digits, 6bcab1c, are known to us.
        rows={"train": 67_389, "validation": 4_018},
    ),
    rows=rows,
    miniature=miniature,
    files="commongen",
    prompt_template="generate a sentence with: {prompt}.",
    max_prompt_length=20,
    response_length=20,
    rewards=("meteor", "prompt_repetition"),
    metrics=(
        "rouge", {"name": "bleu3", "reference_length": "shortest"},
        {"name": "bleu4", "reference_length": "shortest"}, "meteor", "cider", "spice", "concept_coverage",
        {"name": "bertscore", "model": "FacebookAI/roberta-large", "layer": 17},
    ),
    offline_rewards=("concept_coverage", "rougeL"),
)  # fmt: skip
