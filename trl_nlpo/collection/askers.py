"""Who is asked which completion is best: a judge that is computed, or people, on a page or by files."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError, one_line
from ..human_study.page import serve
from ..human_study.study import SETTINGS_NAME, Study, StudySettings, create
from ..storage.files import replace_file
from ..storage.json_lines import json_line, read_json_lines
from .labels import Item, Labels


class Asker(Protocol):
    """Whoever answers."""

    def ask(self, items: Sequence[Item], labels: Labels) -> None:
        """Return when every question has an answer in `labels`; each is written as soon as it is known."""


class Judge:
    """Chooses what reward functions score highest, and errs as often as it is told: for tests and simulations.

    Args:
        functions, weights: reward functions with TRL's signature, and the weight of each.
        noise (`float`): share of questions that are answered by chance among all completions, the best one too.
        seed (`int`): with a question's round and place, what chance is.
    """

    name = "judge"

    def __init__(
        self, functions: Sequence[Callable[..., Any]], weights: Sequence[float], noise: float = 0.0, seed: int = 0
    ):
        if not 0.0 <= noise <= 1.0:
            raise UserError(f"noise is {noise}, but must be from 0 to 1.")
        self.functions, self.weights, self.noise, self.seed = functions, weights, noise, seed

    def ask(self, items: Sequence[Item], labels: Labels) -> None:
        for item, scores in zip(items, self.scores(items), strict=True):
            labels.add(item, self.name, self._choice(item, scores))

    def scores(self, items: Sequence[Item]) -> list[list[float]]:
        """The weighted score of every completion of every question; 0 where a function does not apply."""
        flat = [(item, completion) for item in items for completion in item.completions]
        names = {name for item in items for name in item.columns}
        columns = {name: [item.columns.get(name) for item, _ in flat] for name in names}
        totals = [0.0] * len(flat)
        for function, weight in zip(self.functions, self.weights, strict=True):
            if not weight:
                continue
            call = {"prompts": [item.prompt for item, _ in flat], "completions": [text for _, text in flat], **columns}
            totals = [total + weight * value for total, value in zip(totals, _numbers(function, call), strict=True)]
        rest = iter(totals)
        return [[next(rest) for _ in item.completions] for item in items]

    def _choice(self, item: Item, scores: list[float]) -> int:
        chance = random.Random(f"{self.seed} {item.id}")
        best = max(scores)
        # Of equals, one by chance.
        favourite = chance.choice([index for index, score in enumerate(scores) if score == best])
        return chance.randrange(len(scores)) if chance.random() < self.noise else favourite


def _numbers(function: Callable[..., Any], call: dict[str, Any]) -> list[float]:
    """What a reward function says of completions; 0 where it does not apply, the sum of rewards per token.

    Raises:
        UserError: it raised, or returned something else.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        values = [0.0 if value is None else value for value in function(**call)]
        numbers = [float(sum(value)) if isinstance(value, (list, tuple)) else float(value) for value in values]
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the judge's reward function {name!r} failed ({type(error).__name__}: {one_line(error, 200)}); as a "
            "judge it is given prompts, completions and the columns of the data."
        ) from error
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"the judge's reward function {name!r} returned a number that is not finite.")
    number = len(call["completions"])
    if len(numbers) != number:
        raise UserError(f"the judge's reward function {name!r} returned {len(numbers)} values for {number} texts.")
    return numbers


