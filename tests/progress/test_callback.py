"""Progress of any trainer: lines without a terminal, a panel on one, nothing of it twice."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import datasets
import pytest
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import CallbackHandler

from support import tiny
from support.trainers import DEFAULTS
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.launch import signals
from trl_nlpo.progress.callback import ShownProgress, show_progress_of, showing_progress
from trl_nlpo.progress.lines import ProgressLines
from trl_nlpo.progress.panel import ProgressPanel


ARGS = SimpleNamespace(disable_tqdm=False, num_ppo_epochs=1, mask_strategy="none", kl_target=None)
UPDATE = {"reward": 0.5, "objective/kl": 1.25, "episode": 8, "completions/mean_length": 10.0}
EVIL = "[bold]\x1b[2J\r\u202e"


def state(step=0, is_first=True):
    return SimpleNamespace(is_world_process_zero=is_first, global_step=step, max_steps=4, episode=0)


class Terminal(io.StringIO):
    """A stdout that is a terminal of 80 columns."""

    def isatty(self):
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """Called in a test, as pytest sets `sys.stdout` anew when one begins: what is written goes to a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")

    def begin():
        monkeypatch.setattr(sys, "stdout", Terminal())
        return sys.stdout

    return begin


@pytest.fixture
def shown():
    callback = ShownProgress("nlpo")
    yield callback
    callback.close()


def run_through(callback, args=ARGS, is_first=True):
    callback.on_train_begin(args, state(is_first=is_first), None)
    callback.on_step_begin(args, state(is_first=is_first), None)
    callback.on_step_end(args, state(1, is_first), None)
    callback.note_sample({"prompt": f"p{EVIL}", "completion": f"c{EVIL}", "score": 0.25})
    callback.on_log(args, state(1, is_first), None, logs=UPDATE)
    callback.on_log(args, state(1, is_first), None, logs={"eval_reward": 0.75, "eval_perplexity": 3.0})


def test_without_a_terminal_every_log_event_is_a_line(shown, capsys):
    run_through(shown)
    shown.on_log(ARGS, state(4), None, logs={"train_runtime": 61.0, "train_loss": 2.0})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 2)[2].split(", 0:")[0].split(", 8")[0].split(" tokens")[0] for line in lines][1:] == [
        "nlpo 1/4: evaluation: reward 0.750, perplexity 3.00",
        "nlpo 4/4: trained in 0:01:01, mean loss 2.00",
    ]
    assert " nlpo 1/4: reward 0.500, KL 1.25, " in lines[0]
    assert " tokens/s, " in lines[0]
    assert lines[0].endswith(" left")


@pytest.mark.parametrize("reason", ["disable_tqdm", "TERM"])
def test_a_terminal_that_shall_or_can_not_be_drawn_on_has_lines_too(shown, on_terminal, monkeypatch, reason):
    terminal = on_terminal()
    args = ARGS
    if reason == "TERM":
        monkeypatch.setenv("TERM", "dumb")
    else:
        args = SimpleNamespace(**{**vars(ARGS), "disable_tqdm": True})
    run_through(shown, args)
    assert isinstance(shown.view, ProgressLines)
    assert "\x1b" not in terminal.getvalue()
    assert "\r" not in terminal.getvalue()


def test_other_processes_show_nothing(shown, on_terminal):
    terminal = on_terminal()
    run_through(shown, is_first=False)
    assert shown.view is None
    assert terminal.getvalue() == ""


def test_a_panel_shows_numbers_and_a_sample_whose_text_commands_nothing(shown, on_terminal):
    terminal = on_terminal()
    run_through(shown)
    assert isinstance(shown.view, ProgressPanel)
    shown.close()
    written = terminal.getvalue()
    for text in ("nlpo", "1 of 4", "reward", "0.500", "1.25", r"p[bold]\x1b[2J", r"c[bold]\x1b[2J", "reward 0.250"):
        assert text in written
    assert "\x1b[2J" not in written
    assert "\u202e" not in written
    assert written.rstrip().splitlines()[-1].endswith("nlpo: 1 of 4 updates in 0:00:00, reward 0.500, KL 1.25")


def test_what_is_printed_and_logged_meanwhile_is_whole_lines_above_the_panel(shown, on_terminal):
    terminal = on_terminal()
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("made before the panel")
    logger.addHandler(handler)
    own, count = handler.stream, len(terminal.getvalue())
    shown.on_train_begin(ARGS, state(), None)
    try:
        print("printed")
        logger.warning("logged [bold]x[/bold]")
        # Straight to the terminal it would be drawn over.
        assert handler.stream is not own
    finally:
        shown.close()
        logger.removeHandler(handler)
    assert handler.stream is own
    assert sys.stdout is terminal
    written = terminal.getvalue()[count:]
    assert "printed\n" in written
    assert "logged [bold]x[/bold]\n" in written


