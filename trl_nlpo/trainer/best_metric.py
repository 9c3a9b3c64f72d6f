"""Whether `metric_for_best_model` is something that an evaluation measures, before hours go by until the first one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..algorithm.scoring import reward_names
from ..config import NLPOConfig
from ..errors import UserError
from ..naming import did_you_mean


MEASURED = (
    "reward",
    "reward_std",
    "perplexity",
    "completions/mean_length",
    "completions/eos_ratio",
    "distinct_1",
    "distinct_2",
    "skipped_completions",
)
"""What every evaluation has, beside the mean of each reward function."""


def check_best_metric(args: NLPOConfig, reward_functions: Sequence[Any], data_sets: Iterable[str] = ()) -> None:
    """Refuse a `metric_for_best_model` that no evaluation has.

    Args:
        args ([`NLPOConfig`])
        reward_functions (`list`): as [`as_reward_functions`] gives them.
        data_sets (`Iterable[str]`): names of the held-out data sets; a single one has the name "".

    Raises:
        UserError: says which there are.
    """
    if args.metric_for_best_model is None:
        return
    name = args.metric_for_best_model.removeprefix("eval_")
    known = [*MEASURED, *(f"rewards/{function}/mean" for function in reward_names(reward_functions))]
    known = [f"{prefix}_{key}" if prefix else key for prefix in list(data_sets) or [""] for key in known]
    if name not in known and name != "runtime":
        raise UserError(
            f"metric_for_best_model: an evaluation has no {name!r}{did_you_mean(name, known)}. It has "
            f"{', '.join(known)}."
        )
