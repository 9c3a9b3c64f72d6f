"""What `transformers.Trainer` promises and TRL's PPO did not keep: events, logs, evaluation.

No mathematics; `NLPOTrainer` adds the algorithm.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import SaveStrategy, TrainOutput
from transformers.utils import logging

from .._trl import init_transformers_trainer
from ..errors import UserError
from ..evaluation.rows import evaluate_rows
from ..evaluation.summary import Evaluation, summarize
from ..launch.processes import of_all, shared_out
from ..models.modes import evaluation_mode
from ..prompts import PromptDataset, UpdateSampler, collate_prompts
from ..records import Estimates, Rollout, Scores, UpdateStats
from ..storage.checkpoint_folder import remove_leftovers
from .checkpoints import CheckpointHandling
from .completions_table import append_completions, print_completions
from .logs import completion_rows, update_metrics
from .run_state import Progress


logger = logging.get_logger(__name__)

LEAKING = 0.9
"""Share of `mask_top_p` below which the mass that an old mask still holds is worth a warning."""


class TrainerPlumbing(CheckpointHandling):
    """The Hugging Face side of [`NLPOTrainer`]; a step of the trainer is an update."""

    # Set by `transformers.Trainer`.
    control: Any
    lr_scheduler: Any

    def __init__(self, **kwargs: Any) -> None:
        init_transformers_trainer(self, **kwargs)
        self.progress = Progress()
        self._first_update = 0
        self._mask_age = 0
        self._learning_rate = 0.0
        self._started = time.time()

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
        # A loader draws a seed when it starts. Not from the global generator, which a resumed run goes on with.
        generator = torch.Generator()
        return DataLoader(self.prompts, batch_sampler=sampler, collate_fn=collate_prompts, generator=generator)

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
        if self.args.should_save:
            remove_leftovers(args.output_dir)
        self.accelerator.wait_for_everyone()
        checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        self.is_in_train = True
        self.state, self.progress = self._new_state(), Progress()
        self.num_updates_done = 0
        self._renew_scheduler()
        self._newest_checkpoint, self._checkpoint_step = None, None
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
        self._first_update = self.state.global_step
        self._started = time.time()
        if checkpoint is not None:
            self._load_rng_state(checkpoint)
            self._finish_what_was_begun()
        elif args.eval_on_start:
            self._evaluate_and_track()
        return self._started

    def _finish_what_was_begun(self) -> None:
        """Events of the checkpoint's update that a failure kept from happening."""
        unfinished, self.progress.unfinished = self.progress.unfinished, []
        for name in unfinished:
            setattr(self.control, name, True)
        if unfinished:
            with self._kept_safe():
                if self.control.should_log and self.progress.pending_logs:
                    self._log_pending()
                self._evaluate_and_save()

    def _begin_update(self) -> None:
        self._note_random_state()
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
        self._count_steps(stats)
        self.progress.pending_logs.append(self._update_logs(rollout, scores, estimates, stats))
        self._warn_about_leaking(self.progress.pending_logs[-1]["nlpo/mask_mass"])
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if self.state.episode // len(self.prompts) > passes_before:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
        is_last = self.state.global_step >= self.state.max_steps
        if self.control.should_log or (is_last and self.args.logging_strategy != "no"):
            self._log_pending()
            if self.args.log_completions:
                self._show_completions(of_all(completion_rows(rollout, scores, estimates)))
        every = max(1, self.plan.num_updates // max(self.args.num_sample_generations, 1))
        if self.args.num_sample_generations > 0 and (self.state.global_step - 1) % every == 0:
            # Should a reward fail here, the run goes on from after this update.
            self._note_random_state()
            self.generate_completions(sampling=True)
        self._evaluate_and_save()
        self._watch_for_collapse()
        self._stop_if_hopeless()
        self._stop_if_asked()

    def _evaluate_and_save(self) -> None:
        """The end of an update. Saving comes last, so that a checkpoint holds all that came before it."""
        if self.control.should_evaluate:
            self._note_random_state()
            self._evaluate_and_track()
        if self.control.should_save:
            self._save_now()

    def _end_training(self, start: float) -> TrainOutput:
        seconds = time.time() - start
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self.accelerator.wait_for_everyone()
            self._load_best_model()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        self._finish_current_push()
        self.is_in_train = False
        loss = self.progress.policy_loss_sum / max(self.progress.num_updates, 1)
        updates = self.state.global_step - self._first_update
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_samples_per_second": round(updates * self.plan.batch_size / max(seconds, 1e-9), 3),
            "train_steps_per_second": round(updates / max(seconds, 1e-9), 3),
            "train_loss": loss,
        }
        return TrainOutput(self.state.global_step, loss, metrics)

    # Logs

    def _update_logs(
        self, rollout: Rollout, scores: Scores, estimates: Estimates, stats: UpdateStats
    ) -> dict[str, float]:
        episodes = (self.state.global_step - self._first_update) * self.plan.batch_size
        metrics: dict[str, float] = {"eps": int(episodes / max(time.time() - self._started, 1e-9))}
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
        if mask_mass < LEAKING * held and "leaking" not in self.progress.warned_of and self.is_world_process_zero():
            self.progress.warned_of.append("leaking")
            logger.warning(
                f"The policy gives only {mask_mass:.2f} of its probability to the tokens of a mask that held more "
                f"than {held:.2f} when it was made; the rest will be sampled after the next sync. Lower "
                "mask_sync_steps or learning_rate."
            )

    def _log_pending(self) -> None:
        """Log the averages over the updates since the last log; `lr` and `episode` are the latest."""
        pending, self.progress.pending_logs = self.progress.pending_logs, []
        latest = pending[-1]
        averages = {}
        for name in dict.fromkeys(name for logs in pending for name in logs):
            values = [logs[name] for logs in pending if name in logs]
            # What could not be measured in one update is averaged over the others.
            values = [value for value in values if not math.isnan(value)] or values
            averages[name] = sum(values) / len(values) if name not in ("lr", "episode", "eps") else latest[name]
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
        with self._generation_model() as model, evaluation_mode(model):
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


def _absolute_steps(steps: float | None, num_updates: int) -> float | None:
    """A number of updates, from that or from a share of the run below 1."""
    return math.ceil(num_updates * steps) if steps is not None and 0 < steps < 1 else steps
