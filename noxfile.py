"""The tests under the oldest TRL that is supported, the last one with a PPO of its own, and the newest: `nox`."""

import nox


nox.options.default_venv_backend = "venv"

TRAINER_TESTS = (
    "tests/functional", "tests/models", "tests/algorithm", "tests/trainer", "tests/test_public_api.py",
)  # fmt: skip


@nox.session
@nox.parametrize("trl", ["1.0.0", "1.12.0", "newest"], ids=["1.0.0", "1.12.0", "newest"])
def tests(session: nox.Session, trl: str) -> None:
    """All tests with the newest TRL, those of the trainer with the older ones."""
    session.install("-r", "constraints.txt")
    session.install("--upgrade", "trl" if trl == "newest" else f"trl=={trl}", "-e", ".[test]")
    selected = () if trl == "newest" else TRAINER_TESTS
    session.run("pytest", "-q", *(session.posargs or selected))
