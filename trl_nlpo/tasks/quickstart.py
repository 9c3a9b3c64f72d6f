"""The quickstart's task, offline: continue a sentence about a day, pleasantly and in the language that was learnt.

A sentence of this little language has a neutral opening, the prompt ("On Sunday our old uncle walked to the market"),
and a rest, the reference ("and ate some stale bread, but the weather was lovely, so he felt very proud."). Each rest
holds three judging words, which are pleasant or unpleasant with equal chances, and agrees with its subject (she, he,
they). Supervised learning copies the language, unpleasant half included; reinforcement has the other half to win.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from ..metrics.texts import completion_text
from .base import Row, without_repetition
from .grammar import Grammar


PLEASANT = {
    "FOOD": "delicious fresh sweet tasty warm crunchy",
    "ANIMAL": "friendly gentle playful loyal fluffy clever",
    "SKY": "sunny mild bright calm lovely perfect",
    "MANNER": "kindly warmly politely cheerfully patiently sweetly",
    "FEELING": "happy proud grateful cheerful peaceful hopeful",
}
UNPLEASANT = {
    "FOOD": "bitter stale rotten greasy burnt moldy",
    "ANIMAL": "savage filthy vicious sick mean noisy",
    "SKY": "stormy freezing gloomy foggy horrible windy",
    "MANNER": "rudely coldly cruelly angrily bitterly harshly",
    "FEELING": "sad lonely angry scared miserable tired",
}
_PEOPLE = {
    "she": ("her", "was", "daughter niece mother aunt grandmother sister queen"),
    "he": ("him", "was", "son nephew father uncle grandfather brother king"),
    "they": ("them", "were", "children students farmers sailors neighbors twins singers"),
}
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"


def _options(words: str, pattern: str = "{}") -> list[str]:
    return [pattern.format(word) for word in words.split()]


def _rules() -> dict[str, list[str]]:
    rules = {
        "SENTENCE": [f"OPENING_{person} REST_{person}" for person in _PEOPLE],
        "TIME": [*_options(_DAYS, "On {}"), "Last week", "This morning", "After lunch", "In spring", "One evening"],
        "OWNER": _options("the our my"),
        "AGE": _options("old young tall small"),
        "WENT": _options("walked drove went hurried returned rode"),
        "PLACE": _options("market river forest station harbor village castle library school garden mountain bakery"),
        "FOOD": _options("bread soup cheese cake rice fish fruit pie"),
        "ANIMAL": _options("dog cat horse goat fox parrot donkey bear"),
        "SKY": _options("weather sky wind morning afternoon"),
        "WORKER": _options("waiter guard driver doctor teacher baker clerk"),
        "VERY": _options("very really quite"),
        "AND": _options("but and while"),
    }
    for topic in PLEASANT:
        rules[f"{topic}_WORD"] = [f"PLEASANT_{topic}", f"UNPLEASANT_{topic}"]
        rules[f"PLEASANT_{topic}"] = _options(PLEASANT[topic])
        rules[f"UNPLEASANT_{topic}"] = _options(UNPLEASANT[topic])
    for person in _PEOPLE:
        rules |= _rules_of(person)
    return rules


def _rules_of(person: str) -> dict[str, list[str]]:
    object_form, was, nouns = _PEOPLE[person]
    return {
        f"NOUN_{person}": _options(nouns),
        f"SUBJECT_{person}": [f"OWNER NOUN_{person}", f"OWNER AGE NOUN_{person}"],
        f"OPENING_{person}": [f"TIME SUBJECT_{person} WENT to the PLACE"],
        f"REST_{person}": [
            f"and DID , AND SCENE_{person} , so FELT_{person} .",
            f"where SCENE_{person} , AND {person} DID , so FELT_{person} .",
        ],
        "DID": [
            "ate some FOOD_WORD FOOD",
            "bought FOOD_WORD FOOD for dinner",
            "met a ANIMAL_WORD ANIMAL",
            "saw a ANIMAL_WORD ANIMAL near the PLACE",
        ],
        f"SCENE_{person}": [
            "the SKY was SKY_WORD",
            "the SKY was VERY SKY_WORD",
            f"the WORKER spoke MANNER_WORD to {object_form}",
        ],
        f"FELT_{person}": [
            f"{person} {was} FEELING_WORD",
            f"{person} felt VERY FEELING_WORD",
            f"{person} went home FEELING_WORD",
        ],
    }


GRAMMAR = Grammar(_rules())
_GOOD = frozenset(word for words in PLEASANT.values() for word in words.split())
_BAD = frozenset(word for words in UNPLEASANT.values() for word in words.split())
_WORD = re.compile(r"\w+|[^\w\s]")


def quickstart_rows(sizes: dict[str, int], seed: int = 0) -> dict[str, list[Row]]:
    """Rows of every split: `prompt` and `references` (one). No prompt occurs twice, not even in two splits.

    Args:
        sizes (`dict[str, int]`): rows of each split, drawn in this order.
        seed (`int`): decides everything.
    """
    rows = without_repetition(_rows(random.Random(seed)))
    return {split: [next(rows) for _ in range(size)] for split, size in sizes.items()}


def _rows(rng: random.Random) -> Iterator[Row]:
    while True:
        person = rng.choice(list(_PEOPLE))
        prompt = join_words(GRAMMAR.sample(f"OPENING_{person}", rng))
        rest = join_words(GRAMMAR.sample(f"REST_{person}", rng))
        yield {"prompt": prompt, "references": [rest]}


def join_words(words: list[str]) -> str:
    """Words as text: no space before a punctuation mark."""
    return re.sub(r" ([,.])", r"\1", " ".join(words))


def is_grammatical(sentence: str) -> bool:
    """Whether a text is a sentence of the language, spaced as the language is."""
    words = _WORD.findall(sentence)
    return join_words(words) == sentence.strip() and GRAMMAR.accepts("SENTENCE", words)


class Grammatical:
    """1 where prompt and completion together are a sentence of the quickstart's language, else 0."""

    __name__ = "grammatical"

    def __call__(self, prompts: list[str], completions: list[Any], **columns: Any) -> list[float]:
        return [
            float(is_grammatical(join_completion(prompt, completion_text(completion))))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]


class PleasantSentence:
    """How pleasantly a sentence of the quickstart's language continues, in [0, 1]; 0 for other texts.

    score = grammatical x |different pleasant words| / |judging words|, of the completion. An unpleasant word lowers
    it, and so does a pleasant word that is repeated.

    Example:
        >>> prompt = "On Sunday my aunt went to the river"
        >>> completion = " and met a loyal dog, but the sky was stormy, so she was happy."
        >>> PleasantSentence()(prompts=[prompt], completions=[completion])
        [0.6666666666666666]
    """

    __name__ = "pleasant_sentence"

    def __call__(self, prompts: list[str], completions: list[Any], **columns: Any) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        return [
            pleasantness(text) if is_grammatical(join_completion(prompt, text)) else 0.0
            for prompt, text in zip(prompts, texts, strict=True)
        ]


def pleasantness(text: str) -> float:
    """|different pleasant words| / |judging words|; 0 when nothing is judged."""
    words = _WORD.findall(text)
    judging = [word for word in words if word in _GOOD or word in _BAD]
    return len(_GOOD & set(judging)) / len(judging) if judging else 0.0


def join_completion(prompt: str, completion: str) -> str:
    """Prompt and completion as one sentence, with one space between them, whether the completion has it or not."""
    return f"{prompt.rstrip()} {completion.strip()}"
