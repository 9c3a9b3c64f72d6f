"""`HuggingFaceTrainer`: events, logs, saving, resuming; what `transformers.Trainer` promises and TRL's PPO lacks.

A contact file: the one subclass of `transformers.Trainer`, and the only place that touches its private methods.
Written against transformers 4.57 and 5.24, with `_save_checkpoint`, `_get_output_dir`, `_push_from_checkpoint`,
`_save_optimizer_and_scheduler`, `_load_optimizer_and_scheduler`, `_load_from_checkpoint`, `_load_best_model`,
`_load_rng_state`, `_load_callback_state`, `_evaluate`, `_determine_best_metric`, `_save` and `_finish_current_push`.
Uploads are our own (`hub/upload.py`); what is overridden here is where `transformers` asks for one.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import HubStrategy, PredictionOutput, SaveStrategy, TrainOutput
from transformers.utils import logging

from .._trl import TrainerBase, init_transformers_trainer
from ..algorithm.batch_plan import BatchPlan
from ..config import NLPOConfig
from ..errors import UserError
from ..evaluation.summary import sample_row
from ..hub.card import CARD_NAME, RECORD_NAME, CardFacts, hub_id, model_card
from ..hub.loading import Loading, loading
from ..hub.upload import HubRefusal, HubUpload, check_repository
from ..launch.environment import versions
from ..launch.kinds import launch_of
from ..launch.library_output import without_bars
from ..launch.processes import of_all
from ..models.adapters import is_adapter_model, make_loadable, saving_only, starting_name
from ..models.masking_policy import MaskingPolicy
from ..models.policy_and_value import PolicyAndValue
from ..progress.callback import ShownProgress, is_notebook_table, show_progress_of, shows_panel
from ..prompts import UpdateSampler, collate_prompts
from ..records import Estimates, Rollout, Scores, UpdateStats
from ..secrets import HIDDEN, note_secrets, redacted
from ..storage.files import replace_file
from .callback_states import restore_callbacks, with_state
from .card_settings import method_of, reading_of, reward_weights, settings_of
from .checkpoints import VALUE_FOLDER, Checkpoints, load_value_function, save_value_function
from .completions_table import append_completions, log_to_wandb, print_completions
from .evaluator import Evaluator
from .guard import Guard, events_to_come
from .logs import averaged, completion_rows, update_metrics
from .optimizer_settings import set_critic_rate
from .prompt_sets import PromptSets
from .run_state import NLPOTrainerState, Run
from .setup import check_optimizer, ddp_settings, fill_in_batch_sizes
from .watches import CollapseWatch, FirstRatioWatch, LeakingMaskWatch, StandstillWatch


logger = logging.get_logger(__name__)


class HuggingFaceTrainer(TrainerBase):
    """The Hugging Face side of [`NLPOTrainer`]; a step of the trainer is an update. No mathematics.

    Args:
        model ([`PolicyAndValue`]): what is trained.
        args ([`NLPOConfig`]): this trainer's own.
        prompt_sets ([`PromptSets`]): training and held-out prompts.
        options: of `transformers.Trainer`.
    """

    # Set by `transformers.Trainer`.
    model: Any
    state: Any
    control: Any
    lr_scheduler: Any
    model_wrapped: Any
    optimizer: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def __init__(self, model: PolicyAndValue, args: NLPOConfig, prompt_sets: PromptSets, **options: Any) -> None:
        note_secrets(vars(args))
        check_repository(args)
        self.hub = HubUpload(args)
        self.complete_card: Callable[[CardFacts], CardFacts] = lambda facts: facts
        """Adds what a run knows beyond its trainer to what the model card says."""
        self._dataset_name: str | None = None
        options["callbacks"] = [_in_notebooks(callback) for callback in options.get("callbacks") or []]
        given = options["callbacks"]
        has_own_progress = any(map(_shows_progress, given))
        init_transformers_trainer(self, model=model, args=args, data_collator=collate_prompts, **options)
        self._shown = None if has_own_progress else show_progress_of(self, self._title(args))
        for one in [*self.callback_handler.callbacks] if has_own_progress else []:
            # What `transformers` has added to it.
            if type(one) in (ProgressCallback, PrinterCallback) and one not in given and type(one) not in given:
                self.remove_callback(one)
        # Microbatches are accumulated in the update itself, by tokens; accelerate must not divide a second time.
        self.accelerator.gradient_accumulation_steps = 1
        self.prompt_sets = prompt_sets
        self.launch = launch_of(self.accelerator)
        self.launch.configure(args)
        self.plan = BatchPlan.from_config(args, self.accelerator.num_processes, len(prompt_sets.train))
        fill_in_batch_sizes(args, self.plan)
        self.run = Run(kl_coef=float(args.kl_coef))
        self.resumes_by_force = False
        """Whether to resume from a checkpoint that was written with other batches or another number of processes."""
        for watch in (CollapseWatch(), LeakingMaskWatch(), FirstRatioWatch(), StandstillWatch()):
            self.add_callback(watch)
        self.state = self._new_state()

    def _assemble(self, masking_policy: MaskingPolicy, evaluator: Evaluator, end_token_ids: Sequence[int]) -> None:
        """Take in what was made of the placed model, then make the optimizer and wrap model and optimizer."""
        self.masking_policy, self.evaluator, self._end_token_ids = masking_policy, evaluator, end_token_ids
        self.guard = Guard(self, self.launch, self.run)
        self.checkpoints = Checkpoints(
            self.args, self.launch, self.policy_and_value, masking_policy, self.plan, self.run
        )
        if self.args.gradient_checkpointing or getattr(self.args, "activation_checkpointing", False):
            self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        self._made_scheduler = self.lr_scheduler is None
        if self.optimizer is not None and self.args.critic_learning_rate is not None:
            raise UserError(
                "critic_learning_rate has no effect on an optimizer that is given: make groups in it, or leave "
                "`optimizers` out."
            )
        self.create_optimizer_and_scheduler(num_training_steps=self.plan.num_updates)
        check_optimizer(self.optimizer, self.model)
        self.accelerator.ddp_handler = ddp_settings(self.args)
        self.model_wrapped, self.optimizer = self.launch.prepare(self.model, self.optimizer)
        self.model.add_model_tags(self._tag_names)
        make_loadable(self.policy_and_value.policy)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The optimizer that `optim` names; the critic's weights have `critic_learning_rate`, if there is one."""
        is_new, rate = self.optimizer is None, self.args.critic_learning_rate
        super().create_optimizer(*args, **kwargs)
        if rate is not None and is_new:
            set_critic_rate(self.optimizer, self.model.critic_parameters(), rate)
        return self.optimizer

    def add_callback(self, callback: Any) -> None:
        """Add a callback (a class or an instance).

        A notebook's progress table gets columns for our metrics and takes the place of the panel.
        """
        if is_notebook_table(callback):
            self.remove_callback(ShownProgress)
        super().add_callback(_in_notebooks(callback))

    def _title(self, args: NLPOConfig) -> str:
        """What is trained, for people."""
        return "PPO" if args.mask_strategy == "none" else self._name

    @contextlib.contextmanager
    def _progress_closed(self) -> Iterator[None]:
        """Take the progress panel away on the way out, and let others show bars again, whatever happens."""
        try:
            yield
        finally:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ShownProgress) or is_notebook_table(callback):
                    getattr(callback, "close", lambda: None)()

    # The model

    @property
    def policy_and_value(self) -> PolicyAndValue:
        """The trained module, unwrapped: `.policy` and `.value_model`."""
        return self.accelerator.unwrap_model(self.model)

    @contextlib.contextmanager
    def gathered_weights(self) -> Iterator[PolicyAndValue]:
        """Policy and value function with all their weights, to compute with; all processes enter and leave together.

        Under FSDP2 and DeepSpeed ZeRO-3 a process has a share of them at other times. Changes to them are lost.
        """
        with self.launch.gathered_to_compute(self.model_wrapped):
            yield self.policy_and_value

    @contextlib.contextmanager
    def _generation_model(self) -> Iterator[PolicyAndValue]:
        """Policy and value function in the precision of the update, so that the first ratio is 1."""
        with self.gathered_weights() as module, self.launch.autocast():
            yield module

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """The prompts of every update that is left, a [`PromptBatch`] each."""
        prompts = self.prompt_sets.train
        sampler = UpdateSampler(
            num_rows=len(prompts),
            batch_size=self.plan.batch_size,
            num_updates=self.plan.num_updates,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            first_update=self.state.global_step,
        )
        # A loader draws a seed when it starts. Not from the global generator, which a resumed run continues with.
        generator = torch.Generator()
        return DataLoader(prompts, batch_sampler=sampler, collate_fn=collate_prompts, generator=generator)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Held-out prompts in order, a [`PromptBatch`] each."""
        prompts = next(iter(self.prompt_sets.to_evaluate(eval_dataset).values()))
        return DataLoader(prompts, batch_size=self.args.per_device_eval_batch_size, collate_fn=collate_prompts)

    # The life of a run

    def _begin_training(self, resume_from_checkpoint: str | bool | None) -> float:
        """Fresh or restored state, and the first events; returns the time."""
        args = self.args
        checkpoint = self.checkpoints.to_resume(resume_from_checkpoint)
        self.is_in_train = True
        self.state = self._new_state()
        self.run.begin()
        self._renew_scheduler()
        if checkpoint is not None:
            self._resume(checkpoint)
        self.state.max_steps = self.plan.num_updates
        num_rows = len(self.prompt_sets.train)
        self.state.num_train_epochs = math.ceil(self.plan.num_updates * self.plan.batch_size / num_rows)
        self.state.train_batch_size = args.per_device_train_batch_size
        for name in ("logging_steps", "eval_steps", "save_steps"):
            setattr(self.state, name, _absolute_steps(getattr(args, name), self.plan.num_updates))
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler
        self.callback_handler.train_dataloader = None
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        self.run.first_update = self.state.global_step
        self.run.started = time.time()
        if checkpoint is not None:
            self._load_rng_state(checkpoint)
            self._finish_events()
        elif args.eval_on_start:
            self._evaluate_and_track()
        return self.run.started

    def _renew_scheduler(self) -> None:
        """Begin a second `train()` with the learning rate of the first, as `transformers.Trainer` does."""
        if self._made_scheduler and self.lr_scheduler.last_epoch > 0:
            optimizer, self.lr_scheduler = self.lr_scheduler.optimizer, None
            self.create_scheduler(self.plan.num_updates, optimizer)

    def _finish_events(self) -> None:
        """Events of the checkpoint's update that a failure kept from happening."""
        unfinished, self.run.unfinished_events = self.run.unfinished_events, []
        for name in unfinished:
            setattr(self.control, name, True)
        if unfinished:
            with self._kept_safe():
                if self.control.should_log and self.run.pending_logs:
                    self._log_pending()
                self._evaluate_and_save()

    def _kept_safe(self) -> contextlib.AbstractContextManager[None]:
        return self.guard.guarded()

    def _begin_update(self) -> None:
        self.run.note_random_state()
        self.run.mask_age = self.masking_policy.age
        if self.state.episode % len(self.prompt_sets.train) < self.plan.batch_size:
            self.control = self.callback_handler.on_epoch_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)

    def _end_update(self, rollout: Rollout, scores: Scores, estimates: Estimates, stats: UpdateStats) -> None:
        """Count the update, tell the callbacks, and log, evaluate and save as they and the arguments want it."""
        num_rows = len(self.prompt_sets.train)
        passes_before = self.state.episode // num_rows
        self.state.global_step += 1
        self.state.episode += self.plan.batch_size
        self.state.epoch = self.state.episode / num_rows
        self.run.count(stats)
        self.run.pending_logs.append(self._update_logs(rollout, scores, estimates, stats))
        if self._shown is not None:
            self._shown.note_sample(sample_row(rollout, scores, 0))
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if self.state.episode // num_rows > passes_before:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        is_last = self.state.global_step >= self.state.max_steps
        if self.control.should_log or (is_last and self.args.logging_strategy != "no"):
            self._log_pending()
            if self.args.log_completions:
                self._show_completions(of_all(completion_rows(rollout, scores, estimates)))
        every = max(1, self.plan.num_updates // max(self.args.num_sample_generations, 1))
        if self.args.num_sample_generations > 0 and (self.state.global_step - 1) % every == 0:
            # Should a reward fail here, the run resumes from after this update.
            self.run.note_random_state()
            self.generate_completions(sampling=True)
        self._evaluate_and_save()
        self.guard.check_skipped_steps()
        self.guard.check_signals()

    def _evaluate_and_save(self) -> None:
        """The end of an update. Saving comes last, so that a checkpoint holds all that came before it."""
        if self.control.should_evaluate:
            self.run.note_random_state()
            self._evaluate_and_track()
        if self.control.should_save:
            self.save_checkpoint()

    def _end_training(self, start: float) -> TrainOutput:
        seconds = time.time() - start
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self.accelerator.wait_for_everyone()
            self._load_best_model()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self._finish_current_push()
        self.is_in_train = False
        updates = self.state.global_step - self.run.first_update
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(updates * self.plan.batch_size / max(seconds, 1e-9), 3),
            "train_steps_per_second": round(updates / max(seconds, 1e-9), 3),
            "train_loss": self.run.mean_policy_loss,
        }
        return TrainOutput(self.state.global_step, self.run.mean_policy_loss, metrics)

    # Logs

    def _update_logs(
        self, rollout: Rollout, scores: Scores, estimates: Estimates, stats: UpdateStats
    ) -> dict[str, float]:
        episodes = (self.state.global_step - self.run.first_update) * self.plan.batch_size
        metrics: dict[str, float] = {"eps": int(episodes / max(time.time() - self.run.started, 1e-9))}
        metrics |= update_metrics(
            rollout,
            scores,
            estimates,
            stats,
            mask_age=self.run.mask_age,
            mask_syncs=self.masking_policy.num_syncs,
            end_token_ids=self._end_token_ids,
            gather=self.accelerator.gather,
        )
        rates = {"lr": self.run.learning_rate}
        if self.args.critic_learning_rate is not None:
            rates["critic_lr"] = self.run.critic_learning_rate
        return {**metrics, **rates, "episode": self.state.episode}

    def _log_pending(self) -> None:
        """Log the averages over the updates since the last log."""
        pending, self.run.pending_logs = self.run.pending_logs, []
        self.log(averaged(pending))

    def _show_completions(self, rows: list[dict[str, Any]]) -> None:
        if self.is_world_process_zero():
            print_completions(rows, f"update {self.state.global_step}", self.args.num_completions_to_print)
            append_completions(rows, self.args.output_dir, self.state.global_step)
            if "wandb" in self.args.report_to:
                log_to_wandb(rows, self.state.global_step)

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Complete the held-out prompts without a mask, score them, log `<prefix>_*` and return the metrics.

        Args:
            eval_dataset (*optional*): another data set, a dictionary of them, or the name of one of the trainer's.
            ignore_keys: taken for the signature's sake; there is nothing to ignore.
            metric_key_prefix (`str`): `"eval"` or `"test"`, say.

        Returns:
            `dict[str, float]`: those of [`evaluation.summary.Evaluation`] with the prefix, `<prefix>_<name>_*` for a
            named data set, and `<prefix>_runtime`.
        """
        metrics, _ = self._completed(eval_dataset, metric_key_prefix)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Complete prompts without a mask and score them, as [`evaluate`] does, and log nothing.

        Args:
            test_dataset: as `eval_dataset` of [`evaluate`].
            ignore_keys: taken for the signature's sake; there is nothing to ignore.
            metric_key_prefix (`str`): of the metrics.

        Returns:
            `PredictionOutput`: `predictions`, a completion (text or messages) for each prompt in order, `label_ids`
            None, and `metrics`.
        """
        metrics, samples = self._completed(test_dataset, metric_key_prefix)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        completions: Any = [sample["completion"] for sample in samples]
        return PredictionOutput(predictions=completions, label_ids=None, metrics=metrics)

    def _completed(self, dataset: Any, metric_key_prefix: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Metrics of held-out prompts, and a sample for each prompt."""
        start = time.time()
        metrics: dict[str, float] = {}
        samples: list[dict[str, Any]] = []
        for name, prompts in self.prompt_sets.to_evaluate(dataset).items():
            prefix = f"{metric_key_prefix}_{name}" if name else metric_key_prefix
            with self._generation_model() as module:
                evaluation = self.evaluator(module, prompts, self.state)
            metrics |= {f"{prefix}_{key}": value for key, value in evaluation.metrics.items()}
            samples += evaluation.samples
            if self.args.log_completions and self.is_world_process_zero():
                title = f"{prefix}, update {self.state.global_step}"
                print_completions(evaluation.samples, title, self.args.num_completions_to_print)
        metrics[f"{metric_key_prefix}_runtime"] = round(time.time() - start, 4)
        return metrics, samples

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """What `transformers.Trainer` has for trainers that build their model anew.

        Raises:
            UserError: always, with what to do instead.
        """
        raise UserError(
            "hyperparameter_search would train on with the weights of the trial before: build a model and a trainer "
            "in each trial of a search, or use `trl-nlpo grue`."
        )

    def _evaluate_and_track(self) -> None:
        """Evaluate, remember the best, and decide on saving where that depends on it."""
        metrics = self._evaluate(trial=None, ignore_keys_for_eval=None)
        is_new_best = self._determine_best_metric(metrics=metrics, trial=None)
        if self.args.save_strategy == SaveStrategy.BEST:
            # A callback may have asked for a checkpoint too.
            self.control.should_save = is_new_best or self.control.should_save

    def generate_completions(self, sampling: bool = False) -> None:
        """Print completions of held-out prompts with their scores, and hand them to Weights & Biases if that runs.

        Args:
            sampling (`bool`): only the first batch instead of the whole evaluation set.
        """
        if not self.prompt_sets.held_out:
            return
        limit = self.args.per_device_eval_batch_size * self.accelerator.num_processes if sampling else None
        prompts = next(iter(self.prompt_sets.held_out.values()))
        with self._generation_model() as module:
            samples = self.evaluator(module, prompts, self.state, limit).samples
        if not self.is_world_process_zero():
            return
        print_completions(samples, f"update {self.state.global_step}", self.args.num_completions_to_print)
        if "wandb" in self.args.report_to:
            log_to_wandb(samples, self.state.global_step)

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save policy (a plain model or PEFT adapter) and tokenizer; the value function goes into `value_model/`.

        With `push_to_hub`, the model is then pushed.

        Raises:
            NotPushedError: the model is saved, but the Hub did not take it.
        """
        pushes = self.args.push_to_hub and not _internal_call
        folders = dict.fromkeys((output_dir or self.args.output_dir, *([self.args.output_dir] if pushes else [])))
        for folder in folders:
            self._save_locally(folder)
        if pushes:
            self._push_saved("Model save", revision=self.args.hub_revision)

    def _save_locally(self, output_dir: str) -> None:
        module = self.policy_and_value
        with self.launch.gathered(self.model_wrapped):
            with self._as_plain_trainer(), saving_only(module.policy, module.adapter):
                super().save_model(output_dir, _internal_call=True)
            if self.args.should_save:
                save_value_function(module, output_dir)
        if output_dir == self.args.output_dir:
            # In the place of the card that PEFT writes for an adapter.
            self.create_model_card()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # With the model goes a copy of the arguments, `training_args.bin`.
        bars = contextlib.nullcontext() if shows_panel(self.args) else without_bars()
        with _without_secrets(self.args), bars:
            super()._save(output_dir, state_dict=state_dict)

    @contextlib.contextmanager
    def _as_plain_trainer(self) -> Iterator[None]:
        """Let `transformers.Trainer` see the policy alone, which is what it saves, loads, describes and pushes."""
        own = self.model, self.is_deepspeed_enabled, self.is_fsdp_enabled
        # DeepSpeed and FSDP would save and load the value function with it, in formats of their own.
        self.model, self.is_deepspeed_enabled, self.is_fsdp_enabled = self.policy_and_value.policy, False, False
        try:
            yield
        finally:
            self.model, self.is_deepspeed_enabled, self.is_fsdp_enabled = own

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the model card (`README.md`) into `output_dir`, and `_card.json`, the record of what it says.

        Args:
            model_name (`str`, *optional*): its title; by default the repository's or the folder's name.
            dataset_name (`str`, *optional*): of the training data on the Hub.
            tags (`str` or `list[str]`, *optional*)
            kwargs: of other trainers' cards, without effect.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        if dataset_name is not None:
            self._dataset_name = dataset_name
        tracker = getattr(sys.modules.get("wandb"), "run", None)
        is_pushed = self.args.push_to_hub or self.hub.repo_id is not None
        facts = CardFacts(
            model_name=model_name or self.hub.name.split("/")[-1],
            method=method_of(self.args, self._name),
            paper=self._paper,
            tags=[*self._tag_names, *([tags] if isinstance(tags, str) else tags or [])],
            versions={package: version for package, version in versions().items() if version},
            base_model=None if self.hub.base else hub_id(starting_name(self.policy_and_value.policy)),
            adapter_base=self.hub.base_name if self.hub.base and is_pushed else None,
            dataset_name=hub_id(self._dataset_name),
            reading=reading_of(self.args, self.processing_class, self.policy_and_value.policy, self.prompt_sets.train),
            settings=settings_of(self.args),
            num_updates=self.state.global_step,
            num_completions=self.state.episode,
            rewards=reward_weights(self.reward_functions, self.reward_weights),
            run_url=getattr(tracker, "url", None),
        )
        facts = self.complete_card(facts)
        replace_file(folder / RECORD_NAME, facts.as_json())
        base = self.hub.base_name if self.hub.base else starting_name(self.policy_and_value.policy)
        replace_file(folder / CARD_NAME, model_card(facts, self._loading(base)))

    def _loading(self, base: str | None) -> Loading:
        """How the model is loaded from the Hub, or from `output_dir` where it does not go there."""
        module = self.policy_and_value
        name = self.hub.repo_id or (self.args.hub_model_id if self.args.push_to_hub else None)
        return loading(
            name or str(Path(self.args.output_dir).resolve()),
            bool(module.policy.config.is_encoder_decoder),
            module.adapter if is_adapter_model(module.policy) else None,
            base,
            self.args.hub_revision if name else None,
        )

    # The Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository. Where the Hub does not give it, that is said, and the next push tries again."""
        if self.is_world_process_zero():
            if problem := self.hub.problem(token, private):
                logger.warning(problem)
            self.hub_model_id = self.hub.repo_id

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model and push it to the Hub, with a model card.

        Args:
            commit_message, blocking, token, revision, private: as in `transformers.Trainer`.
            kwargs: of [`create_model_card`].

        Returns:
            What `huggingface_hub` says of the commit; without `blocking`, a future of it. None on all processes but
            the first.

        Raises:
            NotPushedError: the model is saved, but the Hub did not take it; the message says how to push it by hand.
        """
        self.save_model(_internal_call=True)
        return self._push_saved(commit_message, blocking, token, revision, private, **kwargs)

    def _push_saved(
        self,
        message: str | None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """Push what is saved in `output_dir`."""
        if not self.is_world_process_zero():
            return None
        self._tell_of_push()
        self._finish_current_push()
        if self.hub.repo_id is None:
            # The card names the repository. The push says why there is none.
            self.hub.problem(token, private)
        self.create_model_card(**card)
        self._warn_of_local_base()
        try:
            return self.hub.push(message, token, revision, private, in_background=not blocking)
        finally:
            self.hub_model_id = self.hub.repo_id

    def _warn_of_local_base(self) -> None:
        policy = self.policy_and_value.policy
        name = starting_name(policy) if is_adapter_model(policy) and self.hub.base is None else None
        if name is not None and os.path.isdir(name):
            logger.warning(
                f"The adapter that is pushed names {os.path.abspath(name)} as its base, a folder of this machine: "
                "elsewhere it cannot be loaded. Name a model on the Hub, or push the base beside it with "
                f"trainer.hub.base = Path({name!r})."
            )

    def _tell_of_push(self) -> None:
        # Not in the oldest versions.
        if hasattr(self.callback_handler, "on_push_begin"):
            self.callback_handler.on_push_begin(self.args, self.state, self.control)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the model of a checkpoint beside the training."""
        if self.checkpoints.unfinished_folder is not None:
            # `transformers` asks when it has written it; it is pushed when it has its name.
            return
        strategy = HubStrategy(self.args.hub_strategy)
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if self.hub.is_running and not self.args.hub_always_push:
            return
        self._tell_of_push()
        self._report_pushes()
        checkpoint = Path(checkpoint_folder)
        names = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        try:
            self.hub.push_checkpoint(
                checkpoint,
                f"Training in progress, update {self.state.global_step}",
                Path(self.args.output_dir) / CARD_NAME,
                names.get(strategy),
            )
        except HubRefusal as error:
            logger.warning(f"{checkpoint} was not pushed to the Hub: {error}. The run goes on.")
        self.hub_model_id = self.hub.repo_id

    def _finish_current_push(self) -> None:
        self._report_pushes(wait=True)

    def _report_pushes(self, wait: bool = False) -> None:
        for line in self.hub.finished(wait):
            logger.warning(line)

    def save_checkpoint(self, tell_callbacks: bool = True) -> None:
        """Write a checkpoint of the last update.

        Args:
            tell_callbacks (`bool`): whether `on_save` follows.

        Raises:
            DiskFullError: there is no room for it.
        """
        self._save_checkpoint(self.model, trial=None)
        if tell_callbacks:
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others and give it its name when it is complete; then remove old ones."""
        run_dir = Path(super()._get_output_dir(trial=trial))
        with self.checkpoints.writing(run_dir, self.state.global_step) as folder:
            self.create_model_card()
            self._write_checkpoint(model, trial, folder, run_dir / folder.name)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(self.run.newest_checkpoint))
        if self.args.should_save and not self.run.in_update:
            self.checkpoints.remove_old(run_dir, self.state.best_model_checkpoint)

    def _write_checkpoint(self, model: Any, trial: Any, folder: Path, checkpoint: Path) -> None:
        """All files of a checkpoint into `folder`, which is going to be `checkpoint`."""
        best = self.state.best_model_checkpoint
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint != best:
                # `transformers` noticed the best model at the place where it is written.
                best = str(checkpoint)
        finally:
            self.state.best_model_checkpoint = best
        if self.args.should_save:
            self.state.save_to_json(str(folder / "trainer_state.json"))
            if not self.args.save_only_model:
                self.run.unfinished_events = events_to_come(self.control)
                self.checkpoints.save_run(folder)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints.unfinished_folder or super()._get_output_dir(trial))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.launch.saved_optimizer(self.optimizer, self.model, output_dir):
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))
            return
        own, self.model = self.model, self.policy_and_value.policy
        try:
            # By the policy `transformers` sees whether there are frozen weights, which DeepSpeed need not write.
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            self.model = own

    # Resuming

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        with self.launch.gathered(self.model_wrapped, write_back=True):
            self._load_policy(best, super()._load_best_model)
            # A policy is saved with the value function of its own time.
            if (Path(best) / VALUE_FOLDER).is_dir():
                load_value_function(self.policy_and_value, best)
        self.launch.weights_were_set(self.optimizer)
        self.masking_policy.policy_moved()

    def _load_policy(self, checkpoint: str, load_model: Any) -> None:
        if is_adapter_model(self.policy_and_value.policy):
            self.checkpoints.load_adapter(checkpoint)
        else:
            with self._as_plain_trainer():
                load_model()

    def _resume(self, checkpoint: str) -> None:
        """Policy, value function, masking policy, optimizer, scheduler, counters and callbacks of a checkpoint."""
        self.checkpoints.check_launch(checkpoint)
        with self.launch.gathered(self.model_wrapped, write_back=True):
            self._load_policy(checkpoint, lambda: self._load_from_checkpoint(checkpoint))
            self.checkpoints.load_run(Path(checkpoint), self.resumes_by_force)
        self.launch.load_shares(self.model_wrapped, checkpoint)
        self.state = NLPOTrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        self.state.is_local_process_zero = self.is_local_process_zero()
        self.state.is_world_process_zero = self.is_world_process_zero()
        self._load_callback_state()
        self._load_optimizer_and_scheduler(checkpoint)
        self.state.episode = self.state.global_step * self.plan.batch_size
        self.run.num_updates = self.state.global_step
        self.run.note_checkpoint(Path(checkpoint), self.state.global_step)
        if self.run.in_update:
            self.run.in_update = False
            logger.warning(
                f"{checkpoint} was written when an update failed half-way: the run resumes from there, but is not "
                "equal to an unbroken one."
            )

    def _load_callback_state(self) -> None:
        """Counters of callbacks, such as the patience of early stopping; what they were built with stays as it is."""
        if self.args.restore_callback_states_from_checkpoint:
            super()._load_callback_state()
            return
        restore_callbacks(self.callback_handler.callbacks, self.state.stateful_callbacks)
        self.state.stateful_callbacks = self._new_state().stateful_callbacks

    def _new_state(self) -> NLPOTrainerState:
        return NLPOTrainerState(
            is_local_process_zero=self.is_local_process_zero(),
            is_world_process_zero=self.is_world_process_zero(),
            stateful_callbacks=with_state([*self.callback_handler.callbacks, self.control]),
        )


def _in_notebooks(callback: Any) -> Any:
    """A callback, or our own table in the place of the one that `transformers` shows in notebooks."""
    cls = callback if isinstance(callback, type) else type(callback)
    # A subclass is someone's own.
    if not is_notebook_table(callback) or is_notebook_table(cls.__base__):
        return callback
    from .notebook_table import NotebookTable

    return NotebookTable()


def _shows_progress(callback: Any) -> bool:
    """Whether a callback that was given to a trainer shows progress, so that ours should not."""
    cls = callback if isinstance(callback, type) else type(callback)
    return issubclass(cls, (ProgressCallback, PrinterCallback)) or is_notebook_table(callback)


def _absolute_steps(steps: float | None, num_updates: int) -> float | None:
    """A number of updates, from that or from a share of the run below 1."""
    return math.ceil(num_updates * steps) if steps is not None and 0 < steps < 1 else steps


@contextlib.contextmanager
def _without_secrets(args: Any) -> Iterator[None]:
    """Let what is secret be hidden in the arguments for a while."""
    own = dict(vars(args))
    for name, value in own.items():
        shown = redacted(value, name)
        if shown != value:
            setattr(args, name, None if shown == HIDDEN else shown)
    try:
        yield
    finally:
        vars(args).update(own)
