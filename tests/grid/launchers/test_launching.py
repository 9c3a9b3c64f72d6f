"""What is submitted when, what is followed, what is tried again: with a launcher whose jobs run when it is asked."""

from __future__ import annotations

import contextlib
import json
import os

import pytest

from support.grids import FakeRun, made_up_grid
from trl_nlpo.errors import UserError
from trl_nlpo.grid.cells import Grid, parse_variant
from trl_nlpo.grid.grid import run_grid
from trl_nlpo.grid.launchers import launching
from trl_nlpo.grid.launchers.cell_process import request_of, run_request
from trl_nlpo.grid.launchers.launcher import Submitted
from trl_nlpo.grid.launchers.launching import launch_grid, record_of


class Killed(BaseException):
    """Ends a cell without a word, as SIGKILL does."""


class MadeUpLauncher:
    """Runs the oldest of its jobs each time it is asked which are unfinished."""

    name = "made-up"
    goes_on = True
    most = None
    usual = None
    settling = 0.0

    def __init__(self, run=None, queues=False, known=()):
        self.run, self.queues, self.known = run or FakeRun(), queues, dict(known)
        self.arrays, self.open, self.longest = [], {}, 0

    def submit(self, jobs, after):
        """Take them in."""
        submitted = []
        for job in jobs:
            number = str(sum(map(len, self.arrays)) + len(submitted) + 1)
            self.open[number] = job
            submitted.append(Submitted(number, f"job {number}"))
        self.arrays.append([(job.place, after and after.id) for job in jobs])
        self.longest = max(self.longest, len(self.open))
        return submitted

    def find(self, record):
        """What the test says is still there."""
        return Submitted(record["id"], f"job {record['id']}") if record["id"] in self.known else None

    def unfinished(self, jobs):
        """Run one."""
        for job in jobs:
            if job.id in self.known:
                self.known.pop(job.id)()
                break
            if job.id in self.open:
                request = json.loads(json.dumps(self.open.pop(job.id).request))
                with contextlib.suppress(UserError, Killed):
                    run_request(request, self.run, lambda line: None)
                break
        return {job.id for job in jobs if job.id in self.open or job.id in self.known}

    def has_ended(self, job, owner):
        """Whether the lock has the job's name, and its node is gone."""
        return self.is_of(job, owner) and owner.host == "a-node-that-failed"

    def is_of(self, job, owner):
        """Whether the lock has the job's name."""
        return owner.job == f"made-up-{job.id}"

    def last_words(self, job):
        """None but its number."""
        return f"job {job.id} said nothing"

    def leave(self, jobs):
        """In words."""
        return f"{len(jobs)} cells go on"


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching.time, "sleep", lambda seconds: None)
    return tmp_path


def algorithms(run):
    return [(recipe.arguments.algorithm, recipe.training.seed) for recipe in run.recipes]


def small_grid(tmp_path, *names, seeds=1):
    return Grid(("commongen",), tuple(map(parse_variant, names)), seeds, tmp_path / "grid")


def test_what_runs_is_what_the_plain_loop_runs_word_for_word(tmp_path):
    plain, launched = FakeRun(), FakeRun()
    run_grid(made_up_grid(tmp_path / "a"), plain, lambda line: None)
    (tmp_path / "a" / "grid").rename(tmp_path / "plain")
    assert launch_grid(made_up_grid(tmp_path / "a"), lambda: MadeUpLauncher(launched), lambda line: None) == []

    def resolved(run):
        return sorted((recipe.resolved for recipe in run.recipes), key=lambda keys: keys["output_dir"])

    assert resolved(launched) == resolved(plain)
    for cell in made_up_grid(tmp_path / "a").cells():
        before = tmp_path / "plain" / cell.folder.relative_to(tmp_path / "a" / "grid") / "cell.json"
        assert (cell.folder / "cell.json").read_text() == before.read_text()


def test_a_cell_waits_for_the_job_that_trains_its_supervised_model(tmp_path):
    launcher = MadeUpLauncher()
    assert launch_grid(made_up_grid(tmp_path), lambda: launcher, lambda line: None) == []
    assert [len(array) for array in launcher.arrays] == [2, 3, 3]
    assert algorithms(launcher.run)[0] == ("supervised", 0)
    assert all(after is None for array in launcher.arrays for _, after in array)


def test_under_a_queue_all_is_submitted_at_once_as_arrays_with_what_they_come_after(tmp_path):
    launcher, said = MadeUpLauncher(queues=True), []
    assert launch_grid(made_up_grid(tmp_path), lambda: launcher, said.append) == []
    assert [(len(array), array[0][1]) for array in launcher.arrays] == [(2, None), (3, "1"), (3, "2")]
    assert "[1/8] commongen, supervised, seed 0: job 1." in said
    assert "[2/8] commongen, zero_shot, seed 0: job 3, after job 1." in said
    assert "[8/8] commongen, supervised+nlpo[mask_sync_steps=null], seed 1: done." in said


