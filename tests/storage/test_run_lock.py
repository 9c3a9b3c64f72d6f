"""One writer per folder: who lives keeps it, who has died loses it, who is elsewhere is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.storage.run_lock import (
    JOB_VARIABLE,
    LOCK_NAME,
    FolderTakenError,
    Owner,
    check_lockable,
    check_not_taken,
    lock_on,
    owner_of,
    release_ended,
)  # fmt: skip


ROOT = Path(__file__).parents[2]


def locked_by(folder, **changes):
    folder.mkdir(exist_ok=True)
    owner = {**vars(Owner.here()), **changes}
    (folder / LOCK_NAME).write_text(json.dumps(owner))
    return owner


@pytest.fixture
def other():
    """Another process of this machine, alive."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def began(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_a_folder_is_taken_while_inside_and_free_afterwards(tmp_path):
    with lock_on(tmp_path / "run"):
        assert owner_of(tmp_path / "run") == Owner.here()
        (tmp_path / "run" / "results.json").write_text("{}")
        with lock_on(tmp_path / "run"):
            pass
        assert owner_of(tmp_path / "run") == Owner.here()
    assert os.listdir(tmp_path / "run") == ["results.json"]


def test_a_folder_that_was_made_for_the_lock_goes_when_nothing_was_written(tmp_path):
    with pytest.raises(UserError, match="no such model"), lock_on(tmp_path / "runs" / "mine"):
        raise UserError("no such model")
    assert os.listdir(tmp_path) == []


def test_a_live_process_keeps_its_folder_and_the_line_names_it(tmp_path, other):
    locked_by(tmp_path, pid=other.pid, began=began(other.pid))
    with (
        pytest.raises(FolderTakenError, match=f"process {other.pid} on .* kill {other.pid} ends it"),
        lock_on(tmp_path),
    ):
        pass
    assert (tmp_path / LOCK_NAME).is_file()


def test_a_dead_process_loses_it_also_where_nobody_has_noticed_its_end(tmp_path, other):
    locked_by(tmp_path, pid=other.pid, began=began(other.pid))
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with lock_on(tmp_path):
        assert owner_of(tmp_path) == Owner.here()


def test_a_process_that_only_has_the_number_of_the_owner_is_not_taken_for_it(tmp_path, other):
    locked_by(tmp_path, pid=other.pid, began="1")
    check_not_taken(tmp_path)


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"space": "another container"}])
def test_a_process_elsewhere_is_believed_and_the_line_says_how_to_override(tmp_path, changes):
    locked_by(tmp_path, pid=1, began="1", **changes)
    with pytest.raises(FolderTakenError, match="is in use: process 1 on"):
        check_not_taken(tmp_path)
    (tmp_path / LOCK_NAME).unlink()
    check_not_taken(tmp_path)


def test_the_line_about_another_machine_names_the_file_to_delete(tmp_path):
    locked_by(tmp_path, host="elsewhere")
    with pytest.raises(FolderTakenError, match=f"if it has ended, delete {tmp_path / LOCK_NAME}"):
        check_not_taken(tmp_path)


def test_a_lock_that_cannot_be_read_is_respected(tmp_path):
    (tmp_path / LOCK_NAME).write_text("")
    with pytest.raises(FolderTakenError, match="just starting"):
        check_not_taken(tmp_path)


def test_of_many_processes_that_find_a_dead_ones_lock_one_gets_the_folder(tmp_path):
    locked_by(tmp_path, pid=2**22 + 1)
    code = (
        "import sys; from trl_nlpo.storage.run_lock import lock_on; input()\n"
        "try:\n    with lock_on(sys.argv[1]): print('mine', flush=True); input()\n"
        "except ValueError: print('taken', flush=True)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment, **pipes) for _ in range(4)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("\n")
    assert sorted(said) == ["mine", "taken", "taken", "taken"]


@pytest.mark.parametrize("place", ["/proc/nothing", "file", "file/below"])
def test_a_place_that_cannot_be_written_into_is_one_line(tmp_path, place):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"output_dir .* (cannot be written|is a file)"),
        lock_on(tmp_path / place),
    ):
        pass


