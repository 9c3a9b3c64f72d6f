"""A run of tests that takes more CPU time than its budget fails, and says which tests took it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


TESTS = "def test_cheap():\n    pass\n\n\ndef test_dear():\n    sum(range(3_000_000))\n"


def run(folder, *words):
    (folder / "test_two.py").write_text(TESTS, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "support.cpu_budget", *words, "test_two.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code"), [((), 0), (("--cpu-budget", "1000"), 0), (("--cpu-budget", "0.01"), 1)])
def test_a_run_over_its_budget_fails_though_all_tests_pass(tmp_path, words, code):
    result = run(tmp_path, *words)
    assert "2 passed" in result.stdout
    assert result.returncode == code


def test_the_slowest_tests_are_named_in_their_order(tmp_path):
    output = run(tmp_path, "--cpu-budget", "0.01").stdout
    assert "the budget is 0.01 s" in output
    assert output.index("test_two.py::test_dear") < output.index("test_two.py::test_cheap")
