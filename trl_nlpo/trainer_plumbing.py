"""What `transformers.Trainer` promises and TRL's PPO did not keep: events, logs, evaluation, checkpoints, resuming.

No mathematics; `NLPOTrainer` adds the algorithm.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy, TrainOutput, get_last_checkpoint
from transformers.utils import logging

from ._trl import TrainerBase, init_transformers_trainer
from .batch_plan import BatchPlan
from .checkpoint import load_run_state, save_run_state, save_value_function
from .completions import append_completions, print_completions
from .errors import RewardError, UserError
from .evaluation import Evaluation, evaluate_rows, summarize
from .generation import evaluation_mode
from .masking_policy import MaskingPolicy
from .models.adapters import is_adapter_model, load_adapter_weights, saving_only
from .processes import of_all, shared_out
from .prompts import PromptDataset, UpdateSampler, collate_prompts
from .records import Estimates, Rollout, Scores, UpdateStats
from .run_metrics import completion_rows, update_metrics


logger = logging.get_logger(__name__)

LEAKING = 0.9
"""Share of `mask_top_p` below which the mass that an old mask still holds is worth a warning."""


@dataclass
class NLPOTrainerState(TrainerState):
    """`TrainerState` with the number of completions sampled so far, as TRL's PPO has it."""

    episode: int = 0


