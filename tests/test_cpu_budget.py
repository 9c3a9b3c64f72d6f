"""A run of tests that takes more CPU time than its budget fails, and says which tests took it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


TESTS = "def test_cheap():\n    pass\n\n\ndef test_dear():\n    sum(range(20_000_000))\n"


def run(folder, budget):
    (folder / "test_two.py").write_text(TESTS, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "support.cpu_budget", "--cpu-budget", budget, "test_two.py"],
        cwd=folder,
        # The plugins of other packages cost more than the tests.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def test_a_run_over_its_budget_fails_though_all_tests_pass_and_names_the_slowest_first(tmp_path):
    result = run(tmp_path, "0.01")
    assert result.returncode == 1
    assert "2 passed" in result.stdout
    assert "the budget is 0.01 s" in result.stdout
    assert result.stdout.index("test_two.py::test_dear") < result.stdout.index("test_two.py::test_cheap")


def test_a_run_within_its_budget_succeeds(tmp_path):
    result = run(tmp_path, "1000")
    assert result.returncode == 0
    assert "test_two.py::test_dear" not in result.stdout
