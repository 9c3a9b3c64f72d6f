"""Callbacks that watch a run for what goes wrong: reward hacking, a policy that leaks out of an old mask, ratios that
begin far from 1, and a policy that does not move.

What they have said is kept in checkpoints, so that a resumed run does not say it again. The bounds are meant to be
crossed by runs that anybody would stop, not to find the first hint; look at samples in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging


logger = logging.get_logger(__name__)

LEAKING = 0.9
"""Share of `mask_top_p` below which the mass that an old mask still holds is worth a warning."""

WINDOW = 10
"""Log events that are compared: the last so many with the first so many. Fewer than twice as many say nothing."""

PERPLEXITY_FACTOR = 3.0
"""Growth of the completions' perplexity under the reference that, with a growing reward, looks like hacking."""

KL_PER_TOKEN = 1.0
"""KL from the reference, in nats per token of a completion, at which little of the reference can be left."""

ENTROPY_SHARE, ENTROPY_LEFT = 0.1, 0.1
"""The policy hardly chooses any more when its entropy is below this share of its first, and below this many nats."""


FIRST_RATIO = 0.1
"""Deviation from 1 of a ratio before any learning that rounding in half precision does not explain."""

SMALLEST_MOVE = 1e-12
"""Weights that are 0 follow any step, however small; below this they have not moved."""

WEIGHTS_LOOKED_AT = 256
"""Weights of each parameter that are compared before and after an update."""


class _Watch(TrainerCallback, ExportableState):
    """A callback that says each thing once."""

    def __init__(self) -> None:
        self.warned_of: list[str] = []

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"warned_of": list(self.warned_of)}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.warned_of = []

    def _warn_once(self, kind: str, message: str, state: Any) -> bool:
        """Whether it was new."""
        if kind in self.warned_of:
            return False
        self.warned_of.append(kind)
        if state.is_world_process_zero:
            logger.warning(message)
        return True


class CollapseWatch(_Watch):
    """Warns, once per kind, that the log looks like reward hacking; with `stop_on_collapse`, ends the run there."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for kind, sign in collapse_signs(state.log_history).items():
            if self._warn_once(kind, sign, state) and args.stop_on_collapse:
                control.should_training_stop = True
                # With a checkpoint of this update, whatever save_steps says.
                control.should_save = args.save_strategy != "no"


class LeakingMaskWatch(_Watch):
    """Warns once that the policy has moved probability out of an old mask, where no gradient reaches it."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        held = args.mask_top_p if args.mask_strategy == "top_p" else 0.0
        mask_mass = (logs or {}).get("nlpo/mask_mass", 1.0)
        if mask_mass < LEAKING * held:
            message = (
                f"The policy gives only {mask_mass:.2f} of its probability to the tokens of a mask that held more "
                f"than {held:.2f} when it was made; the rest will be sampled after the next sync. Raise "
                "mask_anchor_coef, or lower mask_sync_steps or learning_rate."
            )
            self._warn_once("leaking", message, state)


