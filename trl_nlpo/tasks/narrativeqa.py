"""NarrativeQA: answer a question about a story's summary (Kocisky et al. 2018)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from .base import HubData, Portion, Row, Task


def rows(questions: Iterable[Row]) -> Iterator[Row]:
    """Question, newline, summary; all answers are references."""
    for row in questions:
        question, story = row["question"]["text"], row["document"]["summary"]["text"]
        yield {
            "prompt": f"{question}\n{story}",
            "references": [answer["text"] for answer in row["answers"]],
            "question": question,
            "story": story,
        }


def prepare(row: Row) -> Row:
    r"""Prompt and answers as UnifiedQA was trained on: in lower case, `question \n story` with backslash and n.

    Rows of files have the question as the first line of their prompt, unless they have `question` and `story`.
    """
    first, _, rest = str(row["prompt"]).partition("\n")
    question, story = row.get("question") or first, row.get("story") or rest
    answers = row.get("references")
    lowered = [text.lower().strip() for text in ([answers] if isinstance(answers, str) else answers or [])]
    prompt = f"{question.strip()} \\n {story.strip()}".lower()
    return {**row, "prompt": prompt, **({"references": lowered} if lowered else {})}


_NAMES = ("Anna", "Peter", "Clara", "Simon", "Julia", "Oscar", "Helen", "Martin")
_THINGS = ("ring", "letter", "key", "lamp", "crown", "map", "coin", "cup")
_PLACES = ("kitchen", "garden", "tower", "cellar", "chapel", "stable", "library", "boat")


def miniature(rng: random.Random) -> Iterator[Row]:
    """Three people hide or give three things; the question is about one of them."""
    while True:
        names, things, places = rng.sample(_NAMES, 4), rng.sample(_THINGS, 3), rng.sample(_PLACES, 3)
        sentences = [
            f"{name} hid the {thing} in the {place}."
            for name, thing, place in zip(names[:3], things, places, strict=True)
        ]
        sentences.append(f"Then {names[3]} left the village.")
        asked = rng.randrange(3)
        if rng.random() < 0.5:
            question, answers = f"Where is the {things[asked]}?", [f"In the {places[asked]}.", f"The {places[asked]}."]
        else:
            question, answers = f"Who hid the {things[asked]}?", [f"{names[asked]}.", f"It was {names[asked]}."]
        story = " ".join(sentences)
        yield {"prompt": f"{question}\n{story}", "references": answers, "question": question, "story": story}


TASK = Task(
    name="narrativeqa",
    summary="Answer a question about a story.",
    hub=HubData(
        "deepmind/narrativeqa",
        {"train": Portion("train"), "validation": Portion("validation"), "test": Portion("test")},
        {"revision": "2e643e7363944af1c33a652d1c87320d0871c4e4"},
        {"train": 32_747, "validation": 3_461, "test": 10_557},
    ),
    rows=rows,
    miniature=miniature,
    prepare=prepare,
    files="narrativeqa",
    response_length=50,
    model_name_or_path="allenai/unifiedqa-t5-base",
    rewards=("rougeL",),
    metrics=(
        "rouge", "meteor", {"name": "bleu", "reference_length": "shortest"},
        {"name": "bertscore", "model": "FacebookAI/roberta-large", "layer": 17},
    ),
)  # fmt: skip
