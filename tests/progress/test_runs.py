"""Whole runs of the command line: on a terminal of 80 columns, and without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.small_runs import TINY
from support.terminal import on_terminal


ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (supervised|supervised\+nlpo) \d+/\d+: .+")


@pytest.fixture
def command(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "kl_target": 6.0, "supervised_num_train_epochs": 3}))
    return [sys.executable, "-m", "trl_nlpo", "run", "tiny.yaml", "--output_dir", "out"]


@pytest.mark.slow
def test_on_a_terminal_every_stage_has_a_panel_that_leaves_a_line(command, tmp_path):
    shown = on_terminal(command, ENVIRONMENT, cwd=tmp_path)
    assert shown.code == 0, shown.raw
    for text in ("╭─ supervised ─", "╭─ supervised+nlpo ─", "loss", "2 of 2", "(target 6)", "mask", "tokens, mass"):
        assert shown.ever(text), text
    text = "\n".join(shown.lines)
    assert re.search(r"^supervised: 12 of 12 steps in \d:\d\d:\d\d, loss \S+$", text, re.MULTILINE)
    assert re.search(r"^supervised\+nlpo: 2 of 2 updates in \d:\d\d:\d\d, reward \S+, KL ", text, re.MULTILINE)
    assert "supervised+nlpo, 1 of 2: evaluation: reward" in text
    # Nothing of a panel is left on the screen, and the cursor is back.
    assert "╭" not in text
    assert "it/s" not in shown.raw
    assert shown.raw.rfind("\x1b[?25h") > shown.raw.rfind("\x1b[?25l")
    samples = text[text.index("Samples of supervised+nlpo:") :]
    assert samples.count("\n  prompt ") == samples.count("\n  completion ") == samples.count("\n  reward ") == 3


@pytest.mark.slow
def test_ctrl_c_is_answered_in_the_panel_and_the_terminal_is_left_in_order(command, tmp_path):
    words = [*command, "--max_steps", "200"]
    shown = on_terminal(words, ENVIRONMENT, cwd=tmp_path, interrupt_at=" of 200")
    assert shown.code == 130, shown.raw
    assert shown.ever("Stopping after this update, with a checkpoint.")
    text = "\n".join(shown.lines)
    assert "╭" not in text
    assert "trl-nlpo: stopped after update" in text
    assert shown.raw.rfind("\x1b[?25h") > shown.raw.rfind("\x1b[?25l")


@pytest.mark.slow
def test_without_a_terminal_there_are_plain_lines_only(command, tmp_path):
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not {"\r", "\x1b", "{", "\u2501"} & set(done.stdout.split("Samples of")[0])
    lines = [line for line in done.stdout.splitlines() if LINE.fullmatch(line)]
    assert [line.split()[2:4] for line in lines] == [
        ["supervised", "10/12:"],
        ["supervised", "12/12:"],
        *[["supervised+nlpo", f"{step}/2:"] for step in (1, 1, 2, 2)],
    ]
    assert "Samples of supervised+nlpo:" in done.stdout


@pytest.mark.slow
def test_a_terminal_has_plain_lines_too_with_disable_tqdm_in_a_grid_and_its_supervised_stage(tmp_path):
    recipe = {key: value for key, value in TINY.items() if key != "algorithm"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**recipe, "disable_tqdm": True}))
    words = ["grue", "--tasks", "tiny.yaml", "--algorithms", "supervised+nlpo", "--seeds", "1", "--out", "grid"]
    shown = on_terminal([sys.executable, "-m", "trl_nlpo", *words], ENVIRONMENT, cwd=tmp_path, columns=200)
    assert shown.code == 0, shown.raw
    assert len([line for line in shown.lines if LINE.fullmatch(line)]) == 5
    assert "\x1b[?25l" not in shown.raw
    assert "\r" not in shown.raw.replace("\r\n", "\n")
