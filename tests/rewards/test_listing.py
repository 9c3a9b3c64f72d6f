"""`trl-nlpo rewards`: what each reward is, on the scale that the trainer sees."""

from __future__ import annotations

import math

import pytest

from support.commands import run_cli
from trl_nlpo.metrics.listing import FACTS
from trl_nlpo.metrics.registry import metric_class, metric_names
from trl_nlpo.rewards import built_in_names
from trl_nlpo.rewards.listing import reward_entries, reward_range


def test_every_built_in_reward_is_listed():
    assert [entry.name for entry in reward_entries()] == built_in_names()


@pytest.mark.parametrize("name", metric_names())
def test_the_range_of_a_reward_is_what_the_metric_makes_of_its_own(name):
    cls = metric_class(name)
    made = cls.__new__(cls)
    least, most = (cls.as_reward(made, float(end)) for end in FACTS[name].scale)
    assert (min(least, most), max(least, most)) == reward_range(name)


def test_more_is_better_for_all_rewards():
    assert all("higher is better" in entry.facts[0] for entry in reward_entries())
    assert reward_range("ter") == (-math.inf, 1)
    assert reward_range("prompt_repetition") == (-1, 0)


def test_the_command_lists_them_and_says_what_else_may_be_named(monkeypatch, capsys):
    code, out, err = run_cli(monkeypatch, capsys, "rewards")
    assert (code, err) == (0, "")
    assert "\ngrammatical        whether prompt and completion are a sentence" in out
    assert "my_module.my_reward" in out
    code, out, _ = run_cli(monkeypatch, capsys, "rewards", "prompt_rep")
    assert "words: [generate, sentence]  telling words of the instruction." in " ".join(out.split()).replace(
        "] ", "]  "
    )
