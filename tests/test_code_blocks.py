"""Blocks of code in README and docs do what they say: Python is run, command lines are read by the command itself."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from support import tiny
from trl_nlpo import cli
from trl_nlpo.recipes.recipe import load_recipe


ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FRAGMENTS = ("with trainer.gathered_weights()", "trainer.train(resume_from_checkpoint=True)")
"""How blocks begin that are a piece of a script."""


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path):
    """The words after `trl-nlpo` of every command line, also of those that a launcher starts."""
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for start in ("trl-nlpo", "trl_nlpo"):
                if start in words:
                    yield words[words.index(start) + 1 :]


# What these start needs DeepSpeed, or several processes: tests/launch runs them.
ELSEWHERE = ("--deepspeed", "--ddp_backend")
COMMANDS = {
    " ".join(words): words for path in DOCUMENTS for words in commands(path) if not set(ELSEWHERE) & set(words)
}


def test_blocks_and_commands_are_found():
    assert len(COMMANDS) > 20
    assert {words[0] for words in COMMANDS.values()} == set(typer.main.get_command(cli.app).commands)


@pytest.mark.slow
@pytest.mark.parametrize(
    # tests/test_tutorial.py takes the tutorial's steps in their order.
    "path", [path for path in DOCUMENTS if blocks(path, "python") and path.name != "tutorial.md"],
    ids=lambda path: path.name,
)  # fmt: skip
def test_the_python_of_a_document_runs_from_its_first_line_to_its_last(path, tmp_path):
    tokenizer = tiny.tokenizer()
    tiny.policy("gpt2").save_pretrained(tmp_path / "my-model")
    tokenizer.save_pretrained(tmp_path / "my-model")
    found = [block for block in blocks(path, "python") if not block.startswith(FRAGMENTS)]
    (tmp_path / "blocks.py").write_text("\n".join(found), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "blocks.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("start", FRAGMENTS)
def test_a_piece_of_a_script_is_python(start):
    (block,) = [b for path in DOCUMENTS for b in blocks(path, "python") if b.startswith(start)]
    compile(block, start, "exec")


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_line_has_options_and_keys_that_there_are(words, tmp_path, monkeypatch):
    name, *rest = words
    command = typer.main.get_command(cli.app).commands[name]
    while hasattr(command, "commands"):
        # `grue --tasks ...` is `grue run --tasks ...`.
        own = rest.pop(0) if rest and rest[0] in command.commands else command.list_commands(None)[0]
        command = command.commands[own]
    if name != "run":
        # Reads the words, and refuses unknown ones; `recipes`, `tasks` and `env` take none.
        command.make_context(name, list(rest))
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    shutil.copy(ROOT / "recipes" / "commongen.yaml", tmp_path / "recipes")
    for file in ("my.yaml", "my_recipe.yaml", "sums.yaml"):
        shutil.copy(ROOT / "recipes" / "quickstart.yaml", tmp_path / file)
    for folder in ("FOLDER", "runs/my/checkpoint-40"):
        (tmp_path / folder).mkdir(parents=True)
    read = command.make_context(name, [*rest, "--dry-run"]).params
    recipe, overrides = cli._recipe_and_overrides(read["arguments"], read["config"])
    assert load_recipe(recipe, overrides).resolved
