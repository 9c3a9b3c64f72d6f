"""The house as a table: what each part may import, and who may touch private names of other libraries.

What a row does not name is forbidden, in functions and under `TYPE_CHECKING` too. No file is exempt.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import Trainer


PACKAGE = Path(__file__).parent.parent / "trl_nlpo"
FILES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"display", "errors", "naming", "pictures", "secrets", "serving"}
"""Parts that all others stand on."""

OURS: dict[str, set[str]] = {
    # The face.
    "__init__": {"config", "former_names", "trainer"},
    "__main__": {"cli"},
    "cli": {
        "collection", "demo", "experiment", "grid", "human_study", "launch", "metrics", "recipes", "report",
        "reward_training", "rewards", "storage/json_lines", "tasks", "unexpected", "__version__",
    },
    # What the command line says of errors that are no `UserError`.
    "unexpected": set(),
    "former_names": set(),
    # From a recipe to a run, and to many.
    "report": {"grid", "metrics/directions", "recipes/algorithms", "storage"},
    "grid": {"data", "launch", "metrics", "recipes", "storage"},
    "experiment": {
        "algorithm", "data", "evaluation", "hub", "launch", "metrics", "models", "progress", "prompts", "recipes",
        "rewards", "storage", "tasks", "trainer", "_trl",
    },
    "collection": {
        "algorithm/draws", "experiment", "human_study", "metrics", "prompts", "recipes", "reward_training", "storage",
    },
    "human_study": {"data", "metrics/texts", "storage"},
    "demo": {"algorithm", "data", "evaluation", "experiment", "hub", "metrics", "recipes", "storage"},
    # A reward model is trained on what it will read as a reward.
    "reward_training": {
        "algorithm/reward_models", "data", "functional", "launch/library_output", "metrics", "models", "progress",
        "recipes", "storage",
    },
    "data": {"prompts/messages", "recipes", "storage", "tasks"},
    # A name that no repository can have is a mistake in the recipe.
    "recipes": {"config", "hub", "launch", "metrics", "rewards", "tasks"},
    # Training.
    "trainer": {
        "algorithm", "config", "evaluation", "functional", "hub", "launch", "models", "progress", "prompts", "records",
        "storage", "_trl",
    },
    # Another face over the same rooms, for old scripts.
    "legacy": {
        "algorithm", "config", "functional", "launch", "models", "records", "trainer/setup",
    },
    # What people see while a trainer runs, whichever trainer it is.
    "progress": {"launch/library_output", "launch/signals"},
    # The trainer pushes, and a recipe prints the line that loads what was saved or pushed.
    "hub": set(),
    "evaluation": {"algorithm", "functional", "launch", "metrics", "models", "prompts", "records"},
    "config": {"launch", "_trl"},
    "config/names_elsewhere": set(),
    "config/inherited_settings": set(),
    "prompts": {"records"},
    "prompts/messages": {"prompts/tokenized"},
    "prompts/tabular": {"prompts/tokenized"},
    "prompts/tokenized": set(),
    "launch": {"_trl", "__version__"},
    "launch/library_output": set(),
    # The four rooms and their closets. Rooms never import one another.
    "algorithm/rollout": {
        "algorithm/distribution", "algorithm/draws", "algorithm/engines", "algorithm/generation", "functional",
        "models", "records",
    },
    # What samples in room 1.
    "algorithm/engines": {
        "algorithm/actions", "algorithm/distribution", "algorithm/draws", "algorithm/generation", "functional",
        "models", "records",
    },
    "algorithm/engines/vllm": {
        "algorithm/distribution", "algorithm/draws", "algorithm/engines/row_sampler", "algorithm/generation", "models",
        "_vllm",
    },
    "algorithm/engines/row_sampler": {
        "algorithm/actions", "algorithm/distribution", "algorithm/draws", "algorithm/generation", "functional",
        "records",
    },
    "algorithm/actions": {"algorithm/distribution", "algorithm/draws", "functional"},
    "algorithm/scoring": {"algorithm/reward_calls", "records"},
    "algorithm/advantages": {"functional", "records"},
    "algorithm/update": {
        "algorithm/batch_plan", "algorithm/distribution", "algorithm/objective", "algorithm/totals", "models",
        "records",
    },
    "algorithm/trust_region": {
        "algorithm/batch_plan", "algorithm/distribution", "algorithm/objective", "algorithm/totals",
        "algorithm/update", "functional", "models", "records",
    },
    "algorithm/distribution": {"functional", "records"},
    "algorithm/draws": set(),
    "algorithm/generation": {
        "algorithm/actions", "algorithm/distribution", "algorithm/draws", "functional", "models", "records",
    },
    "algorithm/reward_calls": {"algorithm/reward_watchdog"},
    "algorithm/reward_watchdog": set(),
    # A reward model reads text as a metric's does: one way to load and to encode.
    "algorithm/reward_models": {
        "metrics/classifier", "metrics/pretrained", "metrics/texts", "models", "records",
    },
    "algorithm/self_test": {"algorithm/generation", "functional", "models", "records"},
    "algorithm/batch_plan": set(),
    "algorithm/objective": {"algorithm/distribution", "algorithm/totals", "functional", "records"},
    "algorithm/totals": {"functional", "records"},
    "algorithm/__init__": set(),
    # What everything is made of.
    "models": {"functional", "records"},
    "records": {"functional"},
    "functional": set(),
    "tasks": {"metrics", "rewards"},
    "rewards": {"metrics"},
    "metrics": {"storage/json_lines"},
    # Rows are shared out over the processes of a run.
    "metrics/measuring": {"launch/processes", "metrics"},
    # A score of an earlier version is not taken for one of this.
    "metrics/score_cache": {"metrics", "__version__"},
    # How much a model can read is asked in one place.
    "metrics/pretrained": {"models/inputs"},
    "storage": set(),
    "display": set(),
    "pictures": set(),
    "serving": set(),
    "naming": set(),
    "errors": set(),
    "secrets": set(),
    "_trl": set(),
    "_vllm": set(),
}  # fmt: skip
"""Part -> parts of ours. A part is a file or a folder; the longest name that fits a file is its row."""

PACKAGES: dict[str, set[str]] = {
    "__init__": set(), "__main__": set(), "former_names": set(), "display": set(), "errors": set(), "naming": set(),
    "secrets": set(), "unexpected": set(), "pictures": {"matplotlib"},
    "serving": set(),
    "hub": {"huggingface_hub"},
    "demo": {"gradio", "torch"},
    "functional": {"torch"},
    "records": {"torch"},
    "models": {"torch", "transformers", "peft", "safetensors", "tokenizers"},
    "prompts": {"torch"},
    "prompts/messages": {"trl"},
    "prompts/tabular": set(),
    "prompts/tokenized": set(),
    "algorithm": {"torch"},
    "algorithm/actions": {"torch", "transformers"},
    "algorithm/distribution": {"torch", "transformers"},
    "algorithm/draws": {"torch", "numpy"},
    "algorithm/generation": {"torch", "transformers"},
    "algorithm/reward_models": {"torch", "transformers", "trl"},
    "algorithm/self_test": {"torch", "transformers"},
    "evaluation": {"torch"},
    "storage": {"yaml"},
    "config": {"torch"},
    "config/inherited_settings": set(),
    "config/names_elsewhere": set(),
    "launch": {"torch", "accelerate", "transformers", "deepspeed"},
    "legacy": {"accelerate", "huggingface_hub", "numpy", "peft", "safetensors", "torch", "transformers"},
    "launch/library_output": {"datasets", "transformers"},
    "progress": {"rich", "transformers"},
    "trainer": {"torch", "accelerate", "transformers", "numpy", "peft", "rich", "safetensors", "wandb"},
    "cli": {"typer", "yaml", "accelerate"},
    "recipes": {"yaml", "trl"},
    "grid": {"yaml", "numpy"},
    "grid/launchers": {"submitit"},
    "grid/status": {"rich"},
    "report": {"numpy"},
    "data": {"datasets"},
    "tasks": {"datasets"},
    "metrics/pretrained": {"huggingface_hub", "peft", "torch", "transformers"},
    "rewards": {"evaluate"},
    "metrics": {
        # peft: a classifier may be an adapter.
        "datasets", "evaluate", "nltk", "numpy", "peft", "pysbd", "rouge_score", "sacrebleu", "simplemma", "torch",
        "transformers",
    },
    "human_study": {"gradio", "markdown_it", "numpy", "scipy", "statsmodels"},
    "collection": {"torch", "transformers"},
    "reward_training": {
        "datasets", "numpy", "peft", "tokenizers", "torch", "transformers", "trl",
    },
    "experiment": {
        "accelerate", "datasets", "huggingface_hub", "peft", "rich", "safetensors", "torch", "transformers", "trl",
    },
    "_trl": {"trl", "peft"},
    "_vllm": {"torch", "vllm"},
}  # fmt: skip
"""Part -> packages, besides the standard library."""

OPTIMIZERS = {"trainer", "algorithm/update", "legacy"}
"""Parts that may import `torch.optim`."""

OF_TRL = {
    "trl.ModelConfig", "trl.RewardConfig", "trl.RewardTrainer", "trl.SFTConfig", "trl.SFTTrainer",
    "trl.apply_chat_template",
}  # fmt: skip
"""Public names of TRL. All others are touched by `_trl` alone."""

CONTACT = {"_trl", "_vllm", "launch/fsdp", "launch/zero", "trainer/huggingface"}
"""Files that may touch private names of other libraries. Their docstrings say of which versions."""


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def row(table: dict[str, set[str]], name: str) -> set[str] | None:
    parts = name.split("/")
    prefixes = ("/".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((table[prefix] for prefix in prefixes if prefix in table), None)


def is_in(name: str, parts: set[str]) -> bool:
    """Whether a module of ours (or something in it) lies in one of these parts."""
    return any(name == part or name.startswith(f"{part}/") for part in parts)


def imported(tree: ast.AST, name: str) -> Iterator[str]:
    """Dotted names of everything that a file imports, with what is taken from modules."""
    package = ["trl_nlpo", *name.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def wrong_imports(name: str, source: str) -> list[str]:
    """What a file imports and its row does not allow."""
    ours, packages, found = row(OURS, name) or set(), row(PACKAGES, name) or set(), []
    folder = name.split("/")[0]
    for dotted in imported(ast.parse(source), name):
        first, _, rest = dotted.partition(".")
        if first == "trl_nlpo":
            target = rest.replace(".", "/")
            # A part that has one row for all its files is one room.
            is_own = is_in(target, {folder}) and name not in OURS
            is_allowed = is_own or is_in(target, ours | GROUND)
        elif first == "trl":
            is_allowed = name == "_trl" or ("trl" in packages and dotted in OF_TRL)
        elif dotted.startswith("torch.optim"):
            is_allowed = is_in(name, OPTIMIZERS)
        else:
            is_allowed = first in packages or first in sys.stdlib_module_names
        if not is_allowed:
            found.append(dotted)
    return found


def foreign_private_names(name: str, source: str) -> list[str]:
    """Private names of other libraries that a file touches, by an attribute, an import, or through inheritance."""
    if name in CONTACT:
        return []
    tree, found = ast.parse(source), []
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr):
            continue
        is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        is_inherited = hasattr(Trainer, node.attr) and node.attr not in defined and name.startswith("trainer/")
        # The one way to end a process without the exit handlers of the libraries that it has loaded.
        if (not is_own or is_inherited) and ast.unparse(node) != "os._exit":
            found.append(ast.unparse(node))
    others = (
        dotted for dotted in imported(tree, name) if not dotted.startswith("trl_nlpo.") and dotted != "__future__"
    )
    found += [dotted for dotted in others if any(map(is_private, dotted.split(".")))]
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_what_its_row_allows(path):
    assert not wrong_imports(name_of(path), path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_private_names_of_other_libraries_are_touched_in_contact_files_only(path):
    assert not foreign_private_names(name_of(path), path.read_text(encoding="utf-8"))


def test_every_file_has_a_row_and_every_row_a_file():
    names = [name_of(path) for path in FILES]
    assert not [name for name in names if row(OURS, name) is None or row(PACKAGES, name) is None]
    assert not [part for part in {*OURS, *PACKAGES, *OPTIMIZERS} if not any(is_in(name, {part}) for name in names)]


def test_imports_run_down_only():
    parts = {part: others - {"__version__"} for part, others in OURS.items()}
    inner = {part for part in parts if part.startswith("algorithm/")}
    parts["algorithm"] = inner
    graphlib.TopologicalSorter(parts).prepare()


@pytest.mark.parametrize("name", sorted(CONTACT))
def test_a_contact_file_says_which_versions_it_was_written_against(name):
    docstring = ast.get_docstring(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8")))
    assert re.search(r"[Ww]ritten\s+against\s+\w+\s+\d+\.\d+", docstring)


PLANTED = {
    "a model imports a recipe": ("models/masking_policy", "from ..recipes.recipe import Recipe"),
    "mathematics imports accelerate": ("functional/losses", "import accelerate"),
    "mathematics imports datasets": ("functional/masking", "from datasets import Dataset"),
    "a metric imports the trainer": ("metrics/rouge", "from ..trainer.huggingface import HuggingFaceTrainer"),
    "a task imports an experiment": ("tasks/imdb", "from ..experiment.experiment import run_experiment"),
    "room 4 imports data": ("algorithm/update", "from ..data.splits import load_splits"),
    "room 3 imports transformers": ("algorithm/advantages", "import transformers"),
    "room 2 imports the masking policy": ("algorithm/scoring", "from ..models.masking_policy import MaskingPolicy"),
    "records import the trainer": ("records", "from .trainer.nlpo import NLPOTrainer"),
    "a model imports a room": ("models/adapters", "from ..algorithm.rollout import collect_rollout"),
    "room 1 imports an optimizer": ("algorithm/rollout", "from torch.optim import AdamW"),
    "rooms import one another": ("algorithm/update", "from .rollout import collect_rollout"),
    "a closet imports a room": ("algorithm/distribution", "from . import rollout"),
    "TRL outside of the contact file": ("experiment/supervised", "from trl.trainer.utils import pad"),
    "TRL in a room": ("algorithm/update", "from trl import SFTTrainer"),
    "an absolute import": ("storage/files", "import trl_nlpo.trainer.nlpo"),
}
PLANTED_PRIVATE = {
    "a private name of accelerate": ("trainer/nlpo", "import accelerate; accelerate.state._inspect"),
    "a private module": ("models/adapters", "from torch._tensor import Tensor"),
    "a private method of transformers.Trainer": ("trainer/nlpo", "self._load_from_checkpoint('x')"),
    "a private name of a file of ours": ("trainer/nlpo", "rollout._evaluate"),
}


@pytest.mark.parametrize("how", ["def late():\n    {}\n", "if TYPE_CHECKING:\n    {}\n"], ids=["late", "for types"])
@pytest.mark.parametrize("breach", list(PLANTED))
def test_a_planted_import_is_found_wherever_it_stands(breach, how):
    name, line = PLANTED[breach]
    source = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
    assert len(wrong_imports(name, f"{source}\n{how.format(line)}")) == 1


@pytest.mark.parametrize("breach", list(PLANTED_PRIVATE))
def test_a_planted_private_name_is_found(breach):
    name, line = PLANTED_PRIVATE[breach]
    source = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
    assert len(foreign_private_names(name, f"{source}\ndef late(self):\n    {line}\n")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("room", ["rollout", "scoring", "advantages", "update"])
def test_a_room_loads_no_trl(room):
    code = f"import sys, trl_nlpo.algorithm.{room}; sys.exit('trl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=PACKAGE.parent).returncode == 0


def test_the_training_loop_fits_on_a_page():
    tree = ast.parse((PACKAGE / "trainer" / "nlpo.py").read_text(encoding="utf-8"))
    train = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno - train.lineno < 40


def test_one_class_only_extends_transformers_trainer():
    bases = {
        node.name: [ast.unparse(base) for base in node.bases]
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert [
        name for name, of in bases.items() if {"Trainer", "TrainerBase", "_BaseTrainer", "PPOTrainer"} & {*of}
    ] == ["HuggingFaceTrainer"]


def test_no_file_is_named_for_nothing():
    assert not {path.stem for path in FILES} & {"utils", "helpers", "misc", "common"}
