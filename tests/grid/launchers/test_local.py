"""Jobs on this machine by submitit, for real: as the plain loop, pre-empted, and followed by another command."""

from __future__ import annotations

import os
import signal

import pytest

from support.equal_grids import ends_of
from support.launched import CELLS, checkpoint_of, finished, grue, parent_of, process_of, wait_for, write_recipe


pytest.importorskip("submitit")
# Several processes one after the other, each of which loads the libraries.
pytestmark = pytest.mark.timeout(1800)


@pytest.mark.slow
def test_cells_that_are_preempted_and_left_alone_end_as_the_plain_loop_bit_for_bit(plain_ends, tmp_path):
    write_recipe(tmp_path)
    command = grue(tmp_path, "launched", "--launcher", "local")
    cell = tmp_path / "launched" / CELLS[1]
    wait_for(lambda: checkpoint_of(cell), command, "a checkpoint")
    own = process_of(cell)
    # Ctrl-C at the terminal that the command was given at.
    command.send_signal(signal.SIGINT)
    code, out = finished(command)
    assert code == 130
    assert "interrupted. 1 cells go on in the background (kill " in out
    assert "The same command goes on from there, and follows what still runs." in out
    assert process_of(cell) == own
    # Pre-empted: submitit's signal, to the process that waits for the cell's.
    os.kill(parent_of(own), signal.SIGUSR2)
    # The same command finds the job that still runs.
    code, out = finished(grue(tmp_path, "launched", "--launcher", "local"))
    assert code == 0, out
    assert "[1/2] tiny, supervised, seed 0: done before." in out
    assert "[2/2] tiny, supervised+nlpo, seed 0: process" in out
    assert "of an earlier command has it." in out
    said = (tmp_path / "launched" / "_jobs" / f"{CELLS[1]}.log").read_text()
    assert "Stopping after this update, with a checkpoint." in said
    assert said.count("[2/2] tiny, supervised+nlpo, seed 0 ...") == 2
    by_submitit = "".join(path.read_text() for path in (tmp_path / "launched" / "_jobs" / "submitit").glob("*.out"))
    assert "Caught signal SIGUSR2" in by_submitit
    assert "stopped with what it has" in by_submitit
    assert ends_of(tmp_path / "launched") == plain_ends


@pytest.mark.slow
def test_a_cell_ends_with_a_checkpoint_when_the_process_that_waits_for_it_is_killed(tmp_path):
    write_recipe(tmp_path, updates=1000)
    command = grue(tmp_path, "launched", "--launcher", "local")
    cell = tmp_path / "launched" / CELLS[1]
    wait_for(lambda: checkpoint_of(cell), command, "a checkpoint")
    os.kill(parent_of(process_of(cell)), signal.SIGKILL)
    code, out = finished(command)
    assert code == 2
    assert "[2/2] tiny, supervised+nlpo, seed 0: ended without a result" in out
    wait_for(lambda: process_of(cell) is None, what="the end of the cell")
    assert "stopped after update" in (tmp_path / "launched" / "_jobs" / f"{CELLS[1]}.log").read_text()
