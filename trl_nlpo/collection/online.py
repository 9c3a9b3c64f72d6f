"""Ziegler's loop: sample completions of the policy, ask, train the reward model again, go on with the policy."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..algorithm.draws import random_state, set_random_state
from ..errors import UserError
from ..experiment.experiment import run_experiment
from ..human_study.page import TOKEN_VARIABLE
from ..metrics.classifier import SequenceClassifier
from ..prompts import collate_prompts
from ..reward_training.comparisons import Comparison
from ..reward_training.reliability import advice
from ..reward_training.reward_model import RewardModelArguments, hold_out, rewards_of, train_on
from ..serving import check_address
from ..storage.files import read_json, replace_file
from ..storage.json_lines import json_line, read_json_lines
from .arguments import CollectionArguments
from .askers import Asker, Files, Judge, People
from .labels import Labels
from .schedule import Round, rounds_of


if TYPE_CHECKING:
    from ..recipes.recipe import Recipe

LABELS_NAME, MODELS_NAME, HISTORY_NAME, SETTINGS_NAME, QUESTIONS_NAME = (
    "labels.sqlite", "reward_models", "collection.jsonl", "collection.json", "questions",
)  # fmt: skip


_MAY_CHANGE = (
    "host", "port", "held_out", "reward_epochs", "reward_learning_rate", "reward_batch_size", "reward_max_length",
)  # fmt: skip
"""Settings that a run may be resumed with other values of: they change no question that was asked."""


class LearnedReward:
    """The reward model as it is now, with TRL's signature. It has no model before the first choices are made."""

    __name__ = "learned_reward"

    def __init__(self) -> None:
        self._reader: SequenceClassifier | None = None

    def load(self, folder: Path) -> None:
        """Go on with the model in a folder."""
        self._reader = SequenceClassifier(str(folder), f"reward model {folder}")
        self._reader.load()

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """The reward of each completion."""
        if self._reader is None:
            raise UserError("the reward model has no choices to learn from yet.")
        pairs = zip(prompts, completions, strict=True)
        rows = [Comparison(prompt, (completion,), 0, row) for row, (prompt, completion) in enumerate(pairs)]
        return [rewards[0] for rewards in rewards_of(self._reader, rows)]


