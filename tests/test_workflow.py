"""What the workflow and the README tell people to run is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parent.parent
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", ".ci/run")


def rows_of(matrix):
    """The settings of every job that a matrix stands for."""
    axes = {name: values for name, values in matrix.items() if name not in ("include", "exclude")}
    rows = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []
    return rows + matrix.get("include", [])


def commands():
    """Every command of every job, with the settings of its row of the matrix put in."""
    found = []
    for job in WORKFLOW["jobs"].values():
        for row in rows_of(job.get("strategy", {}).get("matrix", {})) or [{}]:
            for step in job["steps"]:
                command = step.get("run", "")
                for name, value in row.items():
                    command = command.replace("${{ matrix." + name + " }}", str(value))
                found.append(command)
    return [command for command in found if command]


def make_targets(text):
    """What `make` is asked for: on lines of their own, in steps of a workflow, between backticks."""
    return set(re.findall(r"(?:^|`|run: ) *make (?:[A-Z_]+=\S* )*([a-z]+)", text, re.MULTILINE))


def defined_targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_setting_of_a_matrix_is_put_in():
    assert not [command for command in commands() if "${{" in command]


def test_every_nox_session_of_the_workflow_exists():
    pytest.importorskip("nox")
    listed = subprocess.run(
        [sys.executable, "-m", "nox", "--list", "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    sessions = {session["session"] for session in json.loads(listed.stdout)}
    named = [name for command in commands() for name in re.findall(r'nox .*-s "?([^"\s]+)"?', command)]
    assert named
    assert set(named) <= sessions


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_that_is_written_about_exists(name):
    targets = make_targets((ROOT / name).read_text(encoding="utf-8"))
    assert targets
    assert targets <= defined_targets()


def test_the_workflow_runs_all_tests_and_the_check():
    targets = {word for command in commands() for word in make_targets(command)}
    assert {"test", "check"} <= targets <= defined_targets()


def test_the_tests_run_on_every_python_that_is_promised():
    classifiers = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", classifiers)
    (job,) = [job for job in WORKFLOW["jobs"].values() if any(step.get("run") == "make test" for step in job["steps"])]
    assert job["strategy"]["matrix"]["python"] == promised
