"""Ctrl-C and SIGTERM: the update is finished, a checkpoint written, and the exit code says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from support import tiny
from support.resumable import assert_equal_ends, trainer
from support.small_runs import lines, wait_for_step
from trl_nlpo.errors import Interrupted, StoppedAtOnce, StoppedRunError, Terminated, UserError
from trl_nlpo.launch.launch import Launch
from trl_nlpo.launch.signals import StopRequest, ending_with_a_line, stop_request, telling_of_stops
from trl_nlpo.trainer.guard import Guard
from trl_nlpo.trainer.run_state import Run


ROOT = Path(__file__).parents[2]
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def handlers():
    """Python's own handlers, also where a shell has the tests ignore Ctrl-C; they are the same afterwards."""
    before = [signal.getsignal(number) for number in NUMBERS]
    own = [signal.default_int_handler, *[signal.SIG_DFL] * 4]
    for number, handler in zip(NUMBERS, own, strict=True):
        signal.signal(number, handler)
    yield own
    after = [signal.getsignal(number) for number in NUMBERS]
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)
    assert after == own


class Signalling:
    """A reward function in which signals arrive, at its n-th call."""

    __name__ = "length_reward"

    def __init__(self, at, *numbers):
        self.calls_left, self.numbers = at, numbers

    def __call__(self, completions, **kwargs):
        self.calls_left -= 1
        if self.calls_left == 0:
            for number in self.numbers:
                os.kill(os.getpid(), number)
        return tiny.length_reward(completions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, Interrupted), *((number, Terminated) for number in NUMBERS[1:])],
)
def test_the_update_is_finished_a_checkpoint_written_and_the_run_goes_on_exactly(tmp_path, number, error):
    settings = {"save_steps": 50, "logging_steps": 3}
    unbroken = trainer(tmp_path / "unbroken", tiny.length_reward, **settings)
    unbroken.train()
    with pytest.raises(error) as stop:
        trainer(tmp_path / "stopped", Signalling(2, number), **settings).train()
    checkpoint = tmp_path / "stopped" / "checkpoint-2"
    assert str(stop.value) == (
        f"stopped after update 2; resume from {checkpoint} with --resume (resume_from_checkpoint=True in a script)."
    )
    resumed = trainer(tmp_path / "stopped", tiny.length_reward, **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_equal_ends(unbroken, resumed)


def test_a_script_that_lets_them_pass_exits_as_shells_expect(tmp_path):
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert issubclass(Terminated, SystemExit)
    assert Terminated("go on").code == 143


def test_the_second_ctrl_c_stops_at_once(tmp_path):
    with pytest.raises(StoppedAtOnce):
        trainer(tmp_path, Signalling(2, signal.SIGINT, signal.SIGINT), save_steps=50).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_repeated_sigterm_and_the_ctrl_c_after_it_wait_for_the_update(tmp_path):
    numbers = (signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    with pytest.raises(Interrupted):
        trainer(tmp_path, Signalling(1, *numbers), save_steps=50).train()
    assert (tmp_path / "checkpoint-1").is_dir()


def test_a_signal_that_comes_while_the_first_is_being_told_is_not_told_again():
    request, told = StopRequest(), []

    def tell(line):
        told.append(line)
        if len(told) == 1:
            request.receive(signal.SIGTERM)

    with telling_of_stops(tell):
        request.receive(signal.SIGUSR2)
    assert len(told) == 1


def test_an_update_that_has_its_checkpoint_gets_no_second(tmp_path):
    with pytest.raises(Interrupted):
        trainer(tmp_path, Signalling(1, signal.SIGINT), save_steps=1).train()
    assert sorted(os.listdir(tmp_path)) == ["README.md", "_card.json", "checkpoint-1"]


def test_where_nobody_wants_checkpoints_that_is_said(tmp_path):
    with pytest.raises(Interrupted, match="there is no checkpoint to resume from"):
        trainer(tmp_path, Signalling(1, signal.SIGINT), save_strategy="no").train()


def test_the_first_signal_is_announced(capfd):
    with stop_request() as request:
        assert request.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert request.signal == signal.SIGTERM
    assert capfd.readouterr().err.count("Ctrl-C again stops at once") == 1


def test_training_in_another_thread_leaves_the_handlers_alone(tmp_path, handlers):
    seen = []

    def reward(completions, **kwargs):
        seen.append([signal.getsignal(number) for number in NUMBERS])
        return tiny.length_reward(completions)

    subject = trainer(tmp_path, reward, max_steps=1)
    thread = threading.Thread(target=subject.train)
    thread.start()
    thread.join()
    assert seen == [handlers]


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_request() as request:
            os.kill(os.getpid(), signal.SIGINT)
        assert request.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("others", "expected"), [([0, 1], signal.SIGTERM), ([1, 1], signal.SIGINT), ([0, 0], None)])
def test_a_signal_to_any_process_stops_all(others, expected):
    class Accelerator:
        num_processes, device = 2, "cpu"

        def reduce(self, counts, reduction):
            assert (counts.tolist(), reduction) == ([0, 0], "sum")
            return counts + counts.new_tensor(others)

    assert Guard(None, Launch(Accelerator()), Run()).agreed_signal() == expected


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted."), *((number, 143, "terminated.") for number in NUMBERS[1:])],
)
def test_outside_training_a_signal_is_one_line_and_a_code(number, code, word):
    @ending_with_a_line("Go on.")
    def run():
        os.kill(os.getpid(), number)
        time.sleep(5)

    with pytest.raises(StoppedRunError) as stop:
        run()
    assert isinstance(stop.value, UserError)
    assert (stop.value.exit_code, str(stop.value)) == (code, f"{word} Go on.")


def test_a_terminal_that_is_gone_does_not_end_the_run(tmp_path):
    code = (
        "import os, signal, sys; from trl_nlpo.launch.signals import stop_request\n"
        "with stop_request() as request:\n"
        "    os.kill(os.getpid(), signal.SIGHUP); print('on with it', flush=True)\n"
        "    open(sys.argv[1], 'w').write(str(int(request.signal)))"
    )
    ours, theirs = os.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    wait = f"import time; time.sleep(1)\n{code}"
    note = tmp_path / "note"
    process = subprocess.Popen([sys.executable, "-c", wait, str(note)], env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)
    assert process.wait(60) == 0
    assert note.read_text() == str(int(signal.SIGTERM))


RECIPE = {
    "algorithm": "nlpo", "dataset_name": "quickstart", "max_train_samples": 32, "max_eval_samples": 4,
    "max_test_samples": 4,
    "rewards": ["pleasant_sentence"], "model_type": "gpt2", "vocab_size": 300, "hidden_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 192, "response_length": 8,
    "per_device_train_batch_size": 4, "num_ppo_epochs": 1, "max_steps": 100000, "use_cpu": True, "bf16": False,
    "output_dir": "run",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_line_exits_with_a_code_and_a_line_that_says_how_to_go_on(tmp_path, number, code):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trl_nlpo", "run", "own.yaml"], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_for_step(process, tmp_path / "run", 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=100)
    assert process.returncode == code
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    step = int(checkpoint.name.partition("-")[2])
    assert said.splitlines()[-1] == (
        f"trl-nlpo: stopped after update {step}; resume from run/checkpoint-{step} with --resume "
        "(resume_from_checkpoint=True in a script)."
    )
    assert "Traceback" not in said
    log = lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in log][1:] == list(range(1, step + 1))
