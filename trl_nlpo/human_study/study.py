"""A study's folder: what is shown, to whom, and what they answered, in one SQLite file that only grows."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..metrics.texts import completion_text, prompt_text
from ..storage.append_only import AppendOnlyFile
from ..storage.files import check_folder, read_json, replace_file


KINDS = ("best_of_k", "pairwise", "likert")
SETTINGS_NAME, FILE_NAME = "study.json", "study.sqlite"
TIE = -1
"""The answer to a pair whose completions are as good as each other."""

_APART = 5
"""Questions that lie between an answer and its repetition, at least."""

_RESERVED = 600.0
"""Seconds for which a question that was shown, and is not answered, keeps its place."""

_TABLES = {
    "items": "key TEXT NOT NULL UNIQUE, prompt_key TEXT NOT NULL, prompt TEXT NOT NULL, completions TEXT NOT NULL, "
    "systems TEXT NOT NULL, gold TEXT",
    "shown": "item INTEGER NOT NULL REFERENCES items (id), annotator TEXT NOT NULL, sequence TEXT NOT NULL, "
    "is_repeat INTEGER NOT NULL, at REAL NOT NULL",
    "answers": "shown INTEGER NOT NULL REFERENCES shown (id), answer TEXT NOT NULL, at REAL NOT NULL",
    "undone": "answer INTEGER NOT NULL UNIQUE REFERENCES answers (id), at REAL NOT NULL",
}


@dataclass
class StudySettings:
    """What people are asked."""

    kind: str = field(
        default="best_of_k",
        metadata={
            "help": "best_of_k: one of several completions; pairwise: one of two, or a tie; likert: one completion "
            "on a scale per criterion.",
            "choices": list(KINDS),
        },
    )
    question: str = field(default="Which text is best?", metadata={"help": "What stands above the completions."})
    criteria: dict[str, str] = field(
        default_factory=lambda: {"best": "Which text is best?"},
        metadata={"help": "Of likert, name and wording of each scale; of the other kinds one name and its wording."},
    )
    scale: list[str] = field(
        default_factory=lambda: ["very bad", "bad", "neither", "good", "very good"],
        metadata={"help": "Of likert, the words for 1, 2 and so on."},
    )
    annotators_per_item: int = field(default=1, metadata={"help": "How many people judge each item."})
    repeat_share: float = field(
        default=0.0,
        metadata={"help": "Share of a person's answers that are asked for once more, from 0 to 0.5: how far they "
                  "agree with themselves."},
    )  # fmt: skip
    gold_every: int = field(
        default=10, metadata={"help": "After so many answers comes an item whose answer is known, where there is one."}
    )
    seed: int = field(default=0, metadata={"help": "Decides the order of items and of completions."})

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"kind is {self.kind!r}, but must be one of {', '.join(KINDS)}.")
        if self.annotators_per_item < 1:
            raise UserError(f"annotators_per_item is {self.annotators_per_item}, but must be 1 or more.")
        if not 0 <= self.repeat_share <= 0.5:
            raise UserError(f"repeat_share is {self.repeat_share}, but must be from 0 to 0.5.")
        if self.gold_every < 1:
            raise UserError(f"gold_every is {self.gold_every}, but must be 1 or more.")
        if not self.criteria or (self.kind != "likert" and len(self.criteria) != 1):
            raise UserError(f"criteria has {len(self.criteria)} entries; a choice has one, and ratings one or more.")
        if self.kind == "likert" and len(self.scale) < 2:
            raise UserError("scale needs two words or more.")


@dataclass(frozen=True)
class Question:
    """What one person sees.

    Attributes:
        shown (`int`): its number.
        prompt (`str`), completions (`tuple[str, ...]`): in the order on the screen.
        is_repeat (`bool`)
    """

    shown: int
    prompt: str
    completions: tuple[str, ...]
    is_repeat: bool


class Study:
    """Questions and answers of a study. Several processes and people at once are fine.

    Every answer is a row of its own, on disk when [`Study.answer`] returns; undoing one adds a row, too. The order of
    completions on the screen is random and recorded.

    Args:
        folder (`str` or `Path`): that [`create`] made.

    Raises:
        UserError: there is no study, or its file cannot be used.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / SETTINGS_NAME
        if not path.is_file():
            raise UserError(f"{folder} holds no study: make one with trl-nlpo study create.")
        self.settings = StudySettings(**read_json(path, "create the study again"))
        self.reserved = _RESERVED
        self._file = AppendOnlyFile(self.folder / FILE_NAME, _TABLES)

    def next_question(self, annotator: str) -> Question | None:
        """What this person is asked next: the same again until it is answered. None when there is nothing left."""
        with self._file.transaction() as connection:
            history = _History(connection, annotator)
            if history.open is not None:
                return self._question(connection, history.open)
            chosen = self._choose(connection, history)
            if chosen is None:
                return None
            item, is_repeat = chosen
            number = connection.execute("SELECT COUNT(*) FROM shown").fetchone()[0]
            (completions,) = connection.execute("SELECT completions FROM items WHERE id = ?", (item,)).fetchone()
            order = list(range(len(json.loads(completions))))
            random.Random(f"{self.settings.seed} {annotator} {number}").shuffle(order)
            cursor = connection.execute(
                "INSERT INTO shown (item, annotator, sequence, is_repeat, at) VALUES (?, ?, ?, ?, ?)",
                (item, annotator, json.dumps(order), int(is_repeat), time.time()),
            )
            return self._question(connection, int(cursor.lastrowid or 0))

    def _question(self, connection: sqlite3.Connection, shown: int) -> Question:
        prompt, completions, order, is_repeat = connection.execute(
            "SELECT prompt, completions, sequence, is_repeat FROM shown JOIN items ON items.id = shown.item "
            "WHERE shown.id = ?",
            (shown,),
        ).fetchone()
        texts = list(map(completion_text, json.loads(completions)))
        ordered = tuple(texts[index] for index in json.loads(order))
        return Question(shown, prompt_text(json.loads(prompt)), ordered, bool(is_repeat))

    def _choose(self, connection: sqlite3.Connection, history: _History) -> tuple[int, bool] | None:
        """The next item, and whether it is asked again."""
        once = len(history.first)
        if len(history.repeated) < int(once * self.settings.repeat_share):
            old = [item for item in history.first[: max(once - _APART, 0)] if item not in history.repeated]
            if old:
                return old[0], True
        items = connection.execute("SELECT id, key, gold IS NOT NULL FROM items").fetchall()
        unseen = [row for row in items if row[0] not in set(history.first)]
        gold = [row for row in unseen if row[2]]
        if gold and once % self.settings.gold_every == self.settings.gold_every - 1:
            return _in_own_order(gold, history.annotator)[0], False
        taken = self._taken(connection, history.annotator)
        free = [row for row in unseen if not row[2] and taken[row[0]] < self.settings.annotators_per_item]
        if free:
            # Items that somebody has begun with are finished first.
            most = max(taken[row[0]] for row in free)
            return _in_own_order([row for row in free if taken[row[0]] == most], history.annotator)[0], False
        return (_in_own_order(gold, history.annotator)[0], False) if gold else None

    def _taken(self, connection: sqlite3.Connection, annotator: str) -> Counter[int]:
        """By how many others each item was judged, or is being judged: one who left does not keep it from the rest."""
        rows = connection.execute(
            "SELECT DISTINCT item, annotator FROM shown LEFT JOIN answers ON answers.shown = shown.id "
            "AND answers.id NOT IN (SELECT answer FROM undone) "
            "WHERE is_repeat = 0 AND annotator != ? AND (answers.id IS NOT NULL OR shown.at > ?)",
            (annotator, time.time() - self.reserved),
        ).fetchall()
        return Counter(item for item, _ in rows)

    def answer(self, annotator: str, shown: int, answer: Any) -> None:
        """Write down what a person said.

        Args:
            annotator (`str`), shown (`int`): of the question.
            answer: the place on the screen of the chosen one, from 0, or `TIE` of a pair; of `likert` a number from 1
                for each criterion.

        Raises:
            UserError: no such question of this person, or an answer that cannot be. A second answer to one question is
                not taken, as a second click is none.
        """
        with self._file.transaction() as connection:
            found = connection.execute("SELECT annotator, sequence FROM shown WHERE id = ?", (shown,)).fetchone()
            if found is None or found[0] != annotator:
                raise UserError(f"there is no question {shown} of {annotator!r}.")
            order = json.loads(found[1])
            self._check(answer, len(order))
            value = answer if self.settings.kind == "likert" or answer == TIE else order[answer]
            if _History(connection, annotator).open != shown:
                return
            connection.execute(
                "INSERT INTO answers (shown, answer, at) VALUES (?, ?, ?)", (shown, json.dumps(value), time.time())
            )

    def _check(self, answer: Any, size: int) -> None:
        if self.settings.kind == "likert":
            top = len(self.settings.scale)
            if not isinstance(answer, dict) or set(answer) != set(self.settings.criteria):
                raise UserError(f"the answer must rate {', '.join(self.settings.criteria)}.")
            for name, value in answer.items():
                if not _is_whole(value, 1, top):
                    raise UserError(f"{name} is {value!r}, but must be a whole number from 1 to {top}.")
            return
        lowest = TIE if self.settings.kind == "pairwise" else 0
        if not _is_whole(answer, lowest, size - 1):
            raise UserError(f"the choice is {answer!r}, but must be a whole number from {lowest} to {size - 1}.")

    def undo(self, annotator: str) -> bool:
        """Take back a person's last answer, whose question comes again; returns whether there was one."""
        with self._file.transaction() as connection:
            last = _History(connection, annotator).last_answer
            if last is None:
                return False
            connection.execute("INSERT INTO undone (answer, at) VALUES (?, ?)", (last, time.time()))
            return True

    def progress(self, annotator: str) -> tuple[int, int]:
        """Answers of this person, and how many there would be if nobody else took what is left."""
        with self._file.transaction() as connection:
            history = _History(connection, annotator)
            answered = len(history.first) + len(history.repeated)
            taken = self._taken(connection, annotator)
            items = connection.execute("SELECT id, gold IS NOT NULL FROM items").fetchall()
            open_to_me = [
                item
                for item, is_gold in items
                if item not in set(history.first) and (is_gold or taken[item] < self.settings.annotators_per_item)
            ]
        once = len(history.first) + len(open_to_me)
        return answered, once + min(int(once * self.settings.repeat_share), max(once - _APART, 0))

    def items(self) -> list[dict[str, Any]]:
        """Every item as [`create`] takes it: `item`, `prompt_key`, `prompt`, `completions`, `systems` and `gold`."""
        with self._file.transaction() as connection:
            rows = connection.execute(
                "SELECT key, prompt_key, prompt, completions, systems, gold FROM items ORDER BY id"
            ).fetchall()
        names = ("prompt", "completions", "systems", "gold")
        return [
            {"item": key, "prompt_key": prompt_key}
            | {name: None if value is None else json.loads(value) for name, value in zip(names, values, strict=True)}
            for key, prompt_key, *values in rows
        ]

    def judgements(self) -> list[dict[str, Any]]:
        """Every answer that stands, as rows that [`read_judgements`] reads and `study analyse` takes."""
        with self._file.transaction() as connection:
            rows = connection.execute(
                "SELECT items.key, prompt_key, systems, gold, annotator, sequence, is_repeat, answers.answer, "
                "answers.at - shown.at FROM answers JOIN shown ON shown.id = answers.shown "
                "JOIN items ON items.id = shown.item "
                "WHERE answers.id NOT IN (SELECT answer FROM undone) ORDER BY answers.id"
            ).fetchall()
        found: list[dict[str, Any]] = []
        for key, prompt, systems, gold, annotator, order, is_repeat, answer, seconds in rows:
            common = {"item": key, "prompt": prompt, "annotator": annotator, "is_repeat": bool(is_repeat)}
            more = {"order": json.loads(order), "seconds": round(seconds, 1)}
            right = None if gold is None else json.loads(gold)
            said = json.loads(answer)
            if self.settings.kind == "likert":
                found += [
                    {**common, "system": json.loads(systems)[0], "criterion": name, "rating": value,
                     "gold": None if right is None else right.get(name), **more}
                    for name, value in said.items()
                ]  # fmt: skip
            else:
                (criterion,) = self.settings.criteria
                choice = None if said == TIE else said
                found.append({**common, "systems": json.loads(systems), "criterion": criterion, "choice": choice,
                              "gold": right, **more})  # fmt: skip
        return found


