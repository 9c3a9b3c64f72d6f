"""DailyDialog: the next utterance of a conversation, with the intent that a person had (Li et al. 2017)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from .base import HubData, Portion, Row, Task


CONTEXT = 5
"""Utterances before the one that is asked for."""

END = "<EOU>"
"""Ends an utterance."""


def rows(dialogues: Iterable[Row]) -> Iterator[Row]:
    """Every utterance that has five before it is a reference; `act` is its intent, 1 to 4, `emotion` 0 to 6."""
    for dialogue in dialogues:
        utterances = [utterance.strip() for utterance in dialogue["dialog"]]
        for place in range(CONTEXT, len(utterances)):
            yield {
                "prompt": "".join(f"{utterance} {END} " for utterance in utterances[place - CONTEXT : place]).strip(),
                "references": [utterances[place]],
                "act": dialogue["act"][place],
                "emotion": dialogue["emotion"][place],
            }


_PLACES = ("cinema", "park", "museum", "market", "lake", "theater")
_DAYS = ("today", "tomorrow", "on Friday", "on Sunday", "tonight")
_FOODS = ("soup", "fish", "pizza", "salad", "rice", "cake")
_INFORM, _QUESTION, _DIRECTIVE, _COMMISSIVE = 1, 2, 3, 4


def miniature(rng: random.Random) -> Iterator[Row]:
    """Appointments: each turn follows from those before it; the reference is one of the last five."""
    while True:
        place, day, food, other = rng.choice(_PLACES), rng.choice(_DAYS), rng.choice(_FOODS), rng.choice(_FOODS)
        turns = [
            (f"Hello, what will you do {day} ?", _QUESTION),
            ("I do not know yet .", _INFORM),
            (f"Let us go to the {place} {day} .", _DIRECTIVE),
            (f"I will meet you at the {place} .", _COMMISSIVE),
            (f"Do you like {food} ?", _QUESTION),
            (f"I like {food} very much .", _INFORM),
            (f"Please bring some {food} and {other} .", _DIRECTIVE),
            (f"I will bring some {food} and {other} .", _COMMISSIVE),
            (f"When shall we meet at the {place} ?", _QUESTION),
            (f"We can meet {day} .", _INFORM),
        ]
        dialogue = {
            "dialog": [text for text, _ in turns],
            "act": [act for _, act in turns],
            "emotion": [0] * len(turns),
        }
        yield rng.choice(list(rows([dialogue])))


_INTENT = {"name": "intent", "model": "rajkumarrrk/roberta-daily-dialog-intent-classifier"}

TASK = Task(
    name="dailydialog",
    summary="The next utterance of a conversation.",
    hub=HubData(
        "li2017dailydialog/daily_dialog",
        {"train": Portion("train"), "validation": Portion("validation"), "test": Portion("test")},
        # Not pinned: of the export's commit only the first digits, 469b711, are known to us.
        {
            "revision": "refs/convert/parquet",
            "data_files": {split: f"default/{split}/*.parquet" for split in ("train", "validation", "test")},
        },
        {"train": 11_118, "validation": 1_000, "test": 1_000},
    ),
    rows=rows,
    miniature=miniature,
    files="daily_dialog",
    max_prompt_length=128,
    prompt_truncation_side="left",
    response_length=20,
    model_name_or_path="openai-community/gpt2",
    rewards=({**_INTENT, "weight": 0.5}, {"name": "meteor", "weight": 0.5}),
    metrics=(
        _INTENT, "meteor", "rouge", "bleu", {"name": "sacrebleu", "tokenize": "intl"},
        {"name": "bertscore", "model": "FacebookAI/roberta-large", "layer": 17},
    ),
)  # fmt: skip