class People:
    """Serves a page where people choose, and waits until every question of the round has an answer.

    A round is a study of its own in `round-N`, which `trl-nlpo study serve` serves too while the run is stopped.

    Args:
        folder (`Path`): of the studies.
        report: told in a line where people can judge.
        question (`str`): what stands above the completions.
        host (`str`), port (`int`, *optional*), token (`str`, *optional*): as for [`serve`].
        poll (`float`): seconds between two looks.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[str], None],
        question: str = "Which text is best?",
        host: str = "127.0.0.1",
        port: int | None = None,
        token: str | None = None,
        poll: float = 1.0,
    ):
        self.folder, self.report, self.question, self.poll = folder, report, question, poll
        self.host, self.port, self.token = host, port, token

    def ask(self, items: Sequence[Item], labels: Labels) -> None:
        if not items:
            return
        study, by_key = self._study(items), {str(item.id): item for item in items}
        # An answer may be taken back until the page is closed.
        while not (rows := self._answers(study, by_key)):
            page = serve(study, self.host, self.port, self.token, waits=False)
            try:
                self.report(f"round {items[0].round}: {len(items)} questions; people can judge at {page.local_url}")
                while not self._answers(study, by_key):
                    time.sleep(self.poll)
            finally:
                page.close()
        for row in rows:
            labels.add(by_key[row["item"]], row["annotator"], row["choice"])

    @staticmethod
    def _answers(study: Study, by_key: dict[str, Item]) -> list[dict[str, Any]]:
        """What people said of these questions, once every one has an answer; nothing before."""
        rows = [row for row in study.judgements() if row["item"] in by_key]
        return rows if {row["item"] for row in rows} == set(by_key) else []

    def _study(self, items: Sequence[Item]) -> Study:
        folder = self.folder / f"round-{items[0].round}"
        if (folder / SETTINGS_NAME).is_file():
            return Study(folder)
        rows = [
            {
                "item": item.id,
                "prompt": item.prompt,
                "completions": list(item.completions),
                "systems": ["policy"] * len(item.completions),
            }
            for item in items
        ]
        settings = StudySettings(question=self.question, criteria={"best": self.question})
        return create(folder, settings, rows)


class Files:
    """Writes questions to a file and waits until somebody has put the answers beside it.

    Questions are in `questions-<round>.jsonl`: `item`, `prompt`, `completions`. Answers are read from
    `answers-<round>.jsonl`: `item`, `choice` (from 0) and, if there are several people, `annotator`. The run may be
    stopped meanwhile; resumed, it goes on waiting, or takes the answers that are there.

    Args:
        folder (`Path`): of both.
        report: told in a line what is waited for.
        poll (`float`): seconds between two looks.
    """

    def __init__(self, folder: Path, report: Callable[[str], None], poll: float = 2.0):
        self.folder, self.report, self.poll = folder, report, poll

    def ask(self, items: Sequence[Item], labels: Labels) -> None:
        if not items:
            return
        number = items[0].round
        questions, answers = (self.folder / f"{kind}-{number}.jsonl" for kind in ("questions", "answers"))
        self.folder.mkdir(parents=True, exist_ok=True)
        # All of the round, of which a run that was stopped has read some.
        by_id = {item.id: item for item in labels.items(number)}
        if not questions.is_file():
            rows = [{"item": i.id, "prompt": i.prompt, "completions": i.completions} for i in by_id.values()]
            replace_file(questions, "".join(map(json_line, rows)))
        self.report(f"{len(items)} questions are in {questions}; waiting for {answers}.")
        while not answers.is_file():
            time.sleep(self.poll)
        for at, row in self._answers(answers):
            item = by_id.get(row.get("item", -1))
            if item is None:
                raise UserError(f"{at}: there is no item {row.get('item')!r} among the questions of this round.")
            labels.add(item, str(row.get("annotator", "file")), row.get("choice"))  # type: ignore[arg-type]
        if missing := labels.unanswered(number):
            raise UserError(
                f"{answers} has no answer to {len(missing)} of {len(by_id)} questions, the first is item "
                f"{missing[0].id}: add them and resume the run (--resume)."
            )

    @staticmethod
    def _answers(path: Path) -> list[tuple[str, dict[str, Any]]]:
        rows = [(f"{path}, line {number}", value) for number, value in read_json_lines(path)]
        for at, row in rows:
            if not isinstance(row, dict):
                raise UserError(f"{at}: an answer must be a JSON object, not {json.dumps(row)[:40]}.")
        return rows