class FirstRatioWatch(_Watch):
    """Warns once that rollout and update disagree about the policy, before it has moved."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        deviation = (logs or {}).get("nlpo/first_ratio_deviation", 0.0)
        if not deviation > FIRST_RATIO:
            return
        message = (
            f"Importance ratios are up to {deviation:.2g} away from 1 before any learning "
            "(nlpo/first_ratio_deviation): rollout and update compute the policy differently. Set bf16=False, or look "
            "for what changes the model between them."
        )
        self._warn_once("first ratio", message, state)


class StandstillWatch(_Watch):
    """Warns once when the first update with a learning rate moved no weight of the policy."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, torch.Tensor] | None = None
        self._is_done = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._before, self._is_done = None, False

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        # A warm-up begins with updates at a learning rate of 0, and the critic's own leaves the policy alone.
        warms_up = state.global_step < args.critic_warmup_steps
        if (
            not warms_up
            and not self._is_done
            and optimizer is not None
            and any(group["lr"] for group in optimizer.param_groups)
        ):
            self._before = _some_weights(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        before, self._before = self._before, None
        if not before:
            return
        self._is_done = True
        after = _some_weights(model)
        moved = (float((after[name] - weight).abs().max()) for name, weight in before.items() if name in after)
        if all(change < SMALLEST_MOVE for change in moved):
            message = (
                "No weight of the policy moved in the first update: every advantage was 0 (all rewards alike?), every "
                "step was skipped, or learning_rate is too small."
            )
            self._warn_once("standstill", message, state)


def _some_weights(model: Any) -> dict[str, torch.Tensor]:
    """A few of each trained parameter of the policy; none of sharded ones, of which a process has a share."""
    return {
        name: parameter.detach().flatten()[:WEIGHTS_LOOKED_AT].clone()
        for name, parameter in model.policy.named_parameters()
        if parameter.requires_grad and parameter.numel() and type(parameter) is nn.Parameter
    }


def collapse_signs(history: Sequence[dict[str, float]]) -> dict[str, str]:
    """What in a log looks like collapse.

    Args:
        history (`list` of `dict`): log events in their order, as `TrainerState.log_history`; those that are not about
            updates are passed over. Medians over `WINDOW` events are compared, so that a bad batch is no sign.

    Returns:
        `dict[str, str]`: for each kind found (`"perplexity"`, `"kl"`, `"entropy"`) a line that says what was seen and
        which setting is the likely one to change.
    """
    first = list(islice(_updates(history), WINDOW))
    last = list(islice(_updates(reversed(history)), WINDOW))
    if len(last) < WINDOW or _overlap(first, last):
        return {}
    found = {
        "perplexity": _perplexity_sign(first, last),
        "kl": _kl_sign(last),
        "entropy": _entropy_sign(first, last),
    }
    return {kind: sign for kind, sign in found.items() if sign is not None}


def _perplexity_sign(first: list[dict[str, float]], last: list[dict[str, float]]) -> str | None:
    before, now = _median(first, "perplexity"), _median(last, "perplexity")
    reward_before, reward_now = _median(first, "reward"), _median(last, "reward")
    if not (now > PERPLEXITY_FACTOR * before and reward_now > reward_before):
        return None
    return (
        f"The reward rose from {reward_before:.3g} to {reward_now:.3g} while the completions' perplexity under the "
        f"reference rose from {before:.3g} to {now:.3g}: this looks like reward hacking. Raise kl_coef, lower "
        "mask_top_p, or lower gamma, and read some completions."
    )


def _kl_sign(last: list[dict[str, float]]) -> str | None:
    kl, length = _median(last, "objective/kl"), _median(last, "completions/mean_length")
    if not kl > KL_PER_TOKEN * max(length, 1.0):
        return None
    return (
        f"The policy is {kl:.3g} nats away from the reference (objective/kl), more than {KL_PER_TOKEN:g} per token: "
        "raise kl_coef, set kl_target, or lower learning_rate."
    )


def _entropy_sign(first: list[dict[str, float]], last: list[dict[str, float]]) -> str | None:
    before, now = _median(first, "policy/entropy_avg"), _median(last, "policy/entropy_avg")
    if not (now < ENTROPY_SHARE * before and now < ENTROPY_LEFT):
        return None
    return (
        f"The policy's entropy fell from {before:.3g} to {now:.3g} nats per token (policy/entropy_avg): it hardly "
        "explores any more. Raise mask_top_p, kl_coef or entropy_coef."
    )


def _updates(history: Iterable[dict[str, float]]) -> Iterable[dict[str, float]]:
    return (entry for entry in history if "objective/kl" in entry)


def _overlap(first: list[dict[str, float]], last: list[dict[str, float]]) -> bool:
    return any(early is late for early in first for late in last)


def _median(entries: list[dict[str, float]], name: str) -> float:
    """NaN, which is neither more nor less than anything, where nothing was measured."""
    values = [entry[name] for entry in entries if name in entry and entry[name] == entry[name]]
    return float(median(values)) if values else float("nan")
