"""Running a recipe: data, model, zero-shot evaluation, supervised stage, reinforcement, and the table at the end."""

from __future__ import annotations

import copy
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from accelerate import PartialState
from rich.console import Console
from rich.markup import escape

from ..data.splits import Splits, load_splits
from ..display import printable
from ..evaluation.policy import evaluate_policy
from ..hub.card import CardFacts
from ..hub.loading import loading_of
from ..hub.upload import HubUpload
from ..launch.kinds import check_launch
from ..launch.library_output import without_library_output
from ..launch.processes import failing_together
from ..metrics.directions import direction
from ..metrics.suite import fit_rewards, judge_samples
from ..models.checks import check_ends, check_special_tokens, check_token_ids
from ..models.inputs import longest_prompt
from ..progress.callback import showing_progress
from ..progress.samples import print_samples
from ..prompts import PromptDataset, prompt_tokenizer
from ..recipes.algorithms import SUPERVISED, ZERO_SHOT
from ..recipes.recipe import Recipe, write_resolved
from ..recipes.resumed import check_resumed_recipe
from ..storage.checkpoint_folder import newest_complete_checkpoint
from ..storage.files import explain_full_disk
from ..storage.results import RunResults
from ..storage.run_folder import RunFolder
from ..storage.run_lock import lock_on
from ..trainer.best_metric import check_best_metric
from ..trainer.nlpo import NLPOTrainer
from .before_start import check_batches, check_before_start
from .callbacks import MetricsLog
from .card import with_recipe, with_results
from .starting_model import adapter_config, starting_model, starting_tokenizer
from .summary import load_command, results_table
from .supervised import train_supervised
from .trackers import Trackers
from .zero_shot import TakenOver, zero_shot_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_WIDTH_OF_FILES = 119
"""Columns of what is printed to a file or pipe, where rich would assume 80 and truncate the table."""


@dataclass(frozen=True)
class _Run:
    """What all stages share."""

    recipe: Recipe
    folder: RunFolder
    splits: Splits
    tokenizer: PreTrainedTokenizerBase
    rewards: list[Any]
    console: Console
    resuming: bool
    force: bool
    trackers: Trackers
    online: OnlineReward | None = None
    reported: set[str] = field(default_factory=set)
    """Metrics already reported as unavailable."""

    @property
    def supervised_model(self) -> Path:
        """Where the supervised stage's model is: this run's, or the one it was given."""
        given = self.recipe.arguments.supervised_model
        return Path(given) if given else self.folder.supervised_model

    def has_finished(self, stage: str) -> bool:
        """Whether the run that is resumed has the results of a stage."""
        return self.resuming and stage in self.folder.results


class OnlineReward(Protocol):
    """Rewards that are made while the policy trains: a trainer's callback that gives it its reward functions."""

    def reward_functions(self, rewards: list[Any]) -> list[Any]:
        """What the policy is trained with, in the place of the recipe's rewards, which are given."""

    def attach(self, trainer: NLPOTrainer, start: str | None, run: str) -> None:
        """Told once, before it trains, which trainer it is about, where its model is from, and the run's id."""


def run_experiment(
    recipe: Recipe, force: bool = False, overwrite: bool = False, online: OnlineReward | None = None
) -> Path:
    """Run all stages of a recipe and leave everything in its `output_dir`.

    Each stage is evaluated on the test split as soon as it has finished. Perplexity is always that of the supervised
    model, or of the starting model when there is no supervised stage. With `resume_from_checkpoint`, finished stages
    are not repeated. Nothing in `output_dir` is touched before recipe, data and starting model have been checked.

    Args:
        recipe ([`Recipe`]): from [`load_recipe`].
        force (`bool`): resume with another recipe than the run's, where that can work.
        overwrite (`bool`): replace an earlier run in `output_dir`, with its checkpoints and models.
        online ([`OnlineReward`], *optional*): trains the policy instead of the recipe's rewards, which are still what
            the table reports.

    Returns:
        `Path`: `output_dir`, see [`RunFolder`] for what is in it.

    Raises:
        UserError: something in the recipe, the data or a reward function that cannot work. The results of finished
            stages are in the folder.
    """
    check_launch(recipe.training)
    is_main = recipe.training.process_index == 0
    resuming = bool(recipe.arguments.resume_from_checkpoint)
    with ExitStack() as lock:
        with failing_together():
            if resuming:
                check_resumed_recipe(recipe, force)
            check_before_start(recipe, overwrite)
        # All processes have looked at the folder before one of them takes it.
        with failing_together():
            lock.enter_context(lock_on(str(recipe.training.output_dir), is_main))
        with without_library_output():
            return _run_in_folder(recipe, resuming, force, overwrite, online)


