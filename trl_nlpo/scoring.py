"""Room 2: text in, floats out. Knows nothing of logits or of the policy."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .errors import RewardError, UserError
from .records import Completions, Scores


RewardFunction = Callable[..., Any]


def score_rollout(
    rollout: Completions,
    reward_functions: Sequence[RewardFunction],
    weights: Sequence[float],
    *,
    missing_eos_penalty: float | None = None,
    trainer_state: Any = None,
) -> Scores:
    """Ask every reward function about every completion.

    Args:
        rollout ([`Rollout`] or [`Completions`]): B completions.
        reward_functions: F functions. One that has a method `score_completions` is given the record itself (a reward
            model that reads tokens); the others have TRL's signature: keywords `prompts`, `completions`,
            `completion_ids`, every column of the data set and `trainer_state`; each returns B floats, B Nones ("does
            not apply") or B lists with one float per token of `completion_ids`; `async def` runs concurrently.
        weights: F factors.
        missing_eos_penalty (`float`, *optional*): taken from completions that no stop token ended.
        trainer_state: passed on.

    Returns:
        [`Scores`] on the rollout's device.

    Raises:
        RewardError: a function raised, or returned the wrong number of values or something that is no finite number;
            the message names the function and the sample.
    """
    recorder = _Recorder(len(rollout))
    call = {
        **rollout.batch.columns,
        "prompts": rollout.batch.prompts,
        "completions": rollout.completions,
        "completion_ids": rollout.completion_token_ids,
        "trainer_state": trainer_state,
        "log_metric": recorder.log_metric,
        "log_extra": recorder.log_extra,
    }
    names = reward_names(reward_functions)
    results = _call_all(reward_functions, names, call, rollout)
    return _combine(rollout, results, names, weights, missing_eos_penalty, recorder)


def reward_names(reward_functions: Sequence[RewardFunction]) -> list[str]:
    """A name for each function: its `__name__`, or its class; numbered when two share one."""
    names: list[str] = []
    for function in reward_functions:
        inner = getattr(function, "func", function)
        name = getattr(inner, "__name__", type(inner).__name__)
        names.append(name)
    taken = set(names)
    for index, name in enumerate(names):
        if name in names[:index]:
            names[index] = next(new for n in itertools.count(index) if (new := f"{name}_{n}") not in taken)
            taken.add(names[index])
    return names


def check_weights(weights: Sequence[float] | None, num_functions: int) -> list[float]:
    """One weight per function, 1 each by default; a `UserError` for another number of them."""
    if weights is None:
        return [1.0] * num_functions
    if len(weights) != num_functions:
        raise UserError(
            f"reward_weights has {len(weights)} values for {num_functions} reward functions: give one each."
        )
    return [float(weight) for weight in weights]


class _Recorder:
    """What reward functions say beside their rewards, as in TRL."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.metrics: dict[str, list[float]] = {}
        self.columns: dict[str, list] = {}

    def log_metric(self, name: str, value: float) -> None:
        self.metrics.setdefault(name, []).append(float(value))

    def log_extra(self, column: str, values: list) -> None:
        if len(values) != self.num_rows:
            raise RewardError(f"log_extra got {len(values)} values of {column!r} for {self.num_rows} completions.")
        self.columns[column] = list(values)


def _call_all(
    functions: Sequence[RewardFunction], names: list[str], call: dict[str, Any], rollout: Completions
) -> list[Any]:
    results: list[Any] = [None] * len(functions)
    pending = []
    for index, (function, name) in enumerate(zip(functions, names, strict=True)):
        if not hasattr(function, "score_completions") and _is_async(function):
            pending.append((index, _guarded(function, name, _accepted(function, call))))
            continue
        try:
            if hasattr(function, "score_completions"):
                results[index] = function.score_completions(rollout)
            else:
                results[index] = function(**_accepted(function, call))
        except RewardError:
            raise
        except Exception as error:
            raise RewardError(_raised(name, error)) from error
    if pending:
        for (index, _), result in zip(pending, _run_together([coroutine for _, coroutine in pending]), strict=True):
            results[index] = result
    return results


def _raised(name: str, error: Exception) -> str:
    return f"The reward function {name!r} raised {type(error).__name__}: {error}"


async def _guarded(function: RewardFunction, name: str, arguments: dict[str, Any]) -> Any:
    try:
        return await function(**arguments)
    except Exception as error:
        raise RewardError(_raised(name, error)) from error


def _run_together(coroutines: list) -> list:
    async def gather() -> list:
        return list(await asyncio.gather(*coroutines))

    # A notebook has an event loop running already, in which `asyncio.run` is not allowed; a thread has none.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, gather()).result()


def _is_async(function: RewardFunction) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _accepted(function: RewardFunction, call: dict[str, Any]) -> dict[str, Any]:
    """All keywords, or those that a function without `**kwargs` names."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return call
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return call
    return {key: value for key, value in call.items() if key in parameters}


def _combine(
    rollout: Completions,
    results: list[Any],
    names: list[str],
    weights: Sequence[float],
    missing_eos_penalty: float | None,
    recorder: _Recorder,
) -> Scores:
    device, (B, T) = rollout.completion_ids.device, rollout.completion_ids.shape
    per_function = torch.full((B, len(names)), float("nan"))
    scores = torch.zeros(B)
    dense = torch.zeros(B, T)
    has_dense = False
    for index, (result, name) in enumerate(zip(results, names, strict=True)):
        values = _as_rows(result, name, B)
        for row, value in enumerate(values):
            if value is None:
                continue
            if isinstance(value, list):
                tokens = _token_rewards(value, name, row, int(rollout.completion_mask[row].sum()))
                per_function[row, index] = float(tokens.sum())
                dense[row, : len(tokens)] += weights[index] * tokens
                has_dense = True
            else:
                per_function[row, index] = _number(value, name, row)
                scores[row] += weights[index] * per_function[row, index]
    _warn_about_unscored_rows(per_function)
    if missing_eos_penalty is not None:
        scores = scores - missing_eos_penalty * (~rollout.ended).float().to(scores.device)
    return Scores(
        scores=scores.to(device),
        per_function=per_function.to(device),
        names=names,
        dense_rewards=dense.to(device) if has_dense else None,
        metrics=recorder.metrics,
        extra_columns=recorder.columns,
    )


def _as_rows(result: Any, name: str, num_rows: int) -> list[Any]:
    if isinstance(result, torch.Tensor) or type(result).__module__ == "numpy":
        result = result.tolist()
    if isinstance(result, (str, bytes, dict)) or not isinstance(result, Sequence):
        raise RewardError(
            f"The reward function {name!r} returned {type(result).__name__}, but must return a list with one number "
            "per completion."
        )
    if len(result) != num_rows:
        raise RewardError(f"The reward function {name!r} returned {len(result)} values for {num_rows} completions.")
    return [_as_plain(value) for value in result]


def _as_plain(value: Any) -> Any:
    """Rewards per token as a list, whatever sequence they come in."""
    if getattr(value, "ndim", 0) > 0:
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _token_rewards(value: list[Any], name: str, row: int, num_tokens: int) -> torch.Tensor:
    if len(value) != num_tokens:
        raise RewardError(
            f"The reward function {name!r} returned {len(value)} token rewards for sample {row}, which has "
            f"{num_tokens} tokens: give one per id in completion_ids."
        )
    return torch.tensor([_number(item, name, row) for item in value])


def _number(value: Any, name: str, row: int) -> float:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, str) or not isinstance(value, (int, float)):
        raise RewardError(
            f"The reward function {name!r} returned {value!r} for sample {row}, which is {type(value).__name__}, "
            "not a number."
        )
    if not math.isfinite(value):
        raise RewardError(
            f"The reward function {name!r} returned {value} for sample {row}: return a finite number, or None where "
            "the function does not apply."
        )
    return float(value)


def _warn_about_unscored_rows(per_function: torch.Tensor) -> None:
    unscored = per_function.isnan().all(-1).nonzero().flatten().tolist()
    if unscored:
        warnings.warn(
            f"Every reward function returned None for {len(unscored)} completion(s), the first of them sample "
            f"{unscored[0]}: their reward counts as 0.",
            stacklevel=2,
        )
