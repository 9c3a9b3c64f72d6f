"""Reward functions that raise, block or never come back."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from trl_nlpo.algorithm.reward_calls import FunctionFailedError, call_all
from trl_nlpo.errors import RewardError


@pytest.fixture
def release():
    """Set at the end of a test, so that what hangs comes back."""
    event = threading.Event()
    yield event
    event.set()


def call(*functions, timeout=None, **arguments):
    names = [getattr(function, "__name__", "model") for function in functions]
    return call_all(functions, names, {"completions": ["a", "b"], **arguments}, "the rollout", timeout)


def lengths(completions):
    return [len(completion) for completion in completions]


async def async_lengths(completions):
    await asyncio.sleep(0)
    return lengths(completions)


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_with_or_without_a_limit_functions_return_what_they_return(timeout):
    assert call(lengths, async_lengths, lengths, timeout=timeout) == [[1, 1]] * 3


def test_a_function_that_hangs_is_given_up_on_and_named_and_the_others_are_heard(release):
    def stuck(completions):
        release.wait()

    failed, heard = call(stuck, lengths, timeout=0.05)
    assert isinstance(failed, FunctionFailedError)
    assert str(failed).startswith("The reward function 'stuck' did not return within 0.05 seconds (reward_timeout)")
    assert "\n" not in str(failed)
    assert heard == [1, 1]
    # its thread does not keep the process alive
    assert all(thread.daemon for thread in threading.enumerate() if "stuck" in thread.name)


def test_an_async_function_that_waits_for_ever_is_given_up_on_alone():
    cancelled = []

    async def stuck(completions):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    heard, failed = call(async_lengths, stuck, timeout=0.05)
    assert heard == [1, 1]
    assert "'stuck' did not return within 0.05 seconds" in str(failed)
    assert cancelled


def test_an_async_function_that_blocks_the_others_is_given_up_on_with_them(release):
    async def blocking(completions):
        release.wait()

    failed, other = call(blocking, async_lengths, timeout=0.05)
    assert failed is other
    assert "'blocking, async_lengths'" in str(failed)


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_function_that_raises_is_named_and_keeps_its_error(timeout):
    def broken(completions):
        raise KeyError("gold")

    async def async_broken(completions):
        raise KeyError("gold")

    for name, failed in zip(["broken", "async_broken"], call(broken, async_broken, timeout=timeout), strict=True):
        assert str(failed) == f"The reward function '{name}' raised KeyError: 'gold'"
        assert isinstance(failed.__cause__, KeyError)


def test_a_timeout_of_the_function_itself_is_an_error_of_its_own():
    async def impatient(completions):
        raise asyncio.TimeoutError("the service")

    (failed,) = call(impatient, timeout=30.0)
    assert "'impatient' raised TimeoutError: the service" in str(failed)


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_reward_error_is_passed_on_as_it_is(timeout):
    def refuses(completions):
        raise RewardError("log_extra got 1 values")

    with pytest.raises(RewardError, match="log_extra got 1 values"):
        call(refuses, timeout=timeout)


def test_gradients_are_off_in_a_thread_where_they_are_off_outside():
    def asks(completions):
        return [torch.is_grad_enabled()] * 2

    with torch.no_grad():
        assert call(asks, timeout=30.0) == [[False, False]]
    assert call(asks, timeout=30.0) == [[True, True]]


def test_a_model_is_not_put_into_a_thread():
    class Model:
        def score_completions(self, rollout):
            assert rollout == "the rollout"
            return [threading.current_thread() is threading.main_thread()]

    assert call(Model(), timeout=30.0) == [[True]]
