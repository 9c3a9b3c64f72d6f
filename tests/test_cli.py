"""The command line: thin, quick to help, and a user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from rich.text import Text
from typer.testing import CliRunner

from support.commands import run_cli
from support.small_runs import SMALL, train_small
from trl_nlpo import __version__, cli
from trl_nlpo.errors import UserError
from trl_nlpo.tasks import task_names


ROOT = Path(__file__).parent.parent
runner = CliRunner()


def command(*words, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "trl_nlpo", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=120,
    )


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"dataset_name": "quickstart", "rewards": ["grammatical"], "seed": 1}))
    return path


@pytest.fixture
def ran(monkeypatch):
    """Recipes that `run` would have run."""
    from trl_nlpo.experiment import experiment

    recipes = []
    monkeypatch.setattr(experiment, "run_experiment", lambda recipe, force, overwrite: recipes.append(recipe))
    return recipes


def main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["trl-nlpo", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "no_such_recipe"], "recipe 'no_such_recipe' is not there"),
        pytest.param(
            ["run", "quickstart", "--learnin_rate", "1"],
            "unknown key 'learnin_rate', did you mean 'learning_rate'?",
            marks=pytest.mark.slow,
        ),
        (["run"], "no recipe"),
        (["rum"], "No such command 'rum'"),
        (["run", "quickstart", "--config"], "requires an argument"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(words, part):
    result = command(*words)
    assert result.returncode == 2
    assert part in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_bug_of_ours_is_one_line_with_its_traceback_in_a_file(monkeypatch, recipe, capsys, tmp_path):
    from trl_nlpo.experiment import experiment

    # The next line of ours reads an attribute of it.
    monkeypatch.setattr(experiment, "load_splits", lambda arguments, seed: None)
    (tmp_path / "out").mkdir()
    assert main(monkeypatch, "run", recipe, "--output_dir", tmp_path / "out") == 1
    said = capsys.readouterr().err
    file = tmp_path / "out" / "traceback.txt"
    assert said.startswith("trl-nlpo: A bug of trl-nlpo, or of a library under it (AttributeError: 'NoneType' ")
    assert said.endswith(f"The traceback is in {file}.\n")
    assert said.count("\n") == 1
    assert "experiment.py" in file.read_text()
    monkeypatch.setenv("TRL_NLPO_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["trl-nlpo", "run", str(recipe)])
    with pytest.raises(AttributeError, match="NoneType"):
        cli.main()


def test_a_users_mistake_during_the_run_is_one_line_too(monkeypatch, recipe, capsys):
    from trl_nlpo.experiment import experiment

    def mistake(recipe, force, overwrite):
        raise UserError("first\nsecond")

    monkeypatch.setattr(experiment, "run_experiment", mistake)
    assert main(monkeypatch, "run", recipe) == 2
    assert capsys.readouterr().err == "trl-nlpo: first second\n"


def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, recipe, capsys):
    from trl_nlpo.experiment import experiment

    def interrupt(recipe, force, overwrite):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run_experiment", interrupt)
    assert main(monkeypatch, "run", recipe) == 130
    assert capsys.readouterr().err == (
        "trl-nlpo: interrupted. Resume with --resume; finished stages are not repeated.\n"
    )


def test_sigterm_is_one_line_and_exit_code_143(monkeypatch, recipe, capsys):
    from trl_nlpo.errors import Terminated
    from trl_nlpo.experiment import experiment

    def terminate(recipe, force, overwrite):
        raise Terminated("stopped after update 3; resume from runs/own/checkpoint-3.")

    monkeypatch.setattr(experiment, "run_experiment", terminate)
    assert main(monkeypatch, "run", recipe) == 143
    assert capsys.readouterr().err == "trl-nlpo: stopped after update 3; resume from runs/own/checkpoint-3.\n"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--resume"], ["--resume_from_checkpoint", "true"]])
def test_resume_is_short_for_resuming_from_the_newest_checkpoint(monkeypatch, recipe, ran, words):
    assert main(monkeypatch, "run", recipe, *words) == 0
    assert main(monkeypatch, "run", recipe) == 0
    first, second = (recipe.training.resume_from_checkpoint for recipe in ran)
    assert str(first).lower() == "true"
    assert not second


def test_help_is_quick_because_it_imports_neither_torch_nor_transformers():
    probe = """