def test_a_process_that_writes_nothing_needs_no_lock(tmp_path):
    with lock_on(tmp_path / "run", wanted=False):
        assert not (tmp_path / "run").exists()


def test_a_job_that_was_requeued_takes_over_what_it_had_on_another_machine(tmp_path, monkeypatch):
    locked_by(tmp_path, host="node-7", job="slurm-12_3")
    with pytest.raises(FolderTakenError):
        check_not_taken(tmp_path)
    monkeypatch.setenv(JOB_VARIABLE, "slurm-12_4")
    with pytest.raises(FolderTakenError):
        check_not_taken(tmp_path)
    monkeypatch.setenv(JOB_VARIABLE, "slurm-12_3")
    with lock_on(tmp_path):
        assert owner_of(tmp_path) == Owner.here()
        assert Owner.here().job == "slurm-12_3"


def test_a_live_process_of_the_same_job_on_this_machine_keeps_its_folder(tmp_path, monkeypatch, other):
    monkeypatch.setenv(JOB_VARIABLE, "slurm-12_3")
    locked_by(tmp_path, pid=other.pid, began=began(other.pid))
    with pytest.raises(FolderTakenError):
        check_not_taken(tmp_path)


def test_a_lock_is_removed_for_a_process_that_is_known_to_have_ended_and_for_no_other(tmp_path):
    locked_by(tmp_path, host="node-7", job="slurm-12_3")
    release_ended(tmp_path, lambda owner: owner.job == "slurm-12_4")
    assert (tmp_path / LOCK_NAME).exists()
    release_ended(tmp_path, lambda owner: owner.job == "slurm-12_3")
    assert not (tmp_path / LOCK_NAME).exists()


def test_a_lock_that_was_written_in_the_meantime_is_not_removed(tmp_path):
    locked_by(tmp_path, host="node-7", job="slurm-12_3")

    def has_ended(owner):
        # Another command took the dead one's lock over after this one had read it.
        if owner.job == "slurm-12_3":
            locked_by(tmp_path)
            return True
        return False

    release_ended(tmp_path, has_ended)
    assert owner_of(tmp_path) == Owner.here()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_a_live_lock_is_never_gone_while_others_try(tmp_path, other, monkeypatch):
    locked_by(tmp_path, pid=other.pid, began=began(other.pid))
    before = (tmp_path / LOCK_NAME).stat()
    # As if the owner had come between the first look and the second.
    monkeypatch.setattr("trl_nlpo.storage.run_lock.check_not_taken", lambda folder: None)
    with pytest.raises(FolderTakenError), lock_on(tmp_path):
        pass
    after = (tmp_path / LOCK_NAME).stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


@pytest.mark.parametrize(("age", "has_the_folder"), [(0, False), (3600, True)])
def test_a_takeover_is_waited_for_unless_it_is_that_of_a_process_that_died_in_it(tmp_path, age, has_the_folder):
    locked_by(tmp_path, pid=2**22 + 1)
    takeover = tmp_path / "_lock_takeover"
    takeover.touch()
    os.utime(takeover, (time.time() - age,) * 2)
    if has_the_folder:
        with lock_on(tmp_path):
            assert owner_of(tmp_path) == Owner.here()
    else:
        with pytest.raises(FolderTakenError), lock_on(tmp_path):
            pass


def test_a_folder_whose_locks_work_is_left_as_it_was(tmp_path):
    check_lockable(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("problem", ["two have it", "no links and no files"])
def test_a_file_system_whose_locks_do_not_work_is_refused(tmp_path, monkeypatch, problem):
    def link(source, target):
        if problem == "no links and no files":
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    if problem == "no links and no files":
        tmp_path = Path("/proc/self")
    with pytest.raises(UserError, match="has no locks that work"):
        check_lockable(tmp_path)
