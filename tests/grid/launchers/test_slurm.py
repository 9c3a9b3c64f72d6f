"""Jobs under a real Slurm of one node on the loopback interface; skipped where it is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.equal_grids import ends_of
from support.launched import CELLS, ENVIRONMENT, checkpoint_of, finished, grue, process_of, wait_for, write_recipe


pytest.importorskip("submitit")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd needs root"),
]
SCRIPT = Path(__file__).parents[1] / "one_node_slurm.sh"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which Slurm's programs find the one of the tests."""
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**ENVIRONMENT, "PATH": f"{os.environ['PATH']}:/usr/sbin", "SLURM_CONF": str(folder / "slurm.conf")}
    # Its daemons would keep a pipe open.
    with (folder / "start.log").open("w") as log:
        started = subprocess.run(
            ["bash", SCRIPT, "start", folder], env=environment, stdout=log, stderr=log, check=False
        )
    try:
        assert started.returncode == 0, (folder / "start.log").read_text()
        yield environment
    finally:
        subprocess.run(["bash", SCRIPT, "stop", folder], env=environment, check=False)


def in_queue(slurm):
    """State by the id of the jobs that Slurm lists."""
    found = subprocess.run(
        ["squeue", "--noheader", "--array", "--format", "%i %T"], env=slurm, capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in found.stdout.splitlines())


@pytest.mark.slow
def test_cells_that_are_preempted_and_requeued_end_as_the_plain_loop_bit_for_bit(plain_ends, slurm, tmp_path):
    write_recipe(tmp_path)
    words = ("--launcher", "slurm", "--launcher_options", "cpus=1", "minutes=60", "partition=main")
    command = grue(tmp_path, "launched", *words, environment=slurm)
    wait_for(lambda: len(in_queue(slurm)) == 2, command, "the two jobs")
    cell = tmp_path / "launched" / CELLS[1]
    job = max(in_queue(slurm), key=int)
    assert in_queue(slurm)[job] == "PENDING"
    log = tmp_path / "launched" / "_jobs" / "submitit" / f"{job}_0_log.out"
    step = 0
    for number, name in enumerate(("USR2", "TERM"), 1):
        wait_for(lambda step=step: checkpoint_of(cell) > step and process_of(cell), command, "a checkpoint")
        before = process_of(cell)
        subprocess.run(["scancel", "--signal", name, job], env=slurm, check=True)
        wait_for(lambda number=number: log.read_text().count(f"Requeued job {job}") == number, command, "the requeue")
        wait_for(lambda before=before: process_of(cell) not in (None, before), command, "the next start")
        step = checkpoint_of(cell)
    code, out = finished(command)
    assert code == 0, out
    assert "[1/2] tiny, supervised, seed 0: Slurm job " in out
    assert f"[2/2] tiny, supervised+nlpo, seed 0: Slurm job {job}, after Slurm job " in out
    assert log.read_text().count("stopped with what it has; it resumes") == 2
    assert log.read_text().count("stopped by a signal; to be requeued.") >= 1
    said = (tmp_path / "launched" / "_jobs" / f"{CELLS[1]}.log").read_text()
    assert said.count("[2/2] tiny, supervised+nlpo, seed 0 ...") == 3
    assert said.count("Stopping after this update, with a checkpoint.") == 2
    assert ends_of(tmp_path / "launched") == plain_ends


@pytest.mark.slow
def test_jobs_go_on_without_their_command_which_finds_them_again_and_a_cancelled_one_is_not_requeued(slurm, tmp_path):
    write_recipe(tmp_path, updates=2000)
    words = ("--launcher", "slurm", "--launcher_options", "cpus=1")
    command = grue(tmp_path, "launched", *words, environment=slurm)
    wait_for(lambda: len(in_queue(slurm)) == 2, command, "the two jobs")
    jobs = sorted(in_queue(slurm), key=int)
    # Not even Ctrl-C.
    command.kill()
    command.communicate()
    command = grue(tmp_path, "launched", *words, environment=slurm)
    cell = tmp_path / "launched" / CELLS[1]
    wait_for(lambda: checkpoint_of(cell) and process_of(cell), command, "a checkpoint")
    assert [*in_queue(slurm)] == jobs[1:]
    subprocess.run(["scancel", jobs[1]], env=slurm, check=True)
    code, out = finished(command)
    assert code == 2
    assert f"[2/2] tiny, supervised+nlpo, seed 0: Slurm job {jobs[1]} of an earlier command has it." in out
    assert "[2/2] tiny, supervised+nlpo, seed 0: ended without a result" in out
    assert in_queue(slurm) == {}
    assert "stopped after update" in (tmp_path / "launched" / "_jobs" / f"{CELLS[1]}.log").read_text()


@pytest.mark.slow
def test_what_slurm_does_not_accept_is_one_line(slurm, tmp_path):
    write_recipe(tmp_path)
    words = ("--launcher", "slurm", "--launcher_options", "partition=nowhere")
    code, out = finished(grue(tmp_path, "launched", *words, environment=slurm))
    assert code == 2
    assert out.splitlines()[-1].startswith("trl-nlpo: Slurm did not accept the jobs: ")
    assert "invalid partition" in out
    assert "Traceback" not in out
