"""How one batch of rollouts is split: batch > minibatch (one optimizer step) > microbatch (one backward)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """The sizes of a run, all in completions.

    Attributes:
        num_processes (`int`): processes that sample and train together.
        microbatch_size (`int`): rows of one backward pass, per process (`per_device_train_batch_size`).
        local_batch_size (`int`): rows of one update, per process (times `gradient_accumulation_steps`).
        num_mini_batches (`int`): optimizer steps that a batch is split into, per PPO epoch.
        num_ppo_epochs (`int`): passes over a batch.
        num_updates (`int`): updates in the run.
        critic_updates_per_step (`int`): passes of the value function for each pass of the policy.
    """

    num_processes: int
    microbatch_size: int
    local_batch_size: int
    num_mini_batches: int
    num_ppo_epochs: int
    num_updates: int
    critic_updates_per_step: int = 1

    @classmethod
    def from_config(cls, args: Any, num_processes: int, dataset_size: int) -> BatchPlan:
        """Read the sizes off an [`NLPOConfig`].

        Raises:
            UserError: a batch that cannot be split evenly, or a data set that is empty or smaller than a batch.
        """
        local_batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
        batch_size = local_batch_size * num_processes
        if dataset_size == 0:
            raise UserError("train_dataset is empty: there are no prompts to train on.")
        if local_batch_size % args.num_mini_batches:
            raise UserError(
                f"num_mini_batches is {args.num_mini_batches}, which does not divide the {local_batch_size} "
                "completions of a batch (per_device_train_batch_size x gradient_accumulation_steps): change one of "
                "the three."
            )
        if dataset_size < batch_size:
            raise UserError(
                f"train_dataset has {dataset_size} rows, but one update takes {batch_size} "
                "(per_device_train_batch_size x gradient_accumulation_steps x processes): lower these or add data."
            )
        total_episodes = args.total_episodes or math.ceil(args.num_train_epochs * dataset_size)
        num_updates = args.max_steps if args.max_steps > 0 else math.ceil(total_episodes / batch_size)
        if args.whiten_rewards and local_batch_size * num_processes < 8:
            raise UserError(
                f"whiten_rewards needs at least 8 completions in a batch for a usable variance, not {batch_size}."
            )
        return cls(
            num_processes=num_processes,
            microbatch_size=args.per_device_train_batch_size,
            local_batch_size=local_batch_size,
            num_mini_batches=args.num_mini_batches,
            num_ppo_epochs=args.num_ppo_epochs,
            num_updates=max(num_updates, 1),
            critic_updates_per_step=args.critic_updates_per_step,
        )

    @property
    def batch_size(self) -> int:
        """Completions of one update, over all processes."""
        return self.local_batch_size * self.num_processes

    @property
    def local_minibatch_size(self) -> int:
        """Completions of one optimizer step, per process."""
        return self.local_batch_size // self.num_mini_batches

    @property
    def sizes(self) -> dict[str, int]:
        """What a checkpoint keeps, to be compared when a run is resumed."""
        return {
            "processes": self.num_processes,
            "completions of an update": self.batch_size,
            "per_device_train_batch_size": self.microbatch_size,
            "num_mini_batches": self.num_mini_batches,
            "num_ppo_epochs": self.num_ppo_epochs,
            "critic_updates_per_step": self.critic_updates_per_step,
        }

    def check_resumed(self, saved: Mapping[str, int], checkpoint: Any) -> None:
        """Refuse to resume from a checkpoint that was written with other sizes.

        Args:
            saved: its `sizes`; empty where it has none.
            checkpoint: its folder.

        Raises:
            UserError: the differences, as `size: old -> new`.
        """
        now = self.sizes
        changes = [f"{key}: {old} -> {now[key]}" for key, old in saved.items() if key in now and now[key] != old]
        if changes:
            raise UserError(
                f"{checkpoint} was written with other batches ({'; '.join(changes)}): resume it with the same number "
                "of processes and the same batch sizes, or a recipe with --force."
            )

    def minibatches(
        self, num_rows: int, generator: torch.Generator, lengths: torch.Tensor | None = None
    ) -> Iterator[list[torch.Tensor]]:
        """One pass over a batch, freshly shuffled: a list of microbatches (row numbers) for each optimizer step.

        Args:
            num_rows (`int`): rows of the rollout; `local_batch_size` in `train()`, any number in a loop of one's own.
            generator: decides the order.
            lengths (`torch.Tensor` of shape `(num_rows,)`, *optional*): tokens of each row. Microbatches of a step
                then have rows of like lengths, and little padding; their gradients are added up, so that nothing else
                changes.
        """
        num_parts = min(self.num_mini_batches, num_rows)
        for minibatch in torch.randperm(num_rows, generator=generator).tensor_split(num_parts):
            if lengths is not None and len(minibatch) > self.microbatch_size:
                minibatch = minibatch[lengths[minibatch].argsort(stable=True)]
            yield list(minibatch.split(self.microbatch_size))

    def passes(self, trains_policy: bool = True) -> list[str]:
        """What each pass of an update trains, in their order: `"both"`, or `"value"` for the critic alone."""
        of_an_epoch = ["both" if trains_policy else "value"] + ["value"] * (self.critic_updates_per_step - 1)
        return of_an_epoch * self.num_ppo_epochs