import sys
from trl_nlpo.cli import app
try:
    app(["--help"])
except SystemExit as end:
    print("ended with", end.code)
print({"torch", "transformers", "trl", "datasets"} & set(sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=True)
    assert " run " in said.stdout
    assert said.stdout.splitlines()[-2:] == ["ended with 0", "set()"]


def commands(group, before=()):
    """The words of every command."""
    for name, found in group.commands.items():
        yield (*before, name)
        if hasattr(found, "commands"):
            yield from commands(found, (*before, name))


@pytest.mark.parametrize("words", [(), *commands(typer.main.get_command(cli.app))], ids=" ".join)
def test_help_is_there_under_both_names_for_every_command(words):
    short, long = (runner.invoke(cli.app, [*words, option]) for option in ("-h", "--help"))
    assert (short.exit_code, long.exit_code) == (0, 0)
    assert short.output == long.output
    assert "Usage: " in short.output


def help_texts(group):
    """What is said of every command and option."""
    for found in group.commands.values():
        yield from (text for item in (found, *found.params) if (text := getattr(item, "help", None)))
        if hasattr(found, "commands"):
            yield from help_texts(found)


def test_what_stands_in_brackets_in_a_help_is_not_taken_for_markup_and_left_out():
    texts = [*help_texts(typer.main.get_command(cli.app))]
    assert any("nlpo\\[" in text for text in texts)
    for text in texts:
        assert Text.from_markup(text).plain == text.replace("\\[", "[")
    assert "nlpo[mask_sync_steps=null]" in runner.invoke(cli.app, ["grue", "--help"]).output.replace("\n", "")


@pytest.mark.parametrize(
    ("line", "number", "found"), [("trl-nlpo rew", 1, ["rewards"]), ("trl-nlpo study an", 2, ["analyse"])]
)
def test_a_shell_completes_commands(line, number, found):
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "_TRL_NLPO_COMPLETE": "complete_bash", "COMP_WORDS": line,
        "COMP_CWORD": str(number),
    }  # fmt: skip
    code = "import sys; sys.argv = ['trl-nlpo']; from trl_nlpo.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300, check=True
    )
    assert result.stdout.split() == found


def test_version_and_env_tell_what_is_installed():
    assert runner.invoke(cli.app, ["--version"]).stdout.strip() == __version__
    lines = runner.invoke(cli.app, ["env"]).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "python", "trl-nlpo", "trl", "torch", "transformers", "peft", "accelerate", "datasets", "device",
    ]  # fmt: skip


def test_recipes_are_listed_with_what_they_are():
    listed = runner.invoke(cli.app, ["recipes"]).stdout
    assert "quickstart" in listed
    assert "commongen" in listed
    assert all(len(line.split(None, 1)[1]) > 20 for line in listed.splitlines())


@pytest.mark.parametrize(
    "words",
    [
        ["run", "RECIPE", "--learning_rate", "0.5", "--seed=7"],
        ["run", "--config", "RECIPE", "--learning_rate", "0.5", "--seed=7"],
        ["run", "--learning_rate", "0.5", "--config", "RECIPE", "--seed", "7"],
        ["run", "--config=RECIPE", "--learning-rate", "0.5", "--seed", "7"],
    ],
)
def test_recipe_and_overrides_are_told_apart_wherever_they_stand(recipe, ran, words):
    result = runner.invoke(cli.app, [word.replace("RECIPE", str(recipe)) for word in words])
    assert result.exit_code == 0, result.output
    assert (ran[0].training.learning_rate, ran[0].training.seed) == (0.5, 7)


def test_two_recipes_are_one_too_many(recipe, ran):
    result = runner.invoke(cli.app, ["run", str(recipe), "--config", str(recipe)])
    assert isinstance(result.exception, UserError)
    assert "two recipes" in str(result.exception)


