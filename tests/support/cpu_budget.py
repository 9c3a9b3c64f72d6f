"""A budget for the CPU time of a run of tests: `pytest --cpu-budget 120`.

CPU time and not the clock's, so that a busy machine does not fail a run; the time of child processes counts when they
have been waited for. The time to import and to collect counts too.
"""

from __future__ import annotations

import os

import pytest


NUM_SHOWN = 15


def cpu_seconds() -> float:
    """CPU time in seconds since this process started, with that of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class CPUBudget:
    """Fails a run that took more than `budget` seconds of CPU, and names the tests that took most of it."""

    def __init__(self, budget: float):
        self.budget = budget
        self.collected = 0.0
        self.spent = 0.0
        self.seconds: dict[str, float] = {}

    def pytest_collection_finish(self) -> None:
        self.collected = cpu_seconds()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        before = cpu_seconds()
        yield
        self.seconds[item.nodeid] = cpu_seconds() - before

    def pytest_sessionfinish(self, session) -> None:
        self.spent = cpu_seconds()
        if self.spent > self.budget and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        terminalreporter.section("CPU time")
        terminalreporter.line(
            f"{self.spent:.1f} s of CPU, {self.collected:.1f} s of it before the first test; "
            f"the budget is {self.budget:g} s"
        )
        if self.spent <= self.budget:
            return
        slowest = sorted(self.seconds.items(), key=lambda pair: -pair[1])
        for name, seconds in slowest[:NUM_SHOWN]:
            terminalreporter.line(f"{seconds:8.2f} s  {name}")
        terminalreporter.line("over budget: make tests of these cheaper, or mark them slow", red=True)


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--cpu-budget",
        type=float,
        metavar="SECONDS",
        help="fail when the run takes more CPU time than this, and print its slowest tests",
    )


def pytest_configure(config) -> None:
    budget = config.getoption("cpu_budget")
    if budget is not None:
        config.pluginmanager.register(CPUBudget(budget))
