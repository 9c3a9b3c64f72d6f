"""Reward functions called: with copies of the arguments that they name, together where they are `async`, not for ever.

What a function does to its arguments, or leaves switched in PyTorch, reaches neither the next function nor training.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import RewardError, Terminated, one_line
from .reward_watchdog import watched


RewardFunction = Callable[..., Any]


class FunctionFailedError(RewardError):
    """A reward function raised or did not return in time, so that its values for a whole batch are missing."""


_FAILURES = (Exception, SystemExit, asyncio.CancelledError)
"""What a function can raise; a `KeyboardInterrupt` is the user's, and [`Terminated`] ours."""


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
        call (`dict`): keyword arguments; a function without `**kwargs` gets those that it names. Each gets copies.
        rollout: for `score_completions`.
        timeout (`float`, *optional*): seconds after which a function is given up on. It continues in a thread of its
            own, as Python cannot end a thread, and dies with the process. One that also holds the interpreter, so
            that nothing else here can run, ends the process (`reward_watchdog.py`). Not for `score_completions`,
            which is a model on this machine, nor for a method `load_models`, which loads what a function needs.

    Raises:
        RewardError: as a function raised it.
    """
    results: list[Any] = [None] * len(functions)
    pending: dict[int, Any] = {}
    for index, (function, name) in enumerate(zip(functions, names, strict=True)):
        if hasattr(function, "score_completions"):
            results[index] = _attempt(name, None, partial(function.score_completions, rollout))
            continue
        arguments = {key: _own(value) for key, value in _accepted(function, call).items()}
        if (failed := _loaded(name, function)) is not None:
            results[index] = failed
        elif _is_async(function):
            pending[index] = _attempt_async(name, timeout, function, arguments)
        else:
            results[index] = _attempt(name, timeout, partial(function, **arguments))
    if pending:
        together = ", ".join(names[index] for index in pending)
        # One that blocks the event loop would defeat its own timeout.
        limit = None if timeout is None else 2 * timeout
        answers = _attempt(together, limit, lambda: _run_together(list(pending.values())), in_thread=True)
        for place, index in enumerate(pending):
            results[index] = answers if isinstance(answers, FunctionFailedError) else answers[place]
    return results


def _loaded(name: str, function: RewardFunction) -> FunctionFailedError | None:
    """Let a function load the models that it reads with, which takes no time of a call; how that failed, if it did."""
    load = getattr(function, "load_models", None)
    answer = _attempt(name, None, load) if callable(load) else None
    return answer if isinstance(answer, FunctionFailedError) else None


def _attempt(name: str, timeout: float | None, call: Callable[[], Any], in_thread: bool = False) -> Any:
    try:
        with _switches_kept():
            return call() if timeout is None and not in_thread else _in_thread(name, timeout, call)
    except RewardError as error:
        if isinstance(error, FunctionFailedError):
            return error
        raise
    except _FAILURES as error:
        return _failed(name, error)


def _failed(name: str, error: BaseException) -> FunctionFailedError:
    """
    Raises:
        Terminated: it was this, which ends the run.
    """
    if isinstance(error, Terminated):
        raise error
    if isinstance(error, SystemExit):
        said = f"called sys.exit({error.code if error.code is not None else ''})"
    else:
        said = f"raised {type(error).__name__}: {_message(error)}"
    failure = FunctionFailedError(f"The reward function {name!r} {said}")
    failure.__cause__ = error
    return failure


def _message(error: BaseException) -> str:
    try:
        return one_line(error, 500)
    except Exception:
        # Its `__str__` fails.
        return "(no message)"


def _own(value: Any) -> Any:
    """A copy of an argument, which a function may change; of what cannot be copied, the thing itself."""
    # Of the trainer's state, which holds the history of the run, only the attributes are.
    for copied in (copy.deepcopy if isinstance(value, (list, dict)) else copy.copy, copy.copy):
        with contextlib.suppress(Exception):
            return copied(value)
    return value


@contextlib.contextmanager
def _switches_kept() -> Iterator[None]:
    """What a reward function switches in the process, and may leave so, as it was before: training depends on it.

    The random generators are not among these: a function may draw from them, and checkpoints keep their state.
    """
    before = [(read(), read, write) for read, write in _SWITCHES]
    folder = _folder()
    try:
        yield
    finally:
        for value, read, write in before:
            if read() != value:
                write(value)
        if folder is not None and _folder() != folder:
            os.chdir(folder)


_SWITCHES: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    # One that is set slows every call down, so the CPU, which PyTorch starts with, is left unset.
    (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    *(
        pair
        for device in ("cpu", "cuda")
        for pair in (
            (partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device)),
            (partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device)),
        )
    ),
]
"""How a switch is read, and set."""


def _folder() -> str | None:
    """The working directory, or None where it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


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
    with watched(f"the reward function {name!r}", timeout):
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
        except FunctionFailedError as error:
            return error
        except RewardError:
            raise
        except (Exception, SystemExit) as error:
            return _failed(name, error)

    try:
        return await asyncio.wait_for(call(), timeout)
    except asyncio.TimeoutError:
        return _too_late(name, timeout)
    except asyncio.CancelledError as error:
        return _failed(name, error)


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