def test_a_dry_run_prints_the_resolved_recipe_and_runs_nothing(recipe, ran):
    result = runner.invoke(cli.app, ["run", str(recipe), "--dry-run", "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert not ran
    assert yaml.safe_load(result.stdout)["seed"] == 3


def test_a_dry_run_finds_a_reward_that_does_not_exist(recipe):
    result = runner.invoke(cli.app, ["run", str(recipe), "--dry-run", "--rewards", "rougel"])
    assert isinstance(result.exception, UserError)
    assert "did you mean 'rougeL'" in str(result.exception)


def test_a_dry_run_runs_no_code_that_the_recipe_names(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text("open('ran', 'w')\ndef reward(completions, **kwargs): ...\n")
    result = runner.invoke(cli.app, ["run", str(recipe), "--dry-run", "--rewards", "mine.reward"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py", "own.yaml"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--report_to", "dvclive"], "package is not installed"),
        (["--learning_rate", "-1"], "Invalid learning rate"),
        (["--push_to_hub", "true", "--hub_model_id", "a b/c"], "a repository on the Hub cannot be called so"),
        (["--gradient_accumulation_steps", "0"], "must be at least 1"),
        (["--resume_from_checkpoint", "nowhere"], "is not there"),
        (["--output_dir", "own.yaml"], "is a file"),
    ],
)
def test_a_dry_run_finds_what_would_fail_after_the_first_stage(recipe, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(cli.app, ["run", str(recipe), "--dry-run", *words])
    assert isinstance(result.exception, UserError)
    assert says in str(result.exception)


@pytest.mark.parametrize(
    "words",
    [
        ["grue", "--tasks", "commongen", "--out", "taken"],
        ["grue", "--tasks", "commongen", "--out", "taken/below"],
        ["train-classifier", "nowhere", "--out", "taken"],
        ["evaluate", "nowhere", "--task", "commongen", "--out", "taken/scores.json"],
        ["evaluate", "nowhere", "--task", "commongen", "--out", "folder"],
    ],
)
def test_an_output_that_cannot_be_written_is_known_before_anything_is_done(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    (tmp_path / "folder").mkdir()
    result = runner.invoke(cli.app, words)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--out")
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "folder"}


@pytest.mark.parametrize(("codes", "seen"), [([0], ["left with 0"]), ([2], ["met", "left with 2"]), ([], [])])
def test_one_of_several_processes_leaves_with_its_code_and_waits_for_the_others_only_to_fail(codes, seen, monkeypatch):
    found = []
    monkeypatch.setattr("trl_nlpo.launch.exits.meet", lambda place: found.append("met"))
    monkeypatch.setattr(os, "_exit", lambda code: found.append(f"left with {code}"))
    cli._exit_with_the_others(codes)
    assert found == seen


def test_a_grid_is_refused_under_a_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = runner.invoke(cli.app, ["grue", "--tasks", "commongen"])
    assert isinstance(result.exception, UserError)
    assert "start it without torchrun" in str(result.exception)


@pytest.mark.slow
def test_the_commands_evaluate_tasks_and_grue(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, _ = train_small()
    capsys.readouterr()
    code, out, _ = run_cli(monkeypatch, capsys, "evaluate", model, "--task", "commongen", "--out", "e.json", *SMALL)
    assert code == 0
    assert "metrics/rouge1" in out
    assert json.loads((tmp_path / "e.json").read_text())["metrics"]["reward"] >= 0
    code, out, _ = run_cli(monkeypatch, capsys, "tasks")
    assert [line.split()[0] for line in out.splitlines()] == task_names()
    arguments = ["--tasks", "commongen,commongen", "--algorithms", "supervised,supervised+nlpo,supervised+nlpo"]
    code, out, _ = run_cli(monkeypatch, capsys, "grue", *arguments, "--seeds", "1", "--out", "g", *SMALL)
    assert code == 0
    assert "[2/2] commongen, supervised+nlpo, seed 0 ..." in out
    assert "| supervised+nlpo |" in out
    assert (tmp_path / "g" / "leaderboard.json").is_file()


def test_a_task_that_is_not_there_is_one_line(monkeypatch, capsys):
    code, _, error = run_cli(monkeypatch, capsys, "grue", "--tasks", "comongen")
    assert code == 2
    assert error.count("\n") == 1
    assert "did you mean 'commongen'" in error
