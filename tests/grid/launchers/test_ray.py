"""Jobs on a Ray of this machine; skipped where Ray is not installed."""

from __future__ import annotations

import importlib.util
import signal

import pytest

from support.equal_grids import ends_of
from support.launched import CELLS, checkpoint_of, finished, grue, process_of, wait_for, write_recipe
from trl_nlpo.grid.launchers.ray import fits


pytestmark = pytest.mark.timeout(1800)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def test_a_task_fits_on_one_node_or_on_none():
    nodes = [{"CPU": 8.0, "memory": 16e9}, {"CPU": 2.0, "GPU": 1.0, "memory": 64e9}]
    assert fits({"CPU": 8, "GPU": 0, "memory": 16e9}, nodes)
    assert fits({"CPU": 1, "GPU": 0.5}, nodes)
    assert not fits({"CPU": 8, "GPU": 1}, nodes)
    assert not fits({"CPU": 1, "a100": 1}, nodes)
    assert not fits({"CPU": 1}, [])


@needs_ray
def test_a_cell_that_no_node_has_room_for_says_what_it_waits_for(tmp_path):
    write_recipe(tmp_path)
    options = ("cpus=1", "gpus=0", "memory_gb=90000", 'resources={"a100": 2}')
    command = grue(tmp_path, "launched", "--launcher", "ray", "--launcher_options", *options)
    lines = []
    for line in command.stdout:
        lines.append(line)
        if "waits for a node" in line:
            break
    command.send_signal(signal.SIGINT)
    code, _ = finished(command)
    assert "a Ray task, which waits for a node with CPU 1, 90000 GB of memory, a100 2: none has them." in lines[-1]
    assert code == 130


@needs_ray
@pytest.mark.slow
def test_cells_that_ctrl_c_stopped_and_that_resume_end_as_the_plain_loop_bit_for_bit(plain_ends, tmp_path):
    write_recipe(tmp_path)
    words = ("--launcher", "ray", "--launcher_options", "cpus=1", "gpus=0")
    command = grue(tmp_path, "launched", *words)
    cell = tmp_path / "launched" / CELLS[1]
    wait_for(lambda: checkpoint_of(cell), command, "a checkpoint")
    command.send_signal(signal.SIGINT)
    code, out = finished(command)
    assert code == 130
    assert "interrupted. 1 Ray tasks were stopped, and resume from their newest checkpoints." in out
    assert process_of(cell) is None
    said = tmp_path / "launched" / "_jobs" / f"{CELLS[1]}.log"
    assert "stopped after update" in said.read_text()
    code, out = finished(grue(tmp_path, "launched", *words))
    assert code == 0, out
    assert "[1/2] tiny, supervised, seed 0: done before." in out
    assert "[2/2] tiny, supervised+nlpo, seed 0: done." in out
    assert said.read_text().count("[2/2] tiny, supervised+nlpo, seed 0 ...") == 2
    assert ends_of(tmp_path / "launched") == plain_ends