@pytest.mark.parametrize("queues", [False, True])
def test_there_are_never_more_jobs_than_max_parallel(tmp_path, queues):
    launcher = MadeUpLauncher(queues=queues)
    assert launch_grid(made_up_grid(tmp_path), lambda: launcher, lambda line: None, max_parallel=3) == []
    assert launcher.longest == 3
    assert len(launcher.run.recipes) == 8


def test_fewer_jobs_than_asked_for_are_told(tmp_path):
    launcher, said = MadeUpLauncher(), []
    launcher.most = 2
    assert launch_grid(made_up_grid(tmp_path), lambda: launcher, said.append, max_parallel=5) == []
    assert launcher.longest == 2
    assert said[0] == "--max_parallel 5: 2 at a time, for which there are GPUs."


def test_a_cell_that_fails_is_tried_again_so_often_and_then_reported(tmp_path):
    launcher, said = MadeUpLauncher(FakeRun(fails=["ppo"])), []
    subject = small_grid(tmp_path, "ppo", "nlpo")
    failed = launch_grid(subject, lambda: launcher, said.append, retries=2)
    assert [cell.variant.label for cell in failed] == ["ppo"]
    assert algorithms(launcher.run).count(("ppo", 0)) == 3
    place = "[1/2] commongen, ppo, seed 0: failed: out of luck"
    assert [line for line in said if "out of luck" in line] == [
        f"{place}; it is tried again (1 of 2) (job 1 said nothing).",
        f"{place}; it is tried again (2 of 2) (job 3 said nothing).",
        f"{place} (job 4 said nothing).",
    ]
    # The next command tries it again.
    again = MadeUpLauncher()
    assert launch_grid(subject, lambda: again, said.append) == []
    assert algorithms(again.run) == [("ppo", 0)]


def test_what_needs_a_model_that_there_will_not_be_is_not_tried_again(tmp_path):
    launcher = MadeUpLauncher(FakeRun(fails=["supervised", "supervised+ppo"]))
    failed = launch_grid(small_grid(tmp_path, "supervised+ppo"), lambda: launcher, lambda line: None, retries=1)
    assert len(failed) == 2
    assert algorithms(launcher.run) == [("supervised", 0)] * 2 + [("supervised+ppo", 0)]


def test_a_job_that_ends_without_a_result_has_failed_and_its_lock_is_removed(tmp_path):
    subject, said = small_grid(tmp_path, "ppo"), []
    cell = subject.cells()[0]

    def killed(recipe, force, overwrite):
        owner = {"host": "a-node-that-failed", "pid": 1, "job": "made-up-1"}
        (cell.folder / "_lock.json").write_text(json.dumps(owner))
        raise Killed

    launcher = MadeUpLauncher(killed)
    assert launch_grid(subject, lambda: launcher, said.append) == [cell]
    assert any("ended without a result (job 1 said nothing)." in line for line in said)
    assert not (cell.folder / "_lock.json").exists()
    assert launch_grid(subject, MadeUpLauncher, said.append) == []


def test_a_job_of_an_earlier_command_is_followed_and_not_submitted_again(tmp_path):
    subject, said = small_grid(tmp_path, "ppo", "nlpo"), []
    ppo = subject.cells()[0]
    run_grid(small_grid(tmp_path, "zero_shot"), FakeRun(), lambda line: None)
    record = record_of(subject.folder, ppo)
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"launcher": "made-up", "id": "77"}))

    def it_ends():
        ppo.folder.mkdir(parents=True)
        (ppo.folder / "cell.json").write_text('{"status": "done", "metrics": {}}')

    launcher = MadeUpLauncher(known={"77": it_ends})
    assert launch_grid(subject, lambda: launcher, said.append) == []
    assert algorithms(launcher.run) == [("nlpo", 0)]
    assert "[1/2] commongen, ppo, seed 0: job 77 of an earlier command has it." in said
    assert not record.exists()


def test_a_job_that_died_while_no_command_followed_it_is_run_again(tmp_path):
    subject = small_grid(tmp_path, "ppo")
    cell = subject.cells()[0]
    cell.folder.mkdir(parents=True)
    owner = {"host": "a-node-that-failed", "pid": 1, "job": "made-up-12"}
    (cell.folder / "_lock.json").write_text(json.dumps(owner))
    record = record_of(subject.folder, cell)
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"launcher": "made-up", "id": "12"}))
    launcher = MadeUpLauncher()
    assert launch_grid(subject, lambda: launcher, lambda line: None) == []
    assert algorithms(launcher.run) == [("ppo", 0)]
    assert cell.status == "done"
    assert not record.exists()


