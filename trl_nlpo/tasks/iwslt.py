"""IWSLT 2017: translate talks from English to German (Cettolo et al. 2017)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from .base import HubData, Portion, Row, Task


def rows(pairs: Iterable[Row]) -> Iterator[Row]:
    """English as the prompt, German as the reference."""
    for pair in pairs:
        yield {"prompt": pair["translation"]["en"], "references": [pair["translation"]["de"]]}


_PEOPLE = {"man": "dorl", "woman": "felm", "child": "ging", "king": "vost", "friend": "merk", "teacher": "sulb"}
_THINGS = {"house": "halb", "book": "prun", "bread": "teif", "river": "wasch", "horse": "kolt", "song": "lind"}
_VERBS = {"sees": "zint", "loves": "haret", "finds": "bolt", "paints": "mirgt", "sells": "rott", "hears": "ulmt"}
_ADJECTIVES = {"old": "urm", "small": "pix", "red": "garn", "quiet": "sempf", "new": "olb"}
_TIMES = {"today": "hort", "often": "ymst", "never": "nopt", "again": "wend"}


def miniature(rng: random.Random) -> Iterator[Row]:
    """From English to an invented language that puts the time first, adjectives last and the verb at the end."""
    while True:
        person, thing, verb = rng.choice(list(_PEOPLE)), rng.choice(list(_THINGS)), rng.choice(list(_VERBS))
        first, second, time = (rng.choice(list(words)) for words in (_ADJECTIVES, _ADJECTIVES, _TIMES))
        yield {
            "prompt": f"The {first} {person} {verb} the {second} {thing} {time}.",
            "references": [
                f"{_TIMES[time].capitalize()} da {_PEOPLE[person]} {_ADJECTIVES[first]} "
                f"da {_THINGS[thing]} {_ADJECTIVES[second]} {_VERBS[verb]}."
            ],
        }


TASK = Task(
    name="iwslt",
    summary="Translate from English to German.",
    hub=HubData(
        "IWSLT/iwslt2017",
        {"train": Portion("train"), "validation": Portion("validation"), "test": Portion("test")},
        # Not pinned: of the export's commits only the first digits, fb29262 and 9ca4808, are known to us.
        {
            "revision": "refs/convert/parquet",
            "data_files": {split: f"iwslt2017-en-de/{split}/*.parquet" for split in ("train", "validation", "test")},
        },
        {"train": 206_112, "validation": 888, "test": 8_079},
    ),
    rows=rows,
    miniature=miniature,
    files="iwslt2017_en_de",
    prompt_template="translate English to German: {prompt}",
    max_prompt_length=128,
    response_length=128,
    rewards=("ter",),
    metrics=(
        {"name": "sacrebleu", "tokenize": "intl"}, "chrf", "ter", "meteor", {"name": "rouge", "use_stemmer": False},
        {"name": "bertscore", "model": "google-bert/bert-base-multilingual-cased", "layer": 9},
    ),
    # The judge of naturalness would have to read German: the diversity of the text is left.
    naturalness=("diversity",),
    offline_rewards=("ter",),
)  # fmt: skip