def preferences_of(study: Study) -> list[dict[str, Any]]:
    """What people chose or rated, as rows that `trl-nlpo train-reward` learns from.

    Of choices one row each (`prompt`, `completions`, `choice`), ties left out; of ratings one row for each person,
    prompt and criterion with two completions or more (`prompt`, `completions`, `ratings`). Repeats and gold items are
    left out.
    """
    items = {item["item"]: item for item in study.items()}
    rows = [row for row in study.judgements() if not row["is_repeat"] and row["gold"] is None]
    if study.settings.kind != "likert":
        return [
            {"prompt": items[row["item"]]["prompt"], "completions": items[row["item"]]["completions"],
             "choice": row["choice"]}
            for row in rows
            if row["choice"] is not None
        ]  # fmt: skip
    together: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        together.setdefault((row["annotator"], row["prompt"], row["criterion"]), []).append(row)
    return [
        {
            "prompt": items[rated[0]["item"]]["prompt"],
            "completions": [items[row["item"]]["completions"][0] for row in rated],
            "ratings": [row["rating"] for row in rated],
        }
        for rated in together.values()
        if len(rated) > 1
    ]


class _History:
    """What a person was shown and answered, in that order."""

    def __init__(self, connection: sqlite3.Connection, annotator: str):
        self.annotator = annotator
        rows = connection.execute(
            "SELECT shown.id, shown.item, shown.is_repeat, MAX(answers.id) FROM shown LEFT JOIN answers ON "
            "answers.shown = shown.id AND answers.id NOT IN (SELECT answer FROM undone) "
            "WHERE annotator = ? GROUP BY shown.id ORDER BY shown.id",
            (annotator,),
        ).fetchall()
        self.open = next((shown for shown, _, _, answer in rows if answer is None), None)
        answered = [row for row in rows if row[3] is not None]
        self.first = [item for _, item, is_repeat, _ in answered if not is_repeat]
        self.repeated = {item for _, item, is_repeat, _ in answered if is_repeat}
        self.last_answer = max((answer for _, _, _, answer in answered), default=None)


