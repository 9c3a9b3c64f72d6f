"""The house holds: who may import whom, and that the contact room is the only one that knows TRL's private names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parent.parent / "trl_nlpo"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = ("rollout", "scoring", "advantages", "update")


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at the top or inside functions."""
    package = ("trl_nlpo", *path.relative_to(PACKAGE).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def depends_on(path: Path, *prefixes: str) -> set[str]:
    return {name for name in imports(path) for prefix in prefixes if name == prefix or name.startswith(prefix + ".")}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_never_import_one_another(room):
    others = [f"trl_nlpo.{other}" for other in ROOMS if other != room]
    assert not depends_on(PACKAGE / f"{room}.py", *others)


def test_the_mathematics_imports_torch_and_nothing_of_ours():
    for path in (PACKAGE / "functional").glob("*.py"):
        others = depends_on(path, "trl_nlpo", "transformers", "trl", "peft")
        assert all(name.startswith("trl_nlpo.functional") for name in others), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_contact_room_touches_private_or_experimental_names_of_trl(path):
    if path.name == "_trl.py":
        return
    allowed = {"trl", "trl.SFTConfig", "trl.SFTTrainer", "trl.ModelConfig", "trl.ScriptArguments", "trl.TrlParser"}
    assert not depends_on(path, "trl") - allowed


@pytest.mark.parametrize("folder", ["rewards", "tasks", "metrics"])
def test_rewards_metrics_and_tasks_know_nothing_of_trl_or_the_trainer(folder):
    for path in (PACKAGE / folder).glob("*.py"):
        assert not depends_on(path, "trl", "trl_nlpo.trainer", "trl_nlpo._trl"), path.name


def test_what_must_not_know_text_or_optimizers_does_not():
    for name in ("advantages.py", "update.py"):
        assert not depends_on(PACKAGE / name, "trl_nlpo.prompts", "trl_nlpo.scoring", "trl_nlpo.evaluation")
    assert not depends_on(PACKAGE / "scoring.py", "trl_nlpo.models", "transformers")


def test_imports_run_down_only():
    order = ["cli", "experiment", "trainer", "trainer_plumbing", "trainer_checkpoints", "trainer_faults", *ROOMS]
    for index, name in enumerate(order):
        path = PACKAGE / f"{name}.py"
        above = [f"trl_nlpo.{higher}" for higher in order[:index]]
        assert not path.exists() or not depends_on(path, *above), name


def test_the_training_loop_fits_on_a_page():
    tree = ast.parse((PACKAGE / "trainer.py").read_text(encoding="utf-8"))
    train = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno - train.lineno < 40


def test_no_file_is_named_for_nothing():
    assert not {path.stem for path in FILES} & {"utils", "helpers", "misc", "common"}
