"""The table that a notebook shows while a trainer runs; IPython is stood in for, as tests need not have it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

from support import tiny
from support.trainers import DEFAULTS
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.progress.callback import ShownProgress


@pytest.fixture
def notebook(monkeypatch):
    """`transformers.utils.notebook` as it is in a notebook, whose display keeps the tables."""
    shown = []
    display = ModuleType("IPython.display")
    display.HTML = lambda code: code
    display.display = lambda code, **kwargs: shown.append(code) or SimpleNamespace(update=shown.append)
    package = ModuleType("IPython")
    package.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    for name in ("transformers.utils.notebook", "trl_nlpo.trainer.notebook_table"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("transformers.utils.notebook"), shown
    for name in ("transformers.utils.notebook", "trl_nlpo.trainer.notebook_table"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("how", ["class", "instance", "in callbacks"])
def test_a_notebook_shows_reward_and_kl_of_every_log_and_the_rewards_of_evaluations(
    tmp_path, notebook, monkeypatch, how
):
    module, shown = notebook
    callback = module.NotebookProgressCallback
    changes = {"logging_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2, "response_length": 4}
    subject = NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, **changes}),
        processing_class=tiny.tokenizer(),
        model=tiny.policy(),
        reward_funcs=tiny.length_reward,
        train_dataset=tiny.prompts(),
        eval_dataset={"near": tiny.prompts(4)},
        callbacks=[callback()] if how == "in callbacks" else None,
    )
    if how != "in callbacks":
        subject.add_callback(callback if how == "class" else callback())
    table = next(one for one in subject.callback_handler.callbacks if isinstance(one, callback))
    lines = []
    tracker = module.NotebookTrainingTracker
    write = tracker.write_line
    monkeypatch.setattr(tracker, "write_line", lambda self, values: lines.append(dict(values)) or write(self, values))
    subject.train()
    logs = [log for log in subject.state.log_history if "reward" in log]
    assert len(logs) == 3
    assert [line for line in lines if "Reward" in line] == [
        {
            "Step": log["step"],
            "Reward": log["reward"],
            "KL": log["objective/kl"],
            "Perplexity": log["perplexity"],
            "Entropy": log["policy/entropy_avg"],
            "Length": log["completions/mean_length"],
            "Policy Loss": log["loss/policy_avg"],
            "Value Loss": log["loss/value_avg"],
        }
        for log in logs
    ]
    evaluated = [line for line in lines if "Reward" not in line]
    assert [line["Step"] for line in evaluated] == [2, 3]
    assert set(evaluated[0]) == {"Step", "Eval Reward (near)", "Eval Perplexity (near)"}
    assert "KL" in shown[-1]
    assert table.training_tracker is None
    # One bar, and no panel beside it.
    assert all(code.count("<progress") == 1 for code in shown)
    assert not [one for one in subject.callback_handler.callbacks if isinstance(one, ShownProgress)]


def test_a_notebook_can_begin_with_an_evaluation_or_have_none(tmp_path, notebook):
    module, shown = notebook
    for number, changes in enumerate(({"eval_strategy": "steps", "eval_on_start": True}, {})):
        subject = NLPOTrainer(
            args=NLPOConfig(
                output_dir=str(tmp_path / str(number)), **{**DEFAULTS, "logging_strategy": "steps", **changes}
            ),
            processing_class=tiny.tokenizer(),
            model=tiny.policy(),
            reward_funcs=tiny.length_reward,
            train_dataset=tiny.prompts(),
            eval_dataset=tiny.prompts(4),
            callbacks=[module.NotebookProgressCallback],
        )
        subject.train()
        titles = ["Reward", "KL", "Perplexity"] + (["Eval Reward", "Eval Perplexity"] if changes else [])
        assert all(f"<th>{title}</th>" in shown[-1] for title in titles)
        # Every update has a row, and so has the evaluation before the first.
        assert shown[-1].count("<tr") == 1 + 3 + len(changes) // 2