def _in_own_order(rows: Sequence[tuple[int, str, int]], annotator: str) -> list[int]:
    """Items in an order of this person's own, so that not everybody tires of the same ones."""
    keyed = sorted((hashlib.sha256(f"{annotator} {key}".encode()).hexdigest(), item) for item, key, _ in rows)
    return [item for _, item in keyed]


def create(folder: str | Path, settings: StudySettings, items: Sequence[dict[str, Any]]) -> Study:
    """Make a study.

    Args:
        folder (`str` or `Path`): that holds none.
        settings ([`StudySettings`])
        items: each with `prompt`, `completions`, `systems` (one each); and `item`, `prompt_key`, `gold`.

    Raises:
        UserError: there is a study already, no items, or items that do not fit the kind.
    """
    path = Path(folder)
    if (path / SETTINGS_NAME).exists() or (path / FILE_NAME).exists():
        raise UserError(f"{folder} holds a study already: take another folder.")
    if not items:
        raise UserError("a study needs items to judge.")
    rows = [_item_row(item, number, settings) for number, item in enumerate(items)]
    if len({row[0] for row in rows}) < len(rows):
        raise UserError("two items have the same name.")
    check_folder(path, "the study's folder")
    path.mkdir(parents=True, exist_ok=True)
    with AppendOnlyFile(path / FILE_NAME, _TABLES).transaction() as connection:
        connection.executemany(
            "INSERT INTO items (key, prompt_key, prompt, completions, systems, gold) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
    replace_file(path / SETTINGS_NAME, json.dumps(asdict(settings), indent=2, ensure_ascii=False) + "\n")
    return Study(path)


def _item_row(item: dict[str, Any], number: int, settings: StudySettings) -> tuple[Any, ...]:
    completions, systems = item["completions"], item["systems"]
    wanted = {"likert": "one completion", "pairwise": "two completions", "best_of_k": "two completions or more"}
    fits = {"likert": len(completions) == 1, "pairwise": len(completions) == 2, "best_of_k": len(completions) > 1}
    if not fits[settings.kind] or len(systems) != len(completions):
        raise UserError(
            f"item {number + 1} has {len(completions)} completions of {len(systems)} systems; {settings.kind} shows "
            f"{wanted[settings.kind]}, with a system each."
        )
    gold = _gold(item.get("gold"), len(completions), settings, f"item {number + 1}")
    # Completions of one prompt belong together, whatever they are called.
    prompt_key = item.get("prompt_key", prompt_text(item["prompt"]))
    texts = (item["prompt"], list(completions), list(systems))
    return (
        str(item.get("item", number)),
        str(prompt_key),
        *(json.dumps(value, ensure_ascii=False) for value in texts),
        None if gold is None else json.dumps(gold),
    )


def _gold(gold: Any, size: int, settings: StudySettings, at: str) -> Any:
    """The right answer, as people give it; None where there is none.

    Raises:
        UserError: it is no answer to the question.
    """
    if gold is None:
        return None
    if settings.kind != "likert":
        if not _is_whole(gold, 0, size - 1):
            raise UserError(f"{at}: gold is {gold!r}, but must be a whole number from 0 to {size - 1}.")
        return gold
    rated = gold if isinstance(gold, dict) else dict.fromkeys(settings.criteria, gold)
    top = len(settings.scale)
    if not all(name in settings.criteria and _is_whole(value, 1, top) for name, value in rated.items()):
        raise UserError(
            f"{at}: gold is {gold!r}, but must be a whole number from 1 to {top}, or one for each of "
            f"{', '.join(settings.criteria)}."
        )
    return rated


def _is_whole(value: Any, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest
