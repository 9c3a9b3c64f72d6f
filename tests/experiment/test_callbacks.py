"""The progress bar: one line that says what matters, in the place of transformers' dictionaries."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import PrinterCallback, ProgressCallback

from trl_nlpo.experiment.callbacks import ProgressBar, showing_progress


STATE = SimpleNamespace(is_world_process_zero=True, max_steps=4, global_step=0)


@pytest.fixture
def bar():
    callback = ProgressBar("nlpo")
    callback.on_train_begin(None, STATE, None)
    yield callback
    callback.on_train_end(None, STATE, None)


def test_the_postfix_shows_reward_kl_and_perplexity(bar):
    logs = {"reward": 0.5, "objective/kl": 1.25, "perplexity": 2.0, "grad_norm": 9.0, "epoch": 1.0}
    bar.on_log(None, STATE, None, logs=logs)
    assert bar.bar.postfix == "reward=0.500, kl=1.250, ppl=2.000"


def test_a_supervised_stage_shows_its_loss(bar):
    bar.on_log(None, STATE, None, logs={"loss": "1.5", "learning_rate": 0.1})
    assert bar.bar.postfix == "loss=1.500"


def test_an_evaluation_adds_a_line_and_leaves_the_postfix(bar, capsys):
    bar.on_log(None, STATE, None, logs={"reward": 0.5})
    bar.on_log(None, SimpleNamespace(global_step=2), None, logs={"eval_reward": 0.75, "eval_perplexity": 3.0})
    assert bar.bar.postfix == "reward=0.500"
    assert "nlpo, step 2, evaluation: reward 0.750, ppl 3.000" in capsys.readouterr().out


def test_the_bar_follows_the_step_also_in_a_resumed_run(bar):
    bar.on_step_end(None, SimpleNamespace(global_step=3), None)
    assert bar.bar.n == 3


def test_other_processes_show_nothing():
    callback = ProgressBar("nlpo")
    callback.on_train_begin(None, SimpleNamespace(is_world_process_zero=False), None)
    callback.on_step_end(None, STATE, None)
    callback.on_log(None, STATE, None, logs={"reward": 1.0})
    callback.on_train_end(None, STATE, None)
    assert callback.bar is None


class Trainer:
    def __init__(self):
        self.removed, self.added = [], []
        self.remove_callback, self.add_callback = self.removed.append, self.added.append


def test_it_takes_the_place_of_the_callbacks_that_print_dictionaries():
    trainer = Trainer()
    with showing_progress(trainer, "nlpo"):
        assert trainer.removed == [ProgressCallback, PrinterCallback]
        assert [callback.description for callback in trainer.added] == ["nlpo"]


def test_the_bar_is_closed_when_training_fails():
    trainer = Trainer()

    def train():
        with showing_progress(trainer, "nlpo"):
            trainer.added[0].on_train_begin(None, STATE, None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train()
    assert trainer.added[0].bar is None
