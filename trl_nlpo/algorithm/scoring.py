"""Room 2: text in, floats out. Knows nothing of logits or of the policy."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..display import printable
from ..errors import RewardError, UserError
from ..records import Completions, Scores
from .reward_calls import FunctionFailedError, RewardFunction, call_all


LARGEST = torch.finfo(torch.float32).max
"""The largest reward: they are added up in float32."""


def score_rollout(
    rollout: Completions,
    reward_functions: Sequence[RewardFunction],
    weights: Sequence[float],
    *,
    missing_eos_penalty: float | None = None,
    trainer_state: Any = None,
    failure: str = "raise",
    timeout: float | None = None,
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
        failure (`str`): what to do where a function raises, hangs, or returns what is no finite number: `"raise"`, or
            `"skip"` the completions concerned, and those for which every function returned None.
        timeout (`float`, *optional*): seconds after which a function is taken to hang; see `reward_calls.call_all`.

    Returns:
        [`Scores`] on the rollout's device.

    Raises:
        RewardError: a function raised, or did not return in time, or returned something that is no finite number; the
            message names the function and the sample. With `"skip"`, only for the wrong number or kind of values.
    """
    skips = failure == "skip"
    answers = ask(rollout, reward_functions, trainer_state=trainer_state, skips=skips, timeout=timeout)
    return combine(rollout, answers, weights, missing_eos_penalty=missing_eos_penalty, skips=skips)


@dataclass(frozen=True)
class Answers:
    """What F reward functions returned for B completions, checked but not yet weighed.

    Attributes:
        names (`list[str]`): F names.
        cells (`list`): of each function a cell for each completion; None where it failed and that is skipped.
        numbers (`(F, B)`): rewards, or the sums of rewards per token; NaN where there is none.
        recorder: what the functions said beside their rewards.
    """

    names: list[str]
    cells: list[list[_Cell | None]]
    numbers: torch.Tensor
    recorder: _Recorder


def ask(
    rollout: Completions,
    reward_functions: Sequence[RewardFunction],
    *,
    trainer_state: Any = None,
    skips: bool = False,
    timeout: float | None = None,
) -> Answers:
    """The first half of [`score_rollout`]; `skips` is `failure="skip"`."""
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
    results = call_all(reward_functions, names, call, rollout, timeout)
    failures = [result for result in results if isinstance(result, FunctionFailedError)]
    if failures and not skips:
        raise failures[0]
    for failed in failures:
        warnings.warn(f"{failed} The completions of this batch are skipped.", stacklevel=2)
    lengths = rollout.completion_mask.sum(-1).tolist()
    cells = [_cells(result, name, lengths, skips) for result, name in zip(results, names, strict=True)]
    numbers = torch.tensor([[math.nan if cell is None else cell.number for cell in row] for row in cells])
    return Answers(names, cells, numbers, recorder)


def combine(
    rollout: Completions,
    answers: Answers,
    weights: Sequence[float],
    *,
    missing_eos_penalty: float | None = None,
    skips: bool = False,
    scales: Sequence[float] | None = None,
) -> Scores:
    """The second half of [`score_rollout`].

    Args:
        rollout, answers ([`Answers`]): of the same completions.
        weights, missing_eos_penalty, skips: as before.
        scales (*optional*): F numbers that the functions' rewards are divided by before they are weighed. What is
            logged as the reward is not.
    """
    device = rollout.completion_ids.device
    scores, dense = _weighed(rollout, answers, weights)
    skipped = torch.tensor([None in of_row for of_row in zip(*answers.cells, strict=True)], dtype=torch.bool)
    unscored = answers.numbers.isnan().all(0)
    beyond = ~(scores + dense.sum(-1)).isfinite() & ~skipped
    penalty = 0.0 if missing_eos_penalty is None else missing_eos_penalty * (~rollout.ended).float().cpu()
    unscaled = None
    if scales is not None:
        unscaled = scores + dense.sum(-1) - penalty
        scaled = [weight / scale for weight, scale in zip(weights, scales, strict=True)]
        scores, dense = _weighed(rollout, answers, scaled)
    if skips:
        skipped |= unscored | beyond
        scores[skipped], dense[skipped] = math.nan, 0.0
        if unscaled is not None:
            unscaled[skipped] = math.nan
    else:
        _check_sums(beyond)
        _warn_about_unscored_rows(unscored)
    has_dense = any(cell is not None and cell.tokens is not None for cells in answers.cells for cell in cells)
    return Scores(
        scores=(scores - penalty).to(device),
        per_function=answers.numbers.T.to(device),
        names=answers.names,
        dense_rewards=dense.to(device) if has_dense else None,
        metrics=answers.recorder.metrics,
        extra_columns=answers.recorder.columns,
        skipped=skipped.to(device) if skips else None,
        unscaled=None if unscaled is None else unscaled.to(device),
    )