def test_bars_of_the_libraries_are_off_meanwhile_and_on_again_afterwards(shown):
    datasets.enable_progress_bars()
    shown.on_train_begin(ARGS, state(), None)
    assert datasets.are_progress_bars_disabled()
    shown.close()
    assert not datasets.are_progress_bars_disabled()


def test_a_request_to_stop_is_said_in_the_panel(shown, on_terminal, monkeypatch):
    terminal = on_terminal()
    written = []
    monkeypatch.setattr(signals.os, "write", lambda number, line: written.append(line))
    shown.on_train_begin(ARGS, state(), None)
    signals.StopRequest().receive(2)
    shown.close()
    assert "Stopping after this update" in terminal.getvalue()
    assert written == [b"\x1b[0m"]
    signals.StopRequest().receive(2)
    assert b"Stopping after this update" in written[-1]


def test_a_terminal_that_is_gone_does_not_end_a_run(shown, on_terminal, monkeypatch):
    terminal = on_terminal()
    shown.on_train_begin(ARGS, state(), None)

    def write(text):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(terminal, "write", write)
    shown.on_log(ARGS, state(1), None, logs={"eval_reward": 0.75})
    shown.on_log(ARGS, state(1), None, logs=UPDATE)
    shown.on_train_end(ARGS, state(4), None)


class OfTransformers:
    """A trainer with the callbacks that transformers gives it."""

    def __init__(self, *callbacks):
        self.callback_handler = CallbackHandler(list(callbacks), None, None, None, None)
        self.add_callback = self.callback_handler.add_callback
        self.remove_callback = self.callback_handler.remove_callback


@pytest.mark.parametrize("default", [ProgressCallback, PrinterCallback])
def test_it_takes_the_place_of_bars_and_dictionaries_once(default):
    trainer = OfTransformers(default())
    shown = show_progress_of(trainer, "NLPO")
    assert show_progress_of(trainer, "supervised") is shown
    assert trainer.callback_handler.callbacks[-1:] == [shown]
    assert sum(isinstance(one, (ProgressCallback, PrinterCallback)) for one in trainer.callback_handler.callbacks) == 1
    assert shown.progress.title == "supervised"
    # A script that wants none of it says so as ever.
    trainer.remove_callback(default)
    assert shown not in trainer.callback_handler.callbacks


def test_a_notebook_keeps_its_table_as_the_only_one():
    table = type("NotebookProgressCallback", (TrainerCallback,), {"__module__": "transformers.utils.notebook"})()
    trainer = OfTransformers(table)
    show_progress_of(trainer, "supervised")
    assert [type(one).__name__ for one in trainer.callback_handler.callbacks if one is not table][-1:] != [
        "ShownProgress"
    ]


def test_the_panel_is_taken_away_when_training_fails(on_terminal):
    terminal = on_terminal()
    trainer = OfTransformers(ProgressCallback())

    def train():
        with showing_progress(trainer, "nlpo"):
            trainer.callback_handler.callbacks[-1].on_train_begin(ARGS, state(), None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train()
    assert trainer.callback_handler.callbacks[-1].view is None
    assert sys.stdout is terminal
    assert terminal.getvalue().rstrip().splitlines()[-1].endswith("nlpo: 0 of 4 updates in 0:00:00")


def nlpo_trainer(tmp_path, **options):
    return NLPOTrainer(
        args=NLPOConfig(output_dir=str(tmp_path), **{**DEFAULTS, "logging_strategy": "steps", "logging_steps": 1}),
        processing_class=tiny.tokenizer(),
        model=tiny.policy(),
        reward_funcs=options.pop("reward_funcs", tiny.length_reward),
        train_dataset=tiny.prompts(),
        **options,
    )


def test_a_script_prints_lines_in_the_place_of_dictionaries(tmp_path, capsys):
    nlpo_trainer(tmp_path).train()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:4] for line in lines] == [["NLPO", f"{step}/3:"] for step in (1, 2, 3)]
    assert all("mask " in line and "{" not in line for line in lines)


def test_a_script_may_show_progress_in_its_own_way(tmp_path, capsys):
    class Own(PrinterCallback):
        """Prints what it likes."""

        def on_log(self, args, state, control, logs=None, **kwargs):
            print("mine", state.global_step)

    nlpo_trainer(tmp_path, callbacks=[Own()]).train()
    assert capsys.readouterr().out.splitlines() == ["mine 1", "mine 2", "mine 3"]


def test_a_failure_in_training_takes_the_panel_of_a_script_away(tmp_path, on_terminal):
    terminal = on_terminal()

    def broken(completions, **kwargs):
        raise ValueError("broken")

    subject = nlpo_trainer(tmp_path, reward_funcs=broken)
    subject.args.disable_tqdm = False
    with pytest.raises(Exception, match="broken"):
        subject.train()
    assert sys.stdout is terminal
    assert "NLPO: 0 of 3 updates" in terminal.getvalue()
