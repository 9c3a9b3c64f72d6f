"""`Run`: every counter of a run. It has one owner and is saved as one record."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainerState

from ..algorithm.draws import random_state, set_random_state
from ..records import UpdateStats


_UNSAVED = {"saved": False}


@dataclass
class Run:
    """What a run counts and remembers from one update to the next, beside `TrainerState`.

    Attributes:
        kl_coef (`float`): the KL coefficient β as it is now.
        pending_logs (`list` of `dict`): metrics of the updates since the last log.
        policy_loss_sum (`float`), num_losses (`int`): for the mean loss of the whole run.
        skipped_steps_in_a_row (`int`): optimizer steps that were skipped since the last that was taken.
        unfinished_events (`list` of `str`): events of the last update that were still to come when the checkpoint was
            written, as a failure in an evaluation leaves it: names of `TrainerControl`, such as `"should_evaluate"`.
        reward_moments (`dict` of `list`): by the name of a reward function the running mean and mean square of its
            rewards, for `normalize_rewards`.
        in_update (`bool`): the weights were in the middle of an update; such a run resumes, but not bit for bit.

    Of this process, and in no checkpoint:
        num_updates (`int`): updates taken, in `train()` or in a loop of one's own.
        rollouts_since_update (`int`): rollouts since the last update.
        next_reward_moments (`dict` of `list`): `reward_moments` as they will be when the update is done.
        trained_policy (`bool`): whether the last update moved the policy, or only warmed the critic up.
        is_updating (`bool`): `update_policy` has begun and not ended.
        first_update (`int`), started (`float`): update and time at which `train()` began.
        mask_age (`int`): the masking policy's, when the update began.
        learning_rate, critic_learning_rate (`float`): of the last update.
        newest_checkpoint (`Path`, *optional*), checkpoint_step (`int`, *optional*): the last one written or resumed
            from, and its update.
        random_state (`tuple`, *optional*): the random generators' at the last point from which a run can resume.
    """

    kl_coef: float = 0.0
    pending_logs: list[dict[str, float]] = field(default_factory=list)
    policy_loss_sum: float = 0.0
    num_losses: int = 0
    skipped_steps_in_a_row: int = 0
    unfinished_events: list[str] = field(default_factory=list)
    reward_moments: dict[str, list[float]] = field(default_factory=dict)
    in_update: bool = False

    num_updates: int = field(default=0, metadata=_UNSAVED)
    rollouts_since_update: int = field(default=0, metadata=_UNSAVED)
    next_reward_moments: dict[str, list[float]] = field(default_factory=dict, metadata=_UNSAVED)
    trained_policy: bool = field(default=True, metadata=_UNSAVED)
    is_updating: bool = field(default=False, metadata=_UNSAVED)
    first_update: int = field(default=0, metadata=_UNSAVED)
    started: float = field(default=0.0, metadata=_UNSAVED)
    mask_age: int = field(default=0, metadata=_UNSAVED)
    learning_rate: float = field(default=0.0, metadata=_UNSAVED)
    critic_learning_rate: float = field(default=0.0, metadata=_UNSAVED)
    newest_checkpoint: Path | None = field(default=None, metadata=_UNSAVED)
    checkpoint_step: int | None = field(default=None, metadata=_UNSAVED)
    random_state: tuple[Any, ...] | None = field(default=None, metadata=_UNSAVED)

    def begin(self) -> None:
        """Start counting anew, as `train()` does. The KL coefficient, and rollouts without an update, stay."""
        fresh = Run(kl_coef=self.kl_coef, rollouts_since_update=self.rollouts_since_update)
        vars(self).update(vars(fresh))

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps; JSON."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.metadata.get("saved", True)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over what `saved` gave."""
        vars(self).update({name: saved[name] for name in self.saved() if name in saved})

    def count(self, stats: UpdateStats) -> None:
        """An update's optimizer steps, taken and skipped."""
        if stats.num_optimizer_steps:
            # NaN where only the value function learned.
            if not math.isnan(stats.policy_loss):
                self.policy_loss_sum += stats.policy_loss
                self.num_losses += 1
            self.skipped_steps_in_a_row = 0
        self.skipped_steps_in_a_row += stats.skipped_steps_in_a_row

    @property
    def mean_policy_loss(self) -> float:
        """Over all updates with an optimizer step of the policy; 0 where there was none."""
        return self.policy_loss_sum / max(self.num_losses, 1)

    def note_checkpoint(self, checkpoint: Path, step: int) -> None:
        """The checkpoint of update `step` is written, or was resumed from."""
        self.newest_checkpoint, self.checkpoint_step = checkpoint, step

    def note_random_state(self) -> None:
        """Remember where the random generators are, for a checkpoint that has to be written later."""
        self.random_state = random_state()

    def restore_random_state(self) -> None:
        """Put the random generators back to where `note_random_state` found them."""
        if self.random_state is not None:
            set_random_state(self.random_state)


@dataclass
class NLPOTrainerState(TrainerState):
    """`TrainerState` with the number of completions sampled so far, as TRL's PPO has it."""

    episode: int = 0