def _run_in_folder(recipe: Recipe, resuming: bool, force: bool, overwrite: bool, online: OnlineReward | None) -> Path:
    is_main = recipe.training.process_index == 0
    rewards = recipe.arguments.reward_functions()
    console = _console(quiet=not is_main)
    if is_main and recipe.training.push_to_hub and (problem := HubUpload(recipe.training).problem()):
        console.print(escape(problem), soft_wrap=True)
    splits = load_splits(recipe.arguments, recipe.training.seed)
    check_batches(recipe, splits)
    if recipe.algorithm.reinforces:
        check_best_metric(recipe.training, rewards)
    fit_rewards(rewards, splits.train)
    tokenizer = starting_tokenizer(recipe, splits)
    given = recipe.arguments.supervised_model
    model = starting_model(recipe, tokenizer, Path(given) if given else None)
    _check_prompts(recipe, splits, tokenizer, model)
    # All processes have read the folder before the first one writes to it.
    PartialState().wait_for_everyone()
    with failing_together():
        folder = RunFolder(str(recipe.training.output_dir), resuming, is_main, overwrite)
        if is_main:
            write_resolved(recipe, folder.path / "recipe.yaml")
    trackers = Trackers(recipe.training, folder.path, folder.run)
    run = _Run(recipe, folder, splits, tokenizer, rewards, console, resuming, force, trackers, online)
    try:
        with trackers.closed():
            trainer = _run_stages(run, model)
            trackers.log_results(folder.results)
    except BaseException:
        if folder.results:
            console.print(escape(f"Stopped. Finished stages are in {folder.path}: {', '.join(folder.results)}."))
        raise
    _conclude(run)
    if trainer is not None and recipe.training.push_to_hub:
        _push(run, trainer)
    return folder.path


def _console(quiet: bool) -> Console:
    console = Console(quiet=quiet, highlight=False)
    return console if console.is_terminal else Console(quiet=quiet, highlight=False, width=_WIDTH_OF_FILES)


def _conclude(run: _Run) -> None:
    """Print the table, where everything is, and how the model is loaded."""
    recipe, folder = run.recipe, run.folder
    run.console.print(results_table(f"{recipe.name}: {len(run.splits.test)} held-out prompts", folder.results))
    _print_last_samples(run)
    run.console.print(
        f"Everything is in {escape(str(folder.path))}: recipe.yaml, metrics.jsonl, results.json, samples.jsonl."
    )
    if recipe.algorithm.trains:
        path = folder.path if recipe.algorithm.reinforces else run.supervised_model
        run.console.print(f"Load the model with:\n  {escape(load_command(path))}", soft_wrap=True)


def _print_last_samples(run: _Run) -> None:
    """A few completions of the last stage, to be read."""
    stage = list(run.folder.results)[-1]
    samples = [{"prompt": row["prompt"], **row[stage]} for row in run.folder.samples if stage in row]
    print_samples(run.console, f"Samples of {stage}:", samples)


def _push(run: _Run, trainer: NLPOTrainer) -> None:
    """Push the model, last of all: what the Hub does or does not do, the run is finished and whole."""
    trainer.push_to_hub()
    name = trainer.hub.repo_id
    # Only the first process pushes.
    if name is not None:
        line = loading_of(run.folder.path, name, run.recipe.training.hub_revision).line
        run.console.print(f"Model pushed to the Hub as {name}. Load it with:\n  {escape(line)}", soft_wrap=True)


