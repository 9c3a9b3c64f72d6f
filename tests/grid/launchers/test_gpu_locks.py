"""GPUs that cells take in turn: the locks, and jobs of submitit's that wait for them. The GPUs are numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from support.launched import wait_for
from trl_nlpo.errors import UserError
from trl_nlpo.grid.launchers import gpu_locks, local
from trl_nlpo.grid.launchers.gpu_locks import held_gpus, is_free, lock_folder
from trl_nlpo.grid.launchers.job import CellJob


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """Not those of the machine, on which real cells may run."""
    monkeypatch.setattr(gpu_locks, "_PAUSE", 0.01)
    monkeypatch.setattr(gpu_locks.tempfile, "tempdir", str(tmp_path))
    # Of the processes that are started.
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def nobody(line):
    raise AssertionError(line)


def test_a_gpu_that_nobody_has_is_taken_without_a_word():
    with held_gpus([1, 0], nobody) as held:
        assert held
        assert sorted(path.name for path in lock_folder().iterdir()) == ["0.lock", "1.lock"]
    assert is_free(0)


def test_a_second_one_waits_until_the_first_is_done():
    said, second = [], []

    def wait():
        with held_gpus([0, 1], said.append) as held:
            second.append((held, is_free(0), is_free(1)))

    waiter = threading.Thread(target=wait)
    with held_gpus([0], nobody):
        waiter.start()
        wait_for(lambda: said, what="the line")
        time.sleep(0.05)
        assert (waiter.is_alive(), second) == (True, [])
    waiter.join(10)
    assert second == [(True, False, False)]
    assert said == ["waits for GPU 0, which a cell of another command has"]


def test_one_that_gives_up_leaves_the_gpu_alone_and_takes_no_other():
    with held_gpus([0], nobody):
        with held_gpus([0, 1], lambda line: None, lambda: True) as held:
            assert not held
            assert is_free(1)
        assert not is_free(0)
    assert is_free(0)


def test_the_gpu_of_a_process_that_was_killed_is_free():
    code = (
        "from trl_nlpo.grid.launchers.gpu_locks import held_gpus\n"
        "with held_gpus([0], print):\n    print('taken', flush=True)\n    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "taken\n"
        assert not is_free(0)
        other.kill()
    assert is_free(0)


def test_a_folder_that_cannot_be_written_is_a_line():
    lock_folder().write_text("no folder")
    with pytest.raises(UserError, match=r"0\.lock, by which cells take turns at GPU 0, cannot be written"):
        is_free(0)


def launcher_and_job(folder, monkeypatch, *gpus):
    """A launcher of a machine with these GPUs, and a job whose cell ends at once, with an error."""
    pytest.importorskip("submitit")
    monkeypatch.setattr(local, "visible_gpus", lambda: [*gpus])
    job = CellJob("[1/1] it", {"no": "request"}, str(folder), str(folder), str(folder / "cell.log"))
    return local.LocalLauncher(folder / "submitit", local.LocalOptions()), job


def printed(folder):
    return "".join(path.read_text() for path in (folder / "submitit").glob("*.out"))


def wait_for_the_end(launcher):
    wait_for(lambda: all(started.done() for started in launcher._kept), what="the end of the job")


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """A job with GPU 3 that submitit has started while another has that GPU."""
    launcher, job = launcher_and_job(tmp_path, monkeypatch, "3")

    def said():
        return printed(tmp_path)

    with ExitStack() as other:
        other.enter_context(held_gpus([3], nobody))
        (submitted,) = launcher.submit([job], None)
        wait_for(lambda: "[1/1] it: waits for GPU 3, which a cell of another command has" in said(), what="the line")
        yield launcher, submitted, other, said
    wait_for_the_end(launcher)


@pytest.mark.slow
def test_of_several_gpus_a_job_gets_one_that_is_free(tmp_path, monkeypatch):
    launcher, job = launcher_and_job(tmp_path, monkeypatch, "3", "5")
    with held_gpus([3], nobody):
        (submitted,) = launcher.submit([job], None)
        assert submitted.record["gpus"] == [5]
        wait_for_the_end(launcher)
    assert "waits" not in printed(tmp_path)


@pytest.mark.slow
def test_a_job_waits_for_the_gpu_of_another_commands_cell(launched, tmp_path):
    launcher, submitted, other, said = launched
    assert not (tmp_path / "cell.log").exists()
    assert launcher.unfinished([submitted]) == {submitted.id}
    other.close()
    wait_for(lambda: not launcher.unfinished([submitted]), what="the end of the job")
    assert "its output goes to" in said()
    assert (tmp_path / "cell.log").exists()
    assert json.loads(json.dumps(dict(submitted.record)))["gpus"] == [3]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_job_that_waits_can_be_stopped_or_preempted(launched, tmp_path, number):
    launcher, submitted, other, said = launched
    # The process that waits, a child of submitit's controller.
    waiting = [
        int(pid)
        for pid in subprocess.run(
            ["pgrep", "--parent", submitted.id], capture_output=True, text=True, check=True
        ).stdout.split()
    ]
    os.kill(waiting[0], number)
    if number == signal.SIGTERM:
        wait_for(lambda: not launcher.unfinished([submitted]), what="the end of the job")
        assert "[1/1] it: stopped before it began" in said()
        assert not (tmp_path / "cell.log").exists()
    else:
        # It is started again, and waits again.
        wait_for(lambda: said().count("waits for GPU 3") == 2, what="the second line")
        other.close()
        wait_for(lambda: not launcher.unfinished([submitted]), what="the end of the job")
        assert (tmp_path / "cell.log").exists()