def _weighed(rollout: Completions, answers: Answers, weights: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums `(B,)` of the rewards of completions, and `(B, T)` of those of tokens."""
    B, T = rollout.completion_ids.shape
    scores, dense = torch.zeros(B), torch.zeros(B, T)
    for cells, weight, numbers in zip(answers.cells, weights, answers.numbers, strict=True):
        for row, cell in enumerate(cells):
            if cell is None or math.isnan(cell.number):
                continue
            if cell.tokens is not None:
                dense[row, : len(cell.tokens)] += weight * cell.tokens
            else:
                scores[row] += weight * numbers[row]
    return scores, dense


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
        self.columns: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: float) -> None:
        """Note a number. One that is not finite is left out of the average, and that is said.

        Raises:
            FunctionFailedError: no name, or no number; nothing is noted then.
        """
        _check_name("log_metric", name)
        try:
            number = _as_float(value)
        except (TypeError, ValueError):
            raise FunctionFailedError(f"log_metric got {_shown(value)} for {name!r}, which is not a number.") from None
        if not math.isfinite(number):
            warnings.warn(f"log_metric got {number} for {name!r}, which is left out of the average.", stacklevel=2)
            return
        self.metrics.setdefault(name, []).append(number)

    def log_extra(self, column: str, values: list[Any]) -> None:
        """Note a column for the table of completions.

        Raises:
            FunctionFailedError: no name, or not a list with one value per completion.
        """
        _check_name("log_extra", column)
        if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__len__"):
            raise FunctionFailedError(
                f"log_extra got {type(values).__name__} for {column!r}, but takes a list with a value per completion."
            )
        if len(values) != self.num_rows:
            raise FunctionFailedError(
                f"log_extra got {len(values)} values of {column!r} for {self.num_rows} completions."
            )
        # Numbers of NumPy and PyTorch as Python's: they are written to files.
        self.columns[column] = [value.item() if getattr(value, "ndim", None) == 0 else value for value in values]


def _check_name(who: str, name: Any) -> None:
    if not isinstance(name, str):
        raise FunctionFailedError(f"{who} got {_shown(name)} as a name, which is {type(name).__name__}, not text.")


@dataclass(frozen=True)
class _Cell:
    """What one function says of one completion.

    Attributes:
        number (`float`): its reward, or the sum of its rewards per token; NaN for None ("does not apply").
        tokens (`(T,)`, *optional*): its rewards per token, if it gave these.
    """

    number: float
    tokens: torch.Tensor | None = None


def _cells(result: Any, name: str, lengths: Sequence[int], skips: bool) -> list[_Cell | None]:
    """A function's answer, completion by completion; None where it failed and completions are skipped for that."""
    if isinstance(result, FunctionFailedError):
        return [None] * len(lengths)
    values = as_rows(result, name, len(lengths))
    return [_cell(value, name, row, lengths[row], skips) for row, value in enumerate(values)]


def _cell(value: Any, name: str, row: int, num_tokens: int, skips: bool) -> _Cell | None:
    if value is None:
        return _Cell(math.nan)
    try:
        if isinstance(value, list):
            tokens = _token_rewards(value, name, row, num_tokens)
            return _Cell(float(tokens.sum()), tokens)
        return _Cell(finite_number(value, name, row))
    except RewardError:
        if skips:
            return None
        raise


def as_rows(result: Any, name: str, num_rows: int) -> list[Any]:
    """What a function returned as a list with a value per completion, or a `RewardError` that names the function."""
    if isinstance(result, torch.Tensor) or type(result).__module__ == "numpy":
        # A tensor that has no values (on the device "meta") has none for any completion.
        result = result.tolist() if not getattr(result, "is_meta", False) else list(result) if result.ndim else None
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
    if getattr(value, "ndim", 0) > 0 and not getattr(value, "is_meta", False):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _token_rewards(value: list[Any], name: str, row: int, num_tokens: int) -> torch.Tensor:
    if len(value) != num_tokens:
        raise RewardError(
            f"The reward function {name!r} returned {len(value)} token rewards for sample {row}, which has "
            f"{num_tokens} tokens: give one per id in completion_ids."
        )
    return torch.tensor([finite_number(item, name, row) for item in value])


def finite_number(value: Any, name: str, row: int) -> float:
    """A function's value for a completion, or a `RewardError` that names both."""
    try:
        number = _as_float(value)
    except (TypeError, ValueError):
        raise RewardError(
            f"The reward function {name!r} returned {_shown(value)} for sample {row}, which is "
            f"{type(value).__name__}, not a number."
        ) from None
    if not math.isfinite(number):
        raise RewardError(
            f"The reward function {name!r} returned {_shown(value)} for sample {row}: return a finite number, or None "
            "where the function does not apply."
        )
    if abs(number) > LARGEST:
        raise RewardError(
            f"The reward function {name!r} returned {_shown(value)} for sample {row}, which is beyond float32 "
            "(±3.4e38): scale it down."
        )
    return number


def _as_float(value: Any) -> float:
    """A number of Python, NumPy or PyTorch; infinity for an integer beyond all floats.

    Raises:
        TypeError, ValueError: it is none.
    """
    if hasattr(value, "item"):
        try:
            value = value.item()
        except Exception as error:
            # A tensor with several values, or without any ("meta").
            raise TypeError from error
    if isinstance(value, str) or not isinstance(value, (int, float)):
        raise TypeError
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _shown(value: Any) -> str:
    """A value in a message: one line, and short."""
    try:
        # Python refuses to write integers with thousands of digits.
        return printable(" ".join(repr(value).split())[:60])
    except ValueError:
        return "an integer beyond all floats"


def _check_sums(beyond: torch.Tensor) -> None:
    rows = beyond.nonzero().flatten().tolist()
    if rows:
        raise RewardError(
            f"The weighted sum of all rewards of sample {rows[0]} is beyond float32 (±3.4e38): lower "
            "reward_weights, or scale the rewards down."
        )


def _warn_about_unscored_rows(unscored: torch.Tensor) -> None:
    rows = unscored.nonzero().flatten().tolist()
    if rows:
        warnings.warn(
            f"Every reward function returned None for {len(rows)} completion(s), the first of them sample {rows[0]}: "
            "their reward counts as 0.",
            stacklevel=2,
        )