@pytest.mark.parametrize("stops", [True, False])
def test_a_job_whose_process_is_still_stopping_is_waited_for_and_not_taken_for_another_command(
    tmp_path, monkeypatch, stops
):
    subject, said = small_grid(tmp_path, "ppo"), []
    cell = subject.cells()[0]
    now = [0.0]
    monkeypatch.setattr(launching.time, "monotonic", lambda: now[0])

    def killed(recipe, force, overwrite):
        lock = json.dumps({"host": "a-node-that-lives", "pid": 1, "job": "made-up-1"})
        (cell.folder / "_lock.json").write_text(lock)
        raise Killed

    def time_passes(seconds):
        now[0] += 100.0
        if stops and now[0] == 500.0:
            (cell.folder / "_lock.json").unlink()

    monkeypatch.setattr(launching.time, "sleep", time_passes)
    launcher = MadeUpLauncher(killed)
    failed = launch_grid(subject, lambda: launcher, said.append)
    if stops:
        assert failed == [cell]
        assert any("ended without a result" in line for line in said)
        assert now[0] == 500.0
    else:
        assert "process 1 on a-node-that-lives; if that has ended, delete" in said[-2]
        # It was first seen to have ended after 100 seconds.
        assert now[0] == 100.0 + 900.0


def test_what_fails_for_want_of_its_supervised_model_keeps_its_tries(tmp_path):
    launcher = MadeUpLauncher(queues=True)
    tries = {"supervised": 0, "supervised+ppo": 0}
    succeeds = launcher.run

    def run(recipe, force, overwrite):
        name = recipe.arguments.algorithm
        tries[name] += 1
        # The first fails for no lasting reason, and then what comes after it: once for want of its model, once so.
        if tries[name] <= {"supervised": 1, "supervised+ppo": 2}[name]:
            raise UserError("out of luck")
        return succeeds(recipe, force, overwrite)

    launcher.run = run
    assert launch_grid(small_grid(tmp_path, "supervised+ppo"), lambda: launcher, lambda line: None, retries=1) == []
    assert tries == {"supervised": 2, "supervised+ppo": 3}


def test_a_cell_that_another_command_has_is_left_to_it(tmp_path):
    subject, said = small_grid(tmp_path, "ppo", "nlpo"), []
    taken = subject.cells()[0].folder
    taken.mkdir(parents=True)
    (taken / "_lock.json").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    launcher = MadeUpLauncher()
    assert launch_grid(subject, lambda: launcher, said.append) == []
    assert algorithms(launcher.run) == [("nlpo", 0)]
    lock = taken / "_lock.json"
    assert (
        "[1/2] commongen, ppo, seed 0: another command has it (process 1 on elsewhere; if that has ended, delete "
        f"{lock})."
    ) in said


def test_ctrl_c_says_what_goes_on_and_what_was_not_submitted(tmp_path):
    launcher = MadeUpLauncher()

    def ctrl_c(jobs):
        raise KeyboardInterrupt

    launcher.unfinished = ctrl_c
    with pytest.raises(KeyboardInterrupt) as stop:
        launch_grid(made_up_grid(tmp_path), lambda: launcher, lambda line: None, max_parallel=1)
    assert str(stop.value) == (
        "interrupted. 1 cells go on. 7 more were not submitted yet. The same command goes on from there, and follows "
        "what still runs."
    )


def test_when_later_jobs_are_not_accepted_the_line_says_what_goes_on(tmp_path):
    launcher = MadeUpLauncher(queues=True)
    accepts = launcher.submit

    def submit(jobs, after):
        if launcher.arrays:
            raise UserError("the queue is full.")
        return accepts(jobs, after)

    launcher.submit = submit
    with pytest.raises(UserError) as error:
        launch_grid(made_up_grid(tmp_path), lambda: launcher, lambda line: None)
    assert str(error.value) == (
        "the queue is full. 2 cells go on. 6 more were not submitted yet. The same command goes on from there, and "
        "follows what still runs."
    )


def test_a_secret_among_the_keys_is_refused_as_it_would_stand_in_files(tmp_path):
    subject = Grid(("commongen",), (parse_variant("ppo"),), 1, tmp_path / "grid", ("--hub_token", "hf_abcdefghij"))
    with pytest.raises(UserError, match="would stand in the files of a queue") as error:
        launch_grid(subject, MadeUpLauncher, lambda line: None)
    assert "hf_abc" not in str(error.value)
    assert not (tmp_path / "grid").exists()


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    # One that takes a second link of one name for a success.
    monkeypatch.setattr(os, "link", lambda source, target: None)
    with pytest.raises(UserError, match="has no locks that work"):
        launch_grid(small_grid(tmp_path, "ppo"), MadeUpLauncher, lambda line: None)


def test_a_recipe_that_was_edited_after_its_cells_were_submitted_is_not_run(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("task: commongen\ngamma: 0.9\n")
    subject = Grid(("own.yaml",), (parse_variant("ppo"),), 1, tmp_path / "grid")
    request = request_of(subject, subject.cells()[0], "[1/1]")
    file.write_text("task: commongen\ngamma: 0.8\n")
    run = FakeRun()
    with pytest.raises(UserError, match=r"'own\.yaml' was edited after its cells were submitted"):
        run_request(request, run, lambda line: None)
    assert run.recipes == []