class Collection(TrainerCallback, ExportableState):
    """Asks for choices at the updates of a schedule, and gives the trainer a reward model that has learned them.

    A checkpoint knows which rounds are done. What was asked and answered is in the run's `labels.sqlite`: a run that
    was killed in a round goes on with the questions that are there.

    Args:
        folder (`Path`): the run's.
        settings ([`CollectionArguments`]), seed (`int`)
        asker ([`Asker`]): who answers.
        report: told in a line what happened.
    """

    def __init__(
        self,
        folder: Path,
        settings: CollectionArguments,
        seed: int,
        asker: Asker,
        report: Callable[[str], None],
    ):
        self.folder, self.settings, self.seed, self.asker, self.report = folder, settings, seed, asker, report
        self.reward = LearnedReward()
        self.rounds_done = 0
        self._trainer: Any = None
        self._start: str | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"rounds_done": self.rounds_done}}

    @property
    def labels(self) -> Labels:
        """The file of questions and answers."""
        return Labels(self.folder / LABELS_NAME)

    def reward_functions(self, rewards: list[Any]) -> list[Any]:
        """What the policy is trained with. The recipe's rewards, fitted to its data, are the judge's."""
        if isinstance(self.asker, Judge):
            self.asker.functions = rewards
        return [self.reward]

    def attach(self, trainer: Any, start: str | None, run: str) -> None:
        """Sample from the policy of this trainer; reward models may start where it does. Takes the folder.

        Raises:
            UserError: they are to, and that model is in no folder; or the run has begun with other settings.
        """
        self._trainer = trainer
        # What people said is no part of the model.
        trainer.hub.left_out += ("labels*", f"{QUESTIONS_NAME}*", SETTINGS_NAME, HISTORY_NAME)
        self._take_folder(run)
        self._start = self.settings.reward_model
        if self._start == "policy":
            if start is None:
                raise UserError(
                    "reward_model is policy, but the policy starts from random weights: take an algorithm with a "
                    "supervised stage, or set reward_model to a model, or to null."
                )
            self._start = start

    def _take_folder(self, run: str) -> None:
        """Keep aside what another run asked, and note whose the folder is, and with which settings.

        Raises:
            UserError: this run has begun with other settings.
        """
        path, given = self.folder / SETTINGS_NAME, dataclasses.asdict(self.settings)
        known = read_json(path, "start the run again with --overwrite") if path.is_file() else {}
        if known.get("run") == run:
            changes = [
                f"{key}: {known.get(key)} -> {new}"
                for key, new in given.items()
                if key not in _MAY_CHANGE and known.get(key) != new
            ]
            if changes:
                raise UserError(
                    f"{self.folder} was collected with other settings ({'; '.join(changes)}): resume with its own."
                )
        else:
            for name in (LABELS_NAME, QUESTIONS_NAME):
                _keep_aside(self.folder / name)
            shutil.rmtree(self.folder / MODELS_NAME, ignore_errors=True)
            (self.folder / HISTORY_NAME).unlink(missing_ok=True)
        replace_file(path, json.dumps({"run": run, **given}, indent=2) + "\n")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.rounds_done = 0
        elif self.rounds_done:
            self.reward.load(self._model_folder(self.rounds_done - 1))
        self._catch_up(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._catch_up(state)

    def _catch_up(self, state: Any) -> None:
        """Every round that is due after the updates so far."""
        initial = self.settings.first_labels
        rounds = rounds_of(state.max_steps, initial, self.settings.num_labels, self.settings.retrainings)
        while self.rounds_done < len(rounds) and rounds[self.rounds_done].update <= state.global_step:
            with random_state_kept():
                self._run_round(self.rounds_done, rounds, state.global_step)
            self.rounds_done += 1

    def _run_round(self, number: int, rounds: Sequence[Round], update: int) -> None:
        start, labels = time.time(), self.labels
        if not labels.items(number):
            before = sum(part.num_labels for part in rounds[:number])
            labels.add_items(number, update, self._questions(number, before, rounds[number].num_labels))
        self.asker.ask(labels.unanswered(number), labels)
        results = self._train_reward_model(number, labels)
        self.reward.load(self._model_folder(number))
        line = {"round": number, "update": update, **results, **self._judged(number, labels)}
        self._note({**line, "seconds": round(time.time() - start, 1)})
        said = (
            f"round {number}, after update {update}: {results['labels']} choices in all, the reward model agrees with "
            f"{results['accuracy']:.3f} of {results['held_out']} held-out ones (chance {results['chance']:.3f})."
        )
        self.report(f"{said} {advice(results['accuracy_interval'], results['chance'])}".rstrip())

    def _questions(self, number: int, before: int, size: int) -> list[dict[str, Any]]:
        """Completions of the policy for the next prompts of a random order of them all."""
        prompts, k = self._trainer.prompt_sets.train, self.settings.num_completions
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(self.seed)).tolist()
        chosen = [order[(before + index) % len(order)] for index in range(size)]
        batch = collate_prompts([prompts[index] for index in chosen for _ in range(k)])
        seed = (self.seed * 1_000_003 + number + 1) % 2**63
        found = self._trainer.sample_completions(batch, seed).completions
        return [
            {
                "prompt": batch.prompts[row],
                "completions": found[row : row + k],
                "columns": {name: values[row] for name, values in batch.columns.items()},
            }
            for row in range(0, size * k, k)
        ]

    def _train_reward_model(self, number: int, labels: Labels) -> dict[str, Any]:
        """Train on all choices so far, from the start, and note how good it is on those that are held out."""
        folder = self._model_folder(number)
        answers = labels.choices(number)
        comparisons = [Comparison(item.prompt, item.completions, choice, item.id) for item, _, choice in answers]
        first = {item.id for item, _, _ in answers if item.round == 0}
        arguments = self._reward_arguments(f"{folder}.unfinished")
        splits = hold_out(comparisons, arguments)
        if not folder.is_dir():
            shutil.rmtree(arguments.out, ignore_errors=True)
            # The scale is that of the completions of the policy that the run began with.
            train_on(splits, arguments, [comparison for comparison in splits["train"] if comparison.row in first])
            os.replace(arguments.out, folder)
        held_out = read_json(folder / "reward_model.json", "remove the folder and resume")["splits"]["validation"]
        return {
            "labels": len(comparisons),
            "held_out": held_out["num_choices"],
            **{name: held_out[name] for name in ("accuracy", "accuracy_interval", "chance", "log_loss")},
        }

    def _reward_arguments(self, out: str) -> RewardModelArguments:
        settings, args = self.settings, self._trainer.args
        return RewardModelArguments(
            data="",
            out=out,
            model=self._start,
            held_out=settings.held_out,
            epochs=settings.reward_epochs,
            learning_rate=settings.reward_learning_rate,
            batch_size=settings.reward_batch_size,
            max_length=settings.reward_max_length,
            bf16=bool(args.bf16),
            seed=self.seed,
        )

    def _judged(self, number: int, labels: Labels) -> dict[str, float]:
        """The mean of the judge's own score over the questions of a round, which nothing learns from."""
        if not isinstance(self.asker, Judge):
            return {}
        scores = [score for row in self.asker.scores(labels.items(number)) for score in row]
        return {"judge_score": sum(scores) / len(scores)}

    def _model_folder(self, number: int) -> Path:
        return self.folder / MODELS_NAME / f"{number:04d}"

    def _note(self, line: dict[str, Any]) -> None:
        path = self.folder / HISTORY_NAME
        kept = [row for _, row in read_json_lines(path)] if path.is_file() else []
        rows = [row for row in kept if row["round"] < line["round"]]
        replace_file(path, "".join(json_line(row) for row in [*rows, line]))


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Inside, global random numbers may be drawn and seeded; outside, nobody knows."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def run_collection(
    recipe: Recipe, settings: CollectionArguments, report: Callable[[str], None], force: bool, overwrite: bool
) -> Path:
    """Run a recipe whose reward is learned, while it trains, from choices between the policy's own completions.

    The recipe's `rewards` train nothing: they are the judge (`asker: judge`), and what the table reports.

    Args:
        recipe ([`Recipe`]), settings ([`CollectionArguments`])
        report: told in a line what happens.
        force, overwrite (`bool`): as for [`run_experiment`].

    Returns:
        `Path`: the run's folder, with `labels.sqlite`, `reward_models/` and `collection.jsonl` besides.

    Raises:
        UserError: several processes, a recipe without reinforcement, other settings than those of the run that is
            resumed, labels of an earlier run, or whatever [`run_experiment`] raises.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("collect runs in one process: start it without torchrun or accelerate launch.")
    if not recipe.algorithm.reinforces:
        raise UserError(f"algorithm {recipe.arguments.algorithm!r} has no reinforcement, which would need a reward.")
    folder, seed = Path(str(recipe.training.output_dir)), recipe.training.seed
    _check_folder(folder, bool(recipe.arguments.resume_from_checkpoint), overwrite)
    collection = Collection(folder, settings, seed, _asker(recipe, settings, folder, report), report)
    return run_experiment(recipe, force, overwrite, collection)


def _asker(recipe: Recipe, settings: CollectionArguments, folder: Path, report: Callable[[str], None]) -> Asker:
    if settings.asker == "files":
        return Files(folder / QUESTIONS_NAME, report)
    if settings.asker == "people":
        token = os.environ.get(TOKEN_VARIABLE) or None
        check_address(settings.host, settings.port, token, TOKEN_VARIABLE)
        return People(folder / QUESTIONS_NAME, report, settings.question, settings.host, settings.port, token)
    functions = recipe.arguments.reward_functions()
    if any(isinstance(function, str) or inspect.iscoroutinefunction(function) for function in functions):
        raise UserError(
            "asker judge needs plain reward functions in the recipe's rewards, no model's path or coroutine."
        )
    weights = [spec.weight for spec in recipe.arguments.reward_specs]
    return Judge(functions, weights, settings.noise, recipe.training.seed)


def _check_folder(folder: Path, resumes: bool, overwrite: bool) -> None:
    """Refuse to begin where another run's labels are, unless they are to be kept aside (`overwrite`)."""
    if not resumes and not overwrite and (folder / LABELS_NAME).is_file():
        raise UserError(
            f"{folder} holds the labels of an earlier run: resume it with --resume, give another --output_dir, or "
            "replace it with --overwrite, which keeps the labels under another name."
        )


def _keep_aside(path: Path) -> None:
    """Rename a file or folder to a name that is free, with what SQLite has beside it, which belongs to it."""
    if not path.exists():
        return
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(1))
    free = next(name for name in names if not name.exists())
    for ending in ("", "-wal", "-shm"):
        found = path.with_name(path.name + ending)
        if found.exists():
            found.rename(free.with_name(free.name + ending))
