"""Jobs on a Ray of this machine; skipped where Ray is not installed."""

from __future__ import annotations

import importlib.util
import signal

import pytest

from support.equal_grids import ends_of
from support.launched import CELLS, checkpoint_of, finished, grue, process_of, wait_for, write_recipe


pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]


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