class TrainerPlumbing(TrainerBase):
    """The Hugging Face side of [`NLPOTrainer`]; a step of the trainer is an update."""

    # Set by `transformers.Trainer` and `NLPOTrainer`.
    args: Any
    model: Any
    state: Any
    control: Any
    optimizer: Any
    lr_scheduler: Any
    plan: BatchPlan
    masking_policy: MaskingPolicy
    num_updates_done: int
    trained_adapter: str
    resumes_by_force: bool = False
    """Whether to go on from a checkpoint that was written with other batches or another number of processes."""

    def __init__(self, **kwargs: Any) -> None:
        init_transformers_trainer(self, **kwargs)
        self._pending_logs: list[dict[str, float]] = []
        self._policy_losses: list[float] = []
        self._first_episode = 0
        self._mask_age = 0
        self._learning_rate = 0.0
        self._started = time.time()
        self._has_warned = False

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """The prompts of every update that is left, a [`PromptBatch`] each."""
        sampler = UpdateSampler(
            num_rows=len(self.prompts),
            batch_size=self.plan.batch_size,
            num_updates=self.plan.num_updates,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            first_update=self.state.global_step,
        )
        return DataLoader(self.prompts, batch_sampler=sampler, collate_fn=collate_prompts)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Held-out prompts in order, a [`PromptBatch`] each."""
        prompts = self._eval_prompts(eval_dataset)
        first = next(iter(prompts.values()))
        return DataLoader(first, batch_size=self.args.per_device_eval_batch_size, collate_fn=collate_prompts)

    def _eval_prompts(self, eval_dataset: Any = None) -> dict[str, PromptDataset]:
        if eval_dataset is None:
            prompts = self.eval_prompts
        elif isinstance(eval_dataset, str):
            prompts = {eval_dataset: self.eval_prompts[eval_dataset]}
        else:
            prompts = self._tokenized(eval_dataset, "eval_dataset")
        if not prompts or not all(len(rows) for rows in prompts.values()):
            raise UserError("There is nothing to evaluate on: pass eval_dataset to the trainer or to evaluate().")
        return prompts

    # The life of a run

    def _begin_training(self, resume_from_checkpoint: str | bool | None) -> float:
        """Fresh or restored state, and the first events; returns the time."""
        args = self.args
        checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        self.is_in_train = True
        self.state = self._new_state()
        self.num_updates_done = 0
        if checkpoint is not None:
            self._resume(checkpoint)
        self.state.max_steps = self.plan.num_updates
        self.state.num_train_epochs = math.ceil(self.plan.num_updates * self.plan.batch_size / len(self.prompts))
        self.state.train_batch_size = args.per_device_train_batch_size
        for name in ("logging_steps", "eval_steps", "save_steps"):
            setattr(self.state, name, _absolute_steps(getattr(args, name), self.plan.num_updates))
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler
        self.callback_handler.train_dataloader = None
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        self._first_episode, self._policy_losses, self._pending_logs = self.state.episode, [], []
        self._started = time.time()
        if checkpoint is None and args.eval_on_start:
            self._evaluate_and_track()
        return self._started

    def _begin_update(self) -> None:
        self._mask_age = self.masking_policy.age
        if self.state.episode % len(self.prompts) < self.plan.batch_size:
            self.control = self.callback_handler.on_epoch_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)

    def _end_update(self, rollout: Rollout, scores: Scores, estimates: Estimates, stats: UpdateStats) -> None:
        """Count the update, tell the callbacks, and log, evaluate and save as they and the arguments want it."""
        passes_before = self.state.episode // len(self.prompts)
        self.state.global_step += 1
        self.state.episode += self.plan.batch_size
        self.state.epoch = self.state.episode / len(self.prompts)
        self._policy_losses.append(stats.policy_loss)
        self._pending_logs.append(self._update_logs(rollout, scores, estimates, stats))
        self._warn_about_leaking(self._pending_logs[-1]["nlpo/mask_mass"])
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if self.state.episode // len(self.prompts) > passes_before:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        is_last = self.state.global_step >= self.state.max_steps
        if self.control.should_log or (is_last and self._pending_logs and self.args.logging_strategy != "no"):
            self._log_pending()
            if self.args.log_completions:
                self._show_completions(of_all(completion_rows(rollout, scores, estimates)))
        if self.control.should_evaluate:
            self._evaluate_and_track()
        if self.control.should_save:
            self._save_now()
        every = max(1, self.plan.num_updates // max(self.args.num_sample_generations, 1))
        if self.args.num_sample_generations > 0 and (self.state.global_step - 1) % every == 0:
            self.generate_completions(sampling=True)

    def _end_training(self, start: float) -> TrainOutput:
        seconds = time.time() - start
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self.accelerator.wait_for_everyone()
            self._load_best_model()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self._finish_current_push()
        self.is_in_train = False
        loss = sum(self._policy_losses) / max(len(self._policy_losses), 1)
        episodes = self.state.episode - self._first_episode
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(episodes / max(seconds, 1e-9), 3),
            "train_steps_per_second": round(len(self._policy_losses) / max(seconds, 1e-9), 3),
            "train_loss": loss,
        }
        return TrainOutput(self.state.global_step, loss, metrics)

    @contextlib.contextmanager
    def _checkpoint_before_failing(self) -> Iterator[None]:
        """Keep what a run has earned when a reward function fails or the user interrupts it."""
        try:
            yield
        except (RewardError, KeyboardInterrupt):
            if self.state.global_step > 0 and self.args.save_strategy != "no":
                self._save_checkpoint(self.model, trial=None)
            raise

    # Logs

    def _update_logs(
        self, rollout: Rollout, scores: Scores, estimates: Estimates, stats: UpdateStats
    ) -> dict[str, float]:
        metrics: dict[str, float] = {
            "eps": int((self.state.episode - self._first_episode) / max(time.time() - self._started, 1e-9))
        }
        metrics |= update_metrics(
            rollout,
            scores,
            estimates,
            stats,
            mask_age=self._mask_age,
            mask_syncs=self.masking_policy.num_syncs,
            end_token_ids=self.mask.always_allowed,
            gather=self.accelerator.gather,
        )
        return {**metrics, "lr": self._learning_rate, "episode": self.state.episode}

    def _warn_about_leaking(self, mask_mass: float) -> None:
        """Say once that the policy has moved probability out of an old mask, where no gradient reaches it."""
        held = self.args.mask_top_p if self.args.mask_strategy == "top_p" else 0.0
        if mask_mass < LEAKING * held and not self._has_warned and self.is_world_process_zero():
            self._has_warned = True
            logger.warning(
                f"The policy gives only {mask_mass:.2f} of its probability to the tokens of a mask that held more "
                f"than {held:.2f} when it was made; the rest will be sampled after the next sync. Lower "
                "mask_sync_steps or learning_rate."
            )

    def _log_pending(self) -> None:
        """Log the averages over the updates since the last log; `lr` and `episode` are the latest."""
        latest = self._pending_logs[-1]
        averages = {}
        for name in latest:
            values = [logs[name] for logs in self._pending_logs if name in logs]
            averages[name] = sum(values) / len(values) if name not in ("lr", "episode", "eps") else latest[name]
        self._pending_logs = []
        self.log(averages)

    def _show_completions(self, rows: list[dict[str, Any]]) -> None:
        if self.is_world_process_zero():
            print_completions(rows, f"update {self.state.global_step}", self.args.num_completions_to_print)
            append_completions(rows, self.args.output_dir, self.state.global_step)

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
            `dict[str, float]`: those of [`evaluation.Evaluation`] with the prefix, `<prefix>_<name>_*` for a named
            data set, and `<prefix>_runtime`.
        """
        start = time.time()
        metrics: dict[str, float] = {}
        for name, prompts in self._eval_prompts(eval_dataset).items():
            prefix = f"{metric_key_prefix}_{name}" if name else metric_key_prefix
            evaluation = self._evaluate_prompts(prompts)
            metrics |= {f"{prefix}_{key}": value for key, value in evaluation.metrics.items()}
            if self.args.log_completions and self.is_world_process_zero():
                print_completions(
                    evaluation.samples,
                    f"{prefix}, update {self.state.global_step}",
                    self.args.num_completions_to_print,
                )
        metrics[f"{metric_key_prefix}_runtime"] = round(time.time() - start, 4)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate_prompts(self, prompts: PromptDataset, limit: int | None = None) -> Evaluation:
        with self._generation_model() as model, evaluation_mode(model), self.accelerator.autocast():
            rows = shared_out(
                min(len(prompts), limit or len(prompts)),
                lambda indices: evaluate_rows(
                    model.policy,
                    prompts,
                    indices,
                    reward_functions=self.reward_functions,
                    args=self.args,
                    tokenizer=self.processing_class,
                    judge_logits=self._reference_logits,
                    trainer_state=self.state,
                ),
            )
        return summarize(rows)

    def _evaluate_and_track(self) -> None:
        """Evaluate, remember the best, and decide on saving where that depends on it."""
        metrics = self._evaluate(trial=None, ignore_keys_for_eval=None)
        is_new_best = self._determine_best_metric(metrics=metrics, trial=None)
        if self.args.save_strategy == SaveStrategy.BEST:
            self.control.should_save = is_new_best

    def generate_completions(self, sampling: bool = False) -> None:
        """Print completions of held-out prompts with their scores, and hand them to Weights & Biases if that runs.

        Args:
            sampling (`bool`): only the first batch instead of the whole evaluation set.
        """
        if not self.eval_prompts:
            return
        limit = self.args.per_device_eval_batch_size * self.accelerator.num_processes if sampling else None
        evaluation = self._evaluate_prompts(next(iter(self.eval_prompts.values())), limit)
        if not self.is_world_process_zero():
            return
        print_completions(evaluation.samples, f"update {self.state.global_step}", self.args.num_completions_to_print)
        if "wandb" in self.args.report_to:
            import wandb

            if wandb.run is not None:
                columns = list(evaluation.samples[0])
                data = [[str(value) for value in row.values()] for row in evaluation.samples]
                wandb.log({"completions": wandb.Table(columns=columns, data=data)})

    # Saving and resuming

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save policy (a plain model or PEFT adapter) and tokenizer; the value function goes into `value_model/`."""
        output_dir = output_dir or self.args.output_dir
        policy = self.policy_and_value.policy
        with self._as_plain_trainer(), saving_only(policy, self.trained_adapter):
            super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            save_value_function(self.policy_and_value, output_dir)

    @contextlib.contextmanager
    def _as_plain_trainer(self) -> Iterator[None]:
        """Let `transformers.Trainer` see the policy alone, which is what it saves, loads, describes and pushes."""
        own = self.model
        self.model = self.policy_and_value.policy
        try:
            yield
        finally:
            self.model = own

    def _save_now(self) -> None:
        self._save_checkpoint(self.model, trial=None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        name = self.args.hub_model_id.split("/")[-1] if self.args.hub_model_id else Path(self.args.output_dir).name
        self.create_model_card(model_name=name)
        super()._save_checkpoint(model, trial)
        if self.args.should_save and not self.args.save_only_model:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if folder.is_dir():
                save_run_state(folder, self)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card (`README.md`) into `output_dir`; arguments as in TRL."""
        with self._as_plain_trainer():
            super().create_model_card(*args, **kwargs)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if is_adapter_model(self.policy_and_value.policy):
            self._load_adapter(best)
        else:
            with self._as_plain_trainer():
                super()._load_best_model()
        self.masking_policy.policy_moved()

    def _load_adapter(self, checkpoint: str) -> None:
        """The policy's adapter; PEFT writes one that is not called "default" into a folder of its name."""
        policy, name = self.policy_and_value.policy, self.trained_adapter
        load_adapter_weights(policy, name, Path(checkpoint) / name if name != "default" else Path(checkpoint))

    def _checkpoint_to_resume(self, resume_from_checkpoint: str | bool | None) -> str | None:
        if not resume_from_checkpoint:
            return None
        if isinstance(resume_from_checkpoint, bool):
            newest = get_last_checkpoint(self.args.output_dir) if os.path.isdir(self.args.output_dir) else None
            if newest is None:
                raise UserError(f"There is no checkpoint to resume from in {self.args.output_dir}.")
            return newest
        if not os.path.isdir(resume_from_checkpoint):
            raise UserError(
                f"The checkpoint {resume_from_checkpoint} does not exist: give a folder, or True for the newest."
            )
        return str(resume_from_checkpoint)

    def _resume(self, checkpoint: str) -> None:
        """Policy, value function, masking policy, optimizer, scheduler, counters and random states of a checkpoint."""
        if is_adapter_model(self.policy_and_value.policy):
            self._load_adapter(checkpoint)
        else:
            with self._as_plain_trainer():
                self._load_from_checkpoint(checkpoint)
        load_run_state(checkpoint, self)
        self.state = NLPOTrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
        self._load_callback_state()
        self._load_optimizer_and_scheduler(checkpoint)
        self._load_rng_state(checkpoint)
        self.state.episode = self.state.global_step * self.plan.batch_size
        self.num_updates_done = self.state.global_step

    def _new_state(self) -> NLPOTrainerState:
        stateful: Any = [
            callback
            for callback in [*self.callback_handler.callbacks, self.control]
            if isinstance(callback, ExportableState)
        ]
        return NLPOTrainerState(
            is_local_process_zero=self.is_local_process_zero(),
            is_world_process_zero=self.is_world_process_zero(),
            stateful_callbacks=stateful,
        )


def _absolute_steps(steps: float | None, num_updates: int) -> float | None:
    """A number of updates, from that or from a share of the run below 1."""
    return math.ceil(num_updates * steps) if steps is not None and 0 < steps < 1 else steps