def _run_stages(run: _Run, model: PreTrainedModel) -> NLPOTrainer | None:
    """All stages that are left; returns the trainer of the reinforced model, if there is one."""
    algorithm, given = run.recipe.algorithm, run.recipe.arguments.supervised_model
    _introduce(run, model)
    # Without a judge of its own it waits for the supervised model, which will be the judge of all stages.
    has_judge = run.recipe.arguments.judge_model is not None or not algorithm.supervised
    if given is None and has_judge and not run.has_finished(ZERO_SHOT.last_stage):
        _zero_shot(run, model, _judge(run, model))
    if algorithm.supervised and given is None:
        model = _supervised_stage(run, model)
    return _reinforcement_stage(run, model) if algorithm.reinforces else None


def _zero_shot(run: _Run, model: PreTrainedModel, judge: Any) -> None:
    """Evaluate the starting model, or take the results of another run that has done so."""
    folder = run.recipe.arguments.zero_shot_results
    if folder is not None:
        found = zero_shot_of(Path(folder), run.recipe, list(run.splits.test["prompt"]))
        if isinstance(found, TakenOver):
            run.console.print(escape(f"Zero-shot results are those of {folder}."), soft_wrap=True)
            run.folder.add_result(ZERO_SHOT.last_stage, found.metrics, found.samples, 0.0, found.better, first=True)
            return
        run.console.print(escape(f"Zero-shot is evaluated here: {found}."), soft_wrap=True)
    _evaluate(run, ZERO_SHOT.last_stage, model, judge=judge, first=True)


def _supervised_stage(run: _Run, model: PreTrainedModel) -> PreTrainedModel:
    """Train on the references and evaluate; returns the supervised model as it was saved."""
    saved = run.supervised_model
    is_done = run.has_finished(SUPERVISED.last_stage)
    start = time.time()
    if not is_done:
        with explain_full_disk(run.folder.path, "the supervised model"):
            train_supervised(run.recipe, model, run.tokenizer, run.splits.supervised, run.folder, run.trackers)
    seconds = time.time() - start
    model = starting_model(run.recipe, run.tokenizer, saved)
    if not is_done:
        _evaluate(run, SUPERVISED.last_stage, model, judge=_judge(run, model), training_seconds=seconds)
    if "perplexity" not in run.folder.results.get(ZERO_SHOT.last_stage, {}):
        _zero_shot(run, starting_model(run.recipe, run.tokenizer), _judge(run, model))
    return model


def _reinforcement_stage(run: _Run, model: PreTrainedModel) -> NLPOTrainer:
    recipe, name = run.recipe, run.recipe.algorithm.last_stage
    start = time.time()
    args, rewards = recipe.training, run.rewards
    callbacks: list[Any] = [MetricsLog(run.folder, name)]
    if run.online is not None:
        args, rewards = copy.copy(args), run.online.reward_functions(rewards)
        args.reward_weights = None
        callbacks.append(run.online)
    trainer = NLPOTrainer(
        args=args,
        processing_class=run.tokenizer,
        model=model,
        reward_funcs=rewards,
        train_dataset=run.splits.train,
        eval_dataset=run.splits.validation,
        callbacks=callbacks,
        peft_config=adapter_config(recipe),
    )
    run.trackers.attach(trainer)
    trainer.resumes_by_force = run.force
    if run.online is not None:
        source = str(run.supervised_model) if recipe.algorithm.supervised else recipe.model.model_name_or_path
        run.online.attach(trainer, source, run.folder.run)
    # The supervised model is not a part of the reinforced one, unless it is the base of its adapter.
    trainer.hub.left_out += (run.folder.supervised_model.name,)
    if recipe.algorithm.supervised and trainer.is_peft_model:
        trainer.hub.base = run.supervised_model
    trainer.checkpoints.run_id = run.folder.run
    trainer.complete_card = partial(with_recipe, recipe=recipe, test=run.splits.test)
    with showing_progress(trainer, name):
        trainer.train(resume_from_checkpoint=_checkpoint(run))
    with explain_full_disk(run.folder.path, "the final model", trainer.run.newest_checkpoint):
        # Pushed after the evaluation.
        trainer.save_model(str(run.folder.path), _internal_call=True)
    seconds = time.time() - start
    judge = _judge(run, _reference(run, trainer))
    with trainer.gathered_weights() as module:
        _evaluate(run, name, module.policy, judge=judge, training_seconds=seconds)
    trainer.complete_card = partial(_finished_card, run)
    trainer.create_model_card()
    return trainer


