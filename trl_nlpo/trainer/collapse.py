"""Signs in the log that a policy is learning to please the reward and forgetting the language.

Pure functions over logged metrics. The bounds are meant to be crossed by runs that anybody would stop, not to find the
first hint; look at samples in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from statistics import median


WINDOW = 10
"""Log events that are compared: the last so many with the first so many. Fewer than twice as many say nothing."""

PERPLEXITY_FACTOR = 3.0
"""Growth of the completions' perplexity under the reference that, with a growing reward, looks like hacking."""

KL_PER_TOKEN = 1.0
"""KL from the reference, in nats per token of a completion, at which little of the reference can be left."""

ENTROPY_SHARE, ENTROPY_LEFT = 0.1, 0.1
"""The policy hardly chooses any more when its entropy is below this share of its first, and below this many nats."""


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
