"""Reward functions called: with the arguments that they name, together where they are `async`, and not for ever."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import RewardError


RewardFunction = Callable[..., Any]


class FunctionFailedError(RewardError):
    """A reward function raised or did not return in time, so that its values for a whole batch are missing."""


def call_all(
    functions: Sequence[RewardFunction],
    names: Sequence[str],
    call: dict[str, Any],
    rollout: Any,
    timeout: float | None = None,
) -> list[Any]:
    """What each function returns, or the [`FunctionFailedError`] of one that returned nothing.

    Args:
        functions: F functions; `async` ones run together. One with a method `score_completions` is given the rollout.
        names: F names, for messages.
        call (`dict`): keyword arguments; a function without `**kwargs` gets those that it names.
        rollout: for `score_completions`.
        timeout (`float`, *optional*): seconds after which a function is given up on. It continues in a thread of its
            own, as Python cannot end a thread, and dies with the process. Not for `score_completions`, which is a
            model on this machine.

    Raises:
        RewardError: as a function raised it.
    """
    results: list[Any] = [None] * len(functions)
    pending: dict[int, Any] = {}
    for index, (function, name) in enumerate(zip(functions, names, strict=True)):
        if hasattr(function, "score_completions"):
            results[index] = _attempt(name, None, partial(function.score_completions, rollout))
        elif _is_async(function):
            pending[index] = _attempt_async(name, timeout, function, _accepted(function, call))
        else:
            results[index] = _attempt(name, timeout, partial(function, **_accepted(function, call)))
    if pending:
        together = ", ".join(names[index] for index in pending)
        # One that blocks the event loop would defeat its own timeout.
        limit = None if timeout is None else 2 * timeout
        answers = _attempt(together, limit, lambda: _run_together(list(pending.values())), in_thread=True)
        for place, index in enumerate(pending):
            results[index] = answers if isinstance(answers, FunctionFailedError) else answers[place]
    return results


def _attempt(name: str, timeout: float | None, call: Callable[[], Any], in_thread: bool = False) -> Any:
    try:
        return call() if timeout is None and not in_thread else _in_thread(name, timeout, call)
    except RewardError as error:
        if isinstance(error, FunctionFailedError):
            return error
        raise
    except Exception as error:
        return _failed(name, error)


def _failed(name: str, error: Exception) -> FunctionFailedError:
    failure = FunctionFailedError(f"The reward function {name!r} raised {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _too_late(name: str, timeout: float | None) -> FunctionFailedError:
    return FunctionFailedError(
        f"The reward function {name!r} did not return within {timeout:g} seconds (reward_timeout): raise the limit, "
        "or let the function give up by itself."
    )


def _in_thread(name: str, timeout: float | None, call: Callable[[], Any]) -> Any:
    """The result of `call` from a thread that ends with the process, whatever it is doing then."""
    outcome: list[tuple[Any, BaseException | None]] = []
    takes_gradients = torch.is_grad_enabled()

    def run() -> None:
        # PyTorch keeps this setting per thread.
        with torch.set_grad_enabled(takes_gradients):
            try:
                outcome.append((call(), None))
            except BaseException as error:
                outcome.append((None, error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True, name=f"reward {name}")
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise _too_late(name, timeout)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


async def _attempt_async(name: str, timeout: float | None, function: RewardFunction, arguments: dict[str, Any]) -> Any:
    async def call() -> Any:
        try:
            return await function(**arguments)
        except RewardError:
            raise
        except Exception as error:
            return _failed(name, error)

    try:
        return await asyncio.wait_for(call(), timeout)
    except asyncio.TimeoutError:
        return _too_late(name, timeout)


def _run_together(coroutines: list[Any]) -> list[Any]:
    """To be called in a thread without an event loop: a notebook's has one, in which `asyncio.run` is not allowed."""

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*coroutines))

    return asyncio.run(gather())


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
