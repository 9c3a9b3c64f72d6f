"""The tests under the oldest TRL that is supported, the last one with a PPO of its own, and the newest; and under the
oldest of every library that pyproject.toml allows: `nox`."""

import nox
from packaging.requirements import Requirement


nox.options.default_venv_backend = "venv"

TRAINER_TESTS = (
    "tests/functional", "tests/models", "tests/algorithm", "tests/trainer", "tests/test_public_api.py",
)  # fmt: skip
COMMAND_TESTS = ("tests/test_cli.py", "tests/recipes", "tests/experiment")


def lowest_versions() -> list[str]:
    """`name==version` for the lower bound of every direct dependency, and of the extras that tests need."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    named = [requirement for extra in ("metrics", "people", "report", "docs", "test") for requirement in extras[extra]]
    requirements = map(Requirement, (*project["dependencies"], *named))
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in requirements
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


@nox.session
@nox.parametrize("trl", ["1.0.0", "1.12.0", "newest"], ids=["1.0.0", "1.12.0", "newest"])
def tests(session: nox.Session, trl: str) -> None:
    """All tests with the newest TRL, those of the trainer with the older ones."""
    session.install("-c", "constraints.txt", "torch")
    session.install("--upgrade", "trl" if trl == "newest" else f"trl=={trl}", "-e", ".[test]")
    selected = () if trl == "newest" else TRAINER_TESTS
    session.run("pytest", "-q", *(session.posargs or selected))


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """The tests of the trainer, of recipes and of the command line with the lowest versions that are allowed."""
    session.install(*lowest_versions(), "-e", ".[test]")
    session.run("pytest", "-q", *(session.posargs or (*TRAINER_TESTS, *COMMAND_TESTS)))
