"""The tutorial works as printed, in an empty directory, step after step."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(bash|python|yaml)(?: title=\"([^\"\n]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
FEWER = (
    "--max_steps", "2", "--supervised_num_train_epochs", "1", "--max_train_samples", "64", "--max_test_samples", "8",
    "--max_eval_samples", "8",
)  # fmt: skip
"""Added to each run: the test is of the steps, and the quickstart's own test is of what it learns."""


def run(words, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_every_step_of_the_tutorial_works_in_an_empty_directory(tmp_path):
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    seen = []
    for language, title, block in BLOCK.findall(text):
        if title:
            (tmp_path / title).write_text(block, encoding="utf-8")
        elif language == "python":
            done = run(["-c", block], tmp_path)
            assert done.returncode == 0, done.stderr[-2000:]
            assert "KL" in done.stdout
        else:
            for line in block.splitlines():
                program, *words = shlex.split(line)
                module = ["-m", "trl_nlpo"] if program == "trl-nlpo" else []
                fewer = FEWER if words[0] == "run" else ()
                done = run([*module, *words, *fewer], tmp_path)
                assert done.returncode == 0, (line, done.stderr[-2000:])
                seen.append(words)
    assert len(seen) == 6
    for folder in ("first", "ppo", "rain", "sums"):
        assert (tmp_path / "runs" / folder / "results.json").is_file()