def _finished_card(run: _Run, facts: CardFacts) -> CardFacts:
    return with_results(with_recipe(facts, run.recipe, run.splits.test), RunResults.read(run.folder.path))


def _reference(run: _Run, trainer: NLPOTrainer) -> Any:
    """The model that reinforcement started from."""
    if trainer.ref_model is not None:
        return trainer.ref_model
    saved = run.supervised_model if run.recipe.algorithm.supervised else None
    return starting_model(run.recipe, run.tokenizer, saved)


def _judge(run: _Run, otherwise: Any) -> Any:
    """The model whose perplexity the table reports: the recipe's `judge_model`, or else the one given."""
    name = run.recipe.arguments.judge_model
    return otherwise if name is None else starting_model(run.recipe, run.tokenizer, Path(name))


def _checkpoint(run: _Run) -> str | None:
    """The checkpoint to resume from; None when there is none yet, or when the run is not resumed."""
    wanted = run.recipe.arguments.resume_from_checkpoint
    if not wanted:
        return None
    if isinstance(wanted, str):
        return wanted

    def report(line: str) -> None:
        run.console.print(escape(line), soft_wrap=True)

    newest = newest_complete_checkpoint(run.folder.path, report, run.folder.run)
    return None if newest is None else str(newest)


def _check_prompts(recipe: Recipe, splits: Splits, tokenizer: Any, model: PreTrainedModel) -> None:
    """Refuse prompts that are too long for the model, or have tokens that it lacks, before anything is trained."""
    check_special_tokens(model, tokenizer, {})
    longest = longest_prompt(model, recipe.training.response_length)
    for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if rows is not None:
            reader = prompt_tokenizer(recipe.training, tokenizer, model)
            prompts = PromptDataset(rows, reader, f"the {name} split", longest)
            check_token_ids(prompts.prompt_ids, prompts.name, model, tokenizer)
            check_ends(prompts.prompt_ids, prompts.name, model, tokenizer)


def _evaluate(
    run: _Run, stage: str, model: Any, judge: Any, training_seconds: float = 0.0, first: bool = False
) -> None:
    test, arguments = run.splits.test, run.recipe.arguments
    run.console.print(f"Evaluating [bold]{stage}[/bold] on {len(test)} prompts of the test split ...")
    evaluation = evaluate_policy(
        model,
        run.tokenizer,
        test,
        run.rewards,
        run.recipe.training,
        judge=judge,
        share_out=True,
        description=f"the {arguments.dataset_test_split} split",
    )
    judged = judge_samples(arguments.metric_specs, evaluation.samples, test)
    for name, reason in judged.unavailable.items():
        if name not in run.reported:
            run.reported.add(name)
            run.console.print(escape(printable(f"  without {name}: {reason}")), soft_wrap=True)
    better = {column: direction(column) for column in evaluation.metrics} | judged.better
    run.folder.add_result(stage, evaluation.metrics | judged.metrics, judged.samples, training_seconds, better, first)


def _introduce(run: _Run, model: PreTrainedModel) -> None:
    """Print what runs: recipe, algorithm, data, model and device."""
    recipe, splits = run.recipe, run.splits
    size = sum(parameter.numel() for parameter in model.parameters())
    name = recipe.arguments.dataset_name or "the task's data on the Hub"
    if recipe.arguments.task is not None:
        name = f"{recipe.arguments.task}, {name}"
    data = f"{name} ({len(splits.train)} rows to train on, {len(splits.test)} to test on)"
    scratch = f"{recipe.arguments.model_type} with random weights"
    source = recipe.arguments.supervised_model or recipe.model.model_name_or_path or scratch
    run.console.print(
        f"[bold]{escape(recipe.name)}[/bold]: {recipe.arguments.algorithm} on {escape(data)}; {escape(source)}, "
        f"{size / 1e6:.1f} M parameters, on {recipe.training.device}."
    )
