"""Reward functions that raise, block or never come back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from support import tiny
from trl_nlpo.algorithm.reward_calls import FunctionFailedError, call_all
from trl_nlpo.errors import RewardError, Terminated
from trl_nlpo.rewards import get_reward


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


@pytest.mark.parametrize("timeout", [None, 30.0])
@pytest.mark.parametrize("code", [0, None, "bye"])
def test_a_function_that_leaves_python_has_failed_and_does_not_end_the_run(code, timeout):
    def leaves(completions):
        sys.exit(code)

    async def async_leaves(completions):
        sys.exit(code)

    for name, failed in zip(["leaves", "async_leaves"], call(leaves, async_leaves, timeout=timeout), strict=True):
        assert str(failed) == f"The reward function {name!r} called sys.exit({'' if code is None else code})"


def test_sigterm_during_a_function_still_ends_the_run():
    def meets_sigterm(completions):
        raise Terminated("terminated.")

    with pytest.raises(Terminated):
        call(meets_sigterm)


def test_an_async_function_that_cancels_itself_has_failed():
    async def gives_up(completions):
        raise asyncio.CancelledError

    failed, heard = call(gives_up, async_lengths, timeout=30.0)
    assert "'gives_up' raised CancelledError" in str(failed)
    assert heard == [1, 1]


def test_what_a_function_raises_is_said_in_one_line_whatever_it_says():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError

    def loud(completions):
        raise ValueError("first\nsecond" + "!" * 1000)

    def mute(completions):
        raise MuteError

    first, second = map(str, call(loud, mute))
    assert first.startswith("The reward function 'loud' raised ValueError: first second!!!")
    assert len(first) < 600
    assert second == "The reward function 'mute' raised MuteError: (no message)"


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_what_a_function_does_to_its_arguments_no_other_sees(timeout):
    class State:
        global_step = 3

    given = {"completions": ["a", "b"], "chats": [[{"content": "x"}]], "lock": [threading.Lock()], "state": State()}

    def changes(completions, chats, lock, state):
        completions[:] = ["changed"] * 2
        chats[0][0]["content"] = "changed"
        lock.append("changed")
        state.global_step = 99

    def sees(completions, chats, lock, state):
        return [*completions, chats[0][0]["content"], len(lock), state.global_step]

    _, seen = call_all([changes, sees], ["changes", "sees"], given, None, timeout)
    assert seen == ["a", "b", "x", 1, 3]
    assert given["completions"] == ["a", "b"]


@pytest.mark.parametrize("timeout", [None, 30.0])
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_function_leaves_switched_is_switched_back(timeout, fails, tmp_path):
    def read():
        return (
            torch.is_grad_enabled(), torch.get_default_dtype(), torch.zeros(1).device.type,
            torch.is_autocast_enabled("cpu"), torch.get_deterministic_debug_mode(),
            torch.get_float32_matmul_precision(), os.getcwd(),
        )  # fmt: skip

    def switches(completions):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_autocast_enabled("cpu", True)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("medium")
        os.chdir(tmp_path)
        assert not fails

    before = read()
    call(switches, timeout=timeout)
    assert read() == before


def test_the_random_generators_are_the_functions_own():
    def draws(completions):
        torch.rand(1)

    before = torch.get_rng_state()
    call(draws)
    assert not torch.equal(torch.get_rng_state(), before)


def test_loading_a_model_is_no_part_of_the_time_of_a_call(tmp_path):
    folder = tiny.saved(
        tiny.bert(AutoModelForSequenceClassification, num_labels=2), tiny.wordpiece_tokenizer(), tmp_path / "judge"
    )
    reward = get_reward("classifier", model=folder, label=1, include_prompt=False, device="cpu")
    loaded = []

    def score(texts, **columns):
        loaded.append(reward.metric.pretrained._model is not None)
        return [0.5] * len(texts)

    reward.metric.score = score
    assert call(reward, timeout=30.0) == [[0.5, 0.5]]
    assert loaded == [True]


def test_a_model_is_loaded_once_by_whoever_comes_first(tmp_path, monkeypatch):
    folder = tiny.saved(
        tiny.bert(AutoModelForSequenceClassification, num_labels=2), tiny.wordpiece_tokenizer(), tmp_path / "judge"
    )
    metrics = [get_reward("classifier", model=folder, label=1, device="cpu").metric for _ in range(2)]
    loading, most = [], []
    real = AutoModelForSequenceClassification.from_pretrained

    def from_pretrained(*args, **options):
        loading.append(1)
        most.append(len(loading))
        try:
            return real(*args, **options)
        finally:
            loading.pop()

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", from_pretrained)
    threads = [threading.Thread(target=metric.load_models) for metric in [*metrics, *metrics]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1]


HOLDS_THE_INTERPRETER = """
import re, sys
from trl_nlpo.algorithm import reward_watchdog
from trl_nlpo.algorithm.reward_calls import call_all

reward_watchdog.GRACE = 0.2

def quick(completions):
    return [1.0]

def backtracks(completions):
    return [float(bool(re.match("(a+)+$", completion))) for completion in completions]

print(call_all([quick], ["quick"], {"completions": ["a"]}, None, 60.0), flush=True)
call_all([backtracks], ["backtracks"], {"completions": ["a" * 60 + "b"]}, None, 0.2)
print("not reached")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a watchdog needs signals")
def test_a_function_that_holds_the_interpreter_ends_the_process_with_a_line():
    process = subprocess.run(
        [sys.executable, "-c", HOLDS_THE_INTERPRETER], capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == -9
    assert process.stdout == "[[1.0]]\n"
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("trl-nlpo: ")]
    assert "the reward function 'backtracks' did not return within 0.2 seconds (reward_timeout)" in line
    assert "--resume" in line
