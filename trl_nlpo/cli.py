"""The command line: parse, load, call."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from shutil import get_terminal_size
from textwrap import fill
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperCommand, TyperGroup

from . import __version__
from .display import printable
from .errors import UserError
from .launch.environment import is_first_process, is_set
from .secrets import note_words, redacted_output, redacted_words


_INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended, by the shell's convention."""

app = typer.Typer(
    name="trl-nlpo",
    help="Reinforcement learning of text generators with a critic: PPO and NLPO for TRL.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point. Whatever ends it is one line on stderr.

    Exit codes: 2 for what the user or the machine has to mend, 1 for a bug of ours, 3 for a finished run that the Hub
    did not take, Ctrl-C 130, SIGTERM 143.
    """
    note_words(sys.argv[1:])
    with redacted_output():
        _main()


def _main() -> None:
    # TRL's trainers send usage statistics; our runs do not, unless the variable is set to 0.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # For the whole process, which is ours here: users of recipes need not know what transformers will rename, or which
    # kernel bitsandbytes misses.
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not is_first_process():
        # The first process prints warnings for all.
        warnings.simplefilter("ignore")
    leaving: list[int] = []
    atexit.register(_exit_with_the_others, leaving)
    try:
        # Commands return None; a number is the exit code of a `typer.Exit`.
        code = app(standalone_mode=False) or 0
        if code == _INTERRUPTED:
            _print_error("interrupted.", code)
    except UserError as error:
        code = _print_error(str(error), getattr(error, "exit_code", 2))
    except (KeyboardInterrupt, typer.Abort):
        code = _print_error("interrupted.", _INTERRUPTED)
    except Exception as error:
        code = _say_what_failed(error)
    if _are_several():
        # Registered before what the libraries register, so called after it.
        leaving.append(code)
    sys.exit(code)


def _say_what_failed(error: Exception) -> int:
    """The last line about an error that is no [`UserError`]; its traceback goes into a file."""
    # Typer's own errors (no such command, an option without a value) have a message for users.
    if hasattr(error, "format_message"):
        return _print_error(error.format_message(), 2)
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has enough: `trl-nlpo recipes | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    from .unexpected import explain, write_traceback

    if is_set("TRL_NLPO_TRACEBACK"):
        raise error
    line, code = explain(error)
    return _print_error(f"{line} The traceback is in {write_traceback(error, _traced.get('folder'))}.", code)


_traced: dict[str, str] = {}
"""The folder of the run that this process is about, once it is known."""


def _trace_into(folder: str) -> None:
    _traced["folder"] = folder


def _are_several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _exit_with_the_others(codes: list[int]) -> None:
    """End one of several processes; one that fails at the same moment as the others.

    A launcher that sees one fail ends the others with a signal. Without taking Python's interpreter down: a thread of
    PyTorch's process group that is still there then aborts the process (SIGABRT), seen once in many runs, and the
    launcher reports a finished run as failed.
    """
    if codes:
        from .launch.exits import meet

        if codes[0]:
            meet("leaving")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


def _print_error(message: str, code: int) -> int:
    """Print a line on stderr; of several processes, on one of them."""
    line = f"trl-nlpo: {printable(' '.join(message.split()))}"
    if _are_several():
        from .launch.exits import say_once

        say_once(lambda: print(line, file=sys.stderr, flush=True))
    else:
        print(line, file=sys.stderr)
    return code


@app.command(
    context_settings={"ignore_unknown_options": True},
    help="Run a recipe: a YAML file, or the name of one that ships. Any key of a recipe can be given as --KEY VALUE "
    "and overrides the file: trl-nlpo run quickstart --learning_rate 1e-4 --output_dir runs/faster",
)
def run(
    context: typer.Context,
    arguments: Annotated[Optional[list[str]], typer.Argument(metavar="RECIPE [--KEY VALUE]...")] = None,  # noqa: UP045
    config: Annotated[Optional[str], typer.Option(help="The recipe, as in TRL's commands.")] = None,  # noqa: UP045
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and print it resolved.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Resume a run with another recipe than its own.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in output_dir.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in output_dir: its results, checkpoints and models.")
    ] = False,
    help_all: Annotated[bool, typer.Option("--help-all", help="This help, with all keys of a recipe.")] = False,
) -> None:
    if help_all:
        typer.echo(context.get_help())
        _print_keys([])
        return
    from .recipes.recipe import load_recipe

    name, overrides = _recipe_and_overrides(arguments or [], config)
    recipe = load_recipe(name, [*overrides, "--resume_from_checkpoint", "true"] if resume else overrides)
    if dry_run:
        _check_and_print(recipe, overwrite)
        return
    from .experiment.experiment import run_experiment
    from .launch.signals import ending_with_a_line

    _trace_into(str(recipe.training.output_dir))
    with ending_with_a_line("Resume with --resume; finished stages are not repeated."):
        run_experiment(recipe, force, overwrite)
    if _are_several():
        from accelerate import PartialState

        PartialState().destroy_process_group()


def _check_and_print(recipe: Any, overwrite: bool) -> None:
    import yaml

    from .experiment.before_start import check_before_start

    check_before_start(recipe, overwrite)
    if is_first_process():
        typer.echo(yaml.safe_dump(recipe.resolved, sort_keys=False, allow_unicode=True).rstrip())


@app.command(help="Versions and device, for bug reports.")
def env() -> None:
    from .launch.environment import device, versions

    for package, version in {**versions(), "device": device()}.items():
        typer.echo(f"{package}: {version or 'not installed'}")


@app.command(
    context_settings={"ignore_unknown_options": True},
    help="Score a model, an adapter, a .jsonl file of predictions or a run's samples.jsonl on a task's test split "
    "with all its metrics: trl-nlpo evaluate runs/commongen --task commongen --dataset_name FOLDER",
)
def evaluate(
    arguments: Annotated[list[str], typer.Argument(metavar="MODEL_OR_PREDICTIONS [--KEY VALUE]...")],
    task: Annotated[str, typer.Option(help="A task's recipe: its name or file.")],
    out: Annotated[Optional[str], typer.Option(help="Also write scores and samples to this JSON file.")] = None,  # noqa: UP045
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a run's samples.jsonl: whose completions. Default: the last stage's."),
    ] = None,
) -> None:
    from pathlib import Path

    from .experiment.systems import evaluate_on_task

    scores = evaluate_on_task(arguments[0], task, arguments[1:], Path(out) if out else None, stage)
    width = max(map(len, scores.metrics), default=0)
    for name, value in scores.metrics.items():
        typer.echo(f"{name:<{width}}  {value:.4f}")
    for name, reason in scores.unavailable.items():
        typer.echo(printable(f"without {name}: {reason}"))
    if out:
        typer.echo(f"Scores and samples are in {out}.")


class _WithDefault(TyperGroup):
    """A group whose first command is meant where none is named: `grue --tasks ...` is `grue run --tasks ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = self.list_commands(ctx)[0]
        return super().parse_args(ctx, args if args and args[0] in self.commands else [first, *args])


class _WithLauncherOptions(TyperCommand):
    """A command whose `--launcher_options` takes several words: as many as follow it and are written KEY=VALUE."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        is_among_them = False
        for word in args:
            is_value = is_among_them and "=" in word and not word.startswith("-")
            if is_value and spread[-1] != _LAUNCHER_OPTIONS:
                spread.append(_LAUNCHER_OPTIONS)
            spread.append(word)
            is_among_them = is_value or word == _LAUNCHER_OPTIONS
        return super().parse_args(ctx, spread)


_LAUNCHER_OPTIONS = "--launcher_options"
_SEEDS = "Runs of every cell: how many (3 is seeds 0, 1, 2), a range (2:5 is 2, 3, 4), or a list (0,3,7)."

Launcher = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        help="Run each cell as a job of its own: local (several at a time on this machine), slurm, or ray. The same "
        "command follows jobs that still run. Default: cell by cell in this process."
    ),
]
MaxParallel = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--max_parallel",
        min=1,
        help="Most jobs at a time. Default: local as many as there are GPUs, or 1; slurm and ray all at once.",
    ),
]
LauncherOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        _LAUNCHER_OPTIONS,
        metavar="KEY=VALUE...",
        help="What a job takes. local: gpus. slurm: gpus, cpus, memory_gb, minutes, timeouts, signal_seconds, "
        "partition, account, qos, constraint, exclude, setup, sbatch. ray: address, gpus, cpus, memory_gb, resources.",
    ),
]
Retries = Annotated[int, typer.Option(min=0, help="How often a cell whose job failed is submitted again.")]

grue = typer.Typer(
    cls=_WithDefault,
    help="A grid of tasks, algorithms and seeds, and its leaderboard.",
    pretty_exceptions_enable=False,
)
app.add_typer(grue, name="grue")


@grue.command(
    "run",
    cls=_WithLauncherOptions,
    context_settings={"ignore_unknown_options": True},
    help="Run a grid of tasks, algorithms and seeds and write a leaderboard. The same command resumes a grid that "
    "was stopped, inside a cell too, and several at once share the cells; with --rescore it only scores the samples "
    "of finished cells again. Any key of a recipe may follow: trl-nlpo grue --tasks commongen,imdb --seeds 3 --preset "
    "tiny. How far it is: trl-nlpo grue status FOLDER; its table at any time: trl-nlpo grue leaderboard FOLDER.",
)
def grue_run(
    arguments: Annotated[Optional[list[str]], typer.Argument(metavar="[--KEY VALUE]...")] = None,  # noqa: UP045
    tasks: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Recipes of tasks, by name or file, separated by commas. Default: GRUE's seven."),
    ] = None,
    algorithms: Annotated[
        str,
        typer.Option(help="Separated by commas. One may have keys of its own: nlpo\\[mask_sync_steps=null]."),
    ] = "zero_shot,supervised,ppo,nlpo,supervised+ppo,supervised+nlpo",
    seeds: Annotated[str, typer.Option(help=_SEEDS)] = "3",
    out: Annotated[str, typer.Option(help="Folder of the cells and the leaderboard.")] = "runs/grue",
    rescore: Annotated[
        bool,
        typer.Option(
            "--rescore",
            help="Run nothing: score the samples of finished cells by the metrics that the recipes (or --metrics) "
            "have now, and write the leaderboard again.",
        ),
    ] = False,
    launcher: Launcher = None,
    max_parallel: MaxParallel = None,
    launcher_options: LauncherOptions = None,
    retries: Retries = 0,
) -> None:
    import shlex
    from pathlib import Path

    if _are_several():
        raise UserError(
            "grue runs its cells in one process each: start it without torchrun or accelerate launch. Several grue "
            "commands with the same --out share the cells out among them."
        )
    _trace_into(out)

    from .grid.cells import Grid, known_recipes, known_variants, parse_seeds, split_names
    from .grid.leaderboard import write_leaderboard
    from .grid.rescore import rescore_grid
    from .launch.signals import ending_with_a_line
    from .tasks import task_names

    recipes = known_recipes(split_names(tasks) if tasks else task_names())
    variants = known_variants(split_names(algorithms))
    grid = Grid(recipes, variants, parse_seeds(seeds), Path(out), tuple(arguments or ()))
    if rescore and launcher:
        raise UserError("--rescore runs nothing that a --launcher could: give one of them.")
    with ending_with_a_line("The same command resumes the grid."):
        if rescore:
            failed = rescore_grid(grid, typer.echo)
        else:
            failed = _run_cells(grid, launcher, max_parallel, launcher_options, retries)
    path = write_leaderboard(grid, f"trl-nlpo {shlex.join(redacted_words(sys.argv[1:]))}")
    _show_leaderboard(grid, path)
    if failed and rescore:
        raise UserError(f"{len(failed)} cells could not be scored again (see above); their numbers stay as they were.")
    if failed:
        raise UserError(f"{len(failed)} cells failed (see above): the same command tries them again.")


def _run_cells(
    grid: Any, launcher: str | None, max_parallel: int | None, options: list[str] | None, retries: int
) -> list[Any]:
    """Run a grid cell by cell, or by a launcher's jobs; returns the cells that failed."""
    if launcher is None:
        from .experiment.experiment import run_experiment
        from .grid.grid import run_grid

        if max_parallel or options or retries:
            raise UserError(
                "--max_parallel, --launcher_options and --retries are about jobs: give a --launcher (local, slurm or "
                "ray)."
            )
        return run_grid(grid, run_experiment, typer.echo)
    from .grid.launchers.launching import launch_grid, launcher_of

    return launch_grid(
        grid, lambda: launcher_of(launcher, options or (), grid.folder), typer.echo, max_parallel, retries
    )


def _show_leaderboard(grid: Any, path: Any) -> None:
    typer.echo(path.read_text(encoding="utf-8"))
    typer.echo(f"The leaderboard is {path}; beside it, the same as .json, .csv and .tex, and learning_curves.csv.")
    _report_on(grid)


@grue.command(
    help="How far a grid is, of grue or ablate: of each cell whether it is done, running (where, how far), failed, "
    "submitted, stopped or waiting. On a terminal the table follows the grid until nothing runs (Ctrl-C leaves it)."
)
def status(folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The --out of the grid.")]) -> None:
    from .grid.status import show_status

    show_status(folder, typer.echo)


@grue.command(
    help="Write and print the leaderboard of a grid, of grue or ablate, from the cells that are done by now."
)
def leaderboard(folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The --out of the grid.")]) -> None:
    import shlex

    from .grid.asked import whole_grid
    from .grid.leaderboard import write_leaderboard

    grid = whole_grid(folder)
    cells = grid.cells()
    done = sum(cell.status == "done" for cell in cells)
    if not done:
        raise UserError(f"no cell of the grid in {folder} has finished: there is no table yet.")
    path = write_leaderboard(grid, f"trl-nlpo {shlex.join(redacted_words(sys.argv[1:]))}")
    _show_leaderboard(grid, path)
    typer.echo(f"{done} cells are done.")


@grue.command(hidden=True, help="Run the one cell that standard input asks for: what the jobs of a launcher do.")
def cell() -> None:
    from .experiment.experiment import run_experiment
    from .grid.launchers.cell_process import read_request, run_request
    from .launch.signals import ending_with_a_line

    request = read_request()
    _trace_into(request["folder"])
    with ending_with_a_line("The job goes on when it is started again."):
        run_request(request, run_experiment, typer.echo)


@app.command(
    cls=_WithLauncherOptions,
    context_settings={"ignore_unknown_options": True},
    help="Run one recipe with every combination of some keys' values and several seeds, and report what each key "
    "does: trl-nlpo ablate commongen --over gamma=0.5,0.95,1.0 --over mask_top_p=0.5,0.9 --seeds 5. The same command "
    "resumes; supervised models are shared by the cells of a seed, unless a key changes them. Any key of the recipe "
    "may follow.",
)
def ablate(
    arguments: Annotated[list[str], typer.Argument(metavar="RECIPE [--KEY VALUE]...")],
    over: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="KEY=VALUE,VALUE...", help="An axis; may be given several times."),
    ] = None,
    study: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Axes of the paper's questions: gamma, dropout, top_p, mu, kl, budget, sampling."),
    ] = None,
    seeds: Annotated[str, typer.Option(help=_SEEDS)] = "3",
    out: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Folder of the cells and the report. Default: runs/ablate-RECIPE."),
    ] = None,
    launcher: Launcher = None,
    max_parallel: MaxParallel = None,
    launcher_options: LauncherOptions = None,
    retries: Retries = 0,
) -> None:
    import shlex
    from pathlib import Path

    if _are_several():
        raise UserError(
            "ablate runs its cells in one process each: start it without torchrun or accelerate launch. Several "
            "ablate commands with the same --out share the cells out among them."
        )
    from .grid.ablation import write_ablation
    from .grid.axes import axes_of, grid_of
    from .grid.axes import study as axes_of_study
    from .grid.cells import known_recipes, parse_seeds
    from .grid.leaderboard import write_leaderboard
    from .launch.signals import ending_with_a_line

    name, overrides = _recipe_and_overrides(arguments, None)
    (recipe,) = known_recipes([name])
    axes = axes_of(recipe, [*(axes_of_study(study) if study else ()), *(over or ())], overrides)
    if not axes:
        raise UserError("nothing to vary: give --over KEY=VALUE,VALUE, or a --study.")
    folder = out or f"runs/ablate-{Path(recipe).stem}"
    _trace_into(folder)
    grid = grid_of(recipe, axes, parse_seeds(seeds), Path(folder), overrides)
    names = " x ".join(axis.key for axis in axes)
    typer.echo(
        f"{names}: {len(grid.variants)} combinations, {len(grid.seeds)} seeds, {len(grid.cells())} cells in all."
    )
    if any(variant.starts_supervised and variant.has_own_start for variant in grid.variants):
        typer.echo("Each cell trains a supervised model of its own: a key that varies changes it.")
    with ending_with_a_line("The same command resumes the ablation."):
        failed = _run_cells(grid, launcher, max_parallel, launcher_options, retries)
    command = f"trl-nlpo {shlex.join(redacted_words(sys.argv[1:]))}"
    write_leaderboard(grid, command)
    path = write_ablation(grid, axes, command)
    typer.echo(path.read_text(encoding="utf-8"))
    typer.echo(f"The report is {path}; beside it, the same as .json and .csv, curves as .png, and the leaderboard.")
    _report_on(grid)
    if failed:
        raise UserError(f"{len(failed)} cells failed (see above): the same command tries them again.")


def _report_on(grid: Any) -> None:
    """The page about a grid, where plotly is installed: the tables are there without it."""
    from importlib.util import find_spec

    from .report.page import write_report

    if find_spec("plotly") is None:
        typer.echo(f'A page about it: `pip install "trl-nlpo[report]"`, then `trl-nlpo report {grid.folder}`.')
    elif any(cell.status == "done" for cell in grid.cells()):
        typer.echo(f"A page about it, for a browser: {write_report([grid.folder], grid.folder / 'report.html')}.")


@app.command(
    help="Write a page about a run, several runs side by side, or a grid of grue or ablate: curves, results, samples, "
    "recipes, in one HTML file that needs no network: trl-nlpo report runs/quickstart runs/quickstart-ppo",
)
def report(
    folders: Annotated[list[str], typer.Argument(metavar="RUN...|GRID")],
    out: Annotated[str, typer.Option(help="The HTML file.")] = "report.html",
    prompts: Annotated[int, typer.Option(min=1, help="Of each task, those whose completions are shown.")] = 1_000,
) -> None:
    from .report.page import write_report

    typer.echo(f"The report is {write_report(folders, out, prompts)}: open it in a browser.")


@app.command(
    "train-classifier",
    context_settings={"ignore_unknown_options": True},
    help="Train a classifier on labelled rows, to be a reward: trl-nlpo train-classifier FOLDER --prefix imdb --out "
    "runs/sentiment, and in a recipe {name: classifier, model: runs/sentiment, label: 1}. Keys: prefix, text, label, "
    "model, epochs, learning_rate, batch_size, max_length, vocab_size, seed.",
)
def train_classifier(
    arguments: Annotated[list[str], typer.Argument(metavar="DATA [--KEY VALUE]...")],
    out: Annotated[str, typer.Option(help="Folder for model and tokenizer.")],
) -> None:
    from .recipes.overrides import arguments_from
    from .reward_training.classifier import ClassifierArguments

    _train_on_labels(arguments_from(ClassifierArguments, {"data": arguments[0], "out": out}, arguments[1:]))


def _train_on_labels(keys: Any) -> None:
    from .reward_training.classifier import train_classifier as train

    for split, accuracy in train(keys).items():
        typer.echo(f"accuracy on the {split} split: {accuracy:.3f}")
    typer.echo(f"Use it as a reward: {{name: classifier, model: {keys.out}, label: ...}}")


@app.command(
    context_settings={"ignore_unknown_options": True},
    help="Train a policy on a reward model that learns, while it trains, from choices between the policy's own "
    "completions: trl-nlpo collect quickstart --num_labels 2000 --reward_learning_rate 1e-3. Keys of the collection "
    "(`trl-nlpo keys --of collect`) and of the recipe (`trl-nlpo keys`) may follow. The recipe's rewards are the "
    "judge and what is reported, not what is trained on.",
)
def collect(
    arguments: Annotated[Optional[list[str]], typer.Argument(metavar="RECIPE [--KEY VALUE]...")] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option("--force", help="Resume a run with another recipe than its own.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in output_dir.")] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the run in output_dir; its labels are kept under another name."),
    ] = False,
) -> None:
    from .collection.arguments import CollectionArguments
    from .launch.signals import ending_with_a_line
    from .recipes.overrides import arguments_from, words_of
    from .recipes.recipe import load_recipe

    name, overrides = _recipe_and_overrides(arguments or [], None)
    own, rest = words_of(CollectionArguments, overrides)
    settings = arguments_from(CollectionArguments, {}, own)
    recipe = load_recipe(name, [*rest, "--resume_from_checkpoint", "true"] if resume else rest)
    from .collection.online import run_collection

    _trace_into(str(recipe.training.output_dir))
    with ending_with_a_line("Resume with --resume; what was answered is kept."):
        folder = run_collection(recipe, settings, typer.echo, force, overwrite)
    typer.echo(f"Choices are in {folder}/labels.sqlite, reward models in {folder}/reward_models.")


@app.command(
    "train-reward",
    context_settings={"ignore_unknown_options": True},
    help="Train a reward model on preferences: pairs (columns chosen, rejected), choices (prompt, completions, "
    "choice), rankings or ratings: trl-nlpo train-reward FOLDER --model runs/commongen --out runs/judge, and in a "
    "recipe {name: runs/judge}. DATA is a file, a folder, or a recipe (YAML) of the keys that `trl-nlpo keys --of "
    "train-reward` explains. With kind labels (columns text and label) it is train-classifier.",
)
def train_reward(
    arguments: Annotated[list[str], typer.Argument(metavar="DATA|RECIPE [--KEY VALUE]...")],
    out: Annotated[str, typer.Option(help="Folder for model and tokenizer.")],
) -> None:
    from .reward_training.classifier import ClassifierArguments
    from .reward_training.recipe import arguments_of, reward_name

    keys = arguments_of(arguments[0], arguments[1:], out)
    if isinstance(keys, ClassifierArguments):
        _train_on_labels(keys)
        return
    from .reward_training.reliability import advice
    from .reward_training.reward_model import train_reward_model

    _trace_into(out)
    for split, result in train_reward_model(keys).items():
        low, high = result.accuracy_interval
        typer.echo(
            f"{split}: the choice is its favourite in {result.accuracy:.3f} ({low:.3f} to {high:.3f}) of "
            f"{result.num_choices}, by chance {result.chance:.3f}; log loss {result.log_loss:.3f}, by chance "
            f"{result.log_loss_of_chance:.3f}; calibration error {result.calibration_error:.3f}"
        )
        if line := advice(result.accuracy_interval, result.chance):
            typer.echo(line)
    typer.echo(f"Numbers are in {out}/reward_model.json. Use it as a reward: {{name: {reward_name(out)}}}")


@app.command(
    help="Push a finished run to the Hub: its model or adapter, model card, recipe and results: trl-nlpo push "
    "runs/commongen --hub_model_id owner/name. Errors of the Hub's own are waited out; where that does not help, the "
    "last line says what to run to finish.",
)
def push(
    folder: Annotated[str, typer.Argument(metavar="RUN")],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--hub_model_id", help="The repository, owner/name. Default: the recipe's."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
) -> None:
    from pathlib import Path

    from .experiment.push import push_run

    url = push_run(Path(folder), name, private, lambda line: typer.echo(line, err=True))
    typer.echo(f"The run is at {url}")


@app.command(
    help="Serve a page where one types a prompt and sees completions of a run's models before and after reinforcement "
    "side by side, with their rewards: trl-nlpo demo runs/quickstart.",
)
def demo(
    folder: Annotated[str, typer.Argument(metavar="RUN")],
    host: Annotated[str, typer.Option(help="Address; any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    token: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(envvar="TRL_NLPO_DEMO_TOKEN", help="What people must know to get in."),
    ] = None,
) -> None:
    from pathlib import Path

    from .demo.page import serve as serve_demo

    page = serve_demo(Path(folder), host, port, token, waits=False)
    typer.echo(f"The models answer at {page.local_url} (Ctrl-C ends it).")
    page.block_thread()


study = typer.Typer(help="What people say of a run's completions.", pretty_exceptions_enable=False)
app.add_typer(study, name="study")


@study.callback(invoke_without_command=True)
def _no_study_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@study.command(
    "create",
    context_settings={"ignore_unknown_options": True},
    help="Make a study of a run's completions, or of a file of items: trl-nlpo study create runs/commongen --out "
    "study --kind pairwise --items 50. `trl-nlpo keys --of study` explains its keys.",
)
def create_study(
    arguments: Annotated[list[str], typer.Argument(metavar="RUN|FILE [--KEY VALUE]...")],
    out: Annotated[str, typer.Option(help="Folder of the study.")],
    systems: Annotated[str | None, typer.Option(help="Stages of the run, separated by commas. Default: all.")] = None,
    items: Annotated[Optional[int], typer.Option(min=1, help="Prompts to take. Default: all.")] = None,  # noqa: UP045
    gold: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A file of items whose answer is known (gold), for everybody."),
    ] = None,
) -> None:
    from pathlib import Path

    from .human_study.sources import gold_items, items_of
    from .human_study.study import StudySettings, create
    from .recipes.overrides import arguments_from

    settings = arguments_from(StudySettings, {}, arguments[1:])
    names = None if systems is None else [name.strip() for name in systems.split(",")]
    shown = items_of(Path(arguments[0]), settings.kind, names, items, settings.seed)
    known = [] if gold is None else gold_items(Path(gold), settings.kind)
    create(out, settings, [*shown, *known])
    typer.echo(f"{len(shown)} items to judge and {len(known)} to check people with are in {out}.")
    typer.echo(f"Show them: trl-nlpo study serve {out}")


@study.command(help="Serve the page where people judge a study: trl-nlpo study serve study.")
def serve(
    folder: Annotated[str, typer.Argument(metavar="FOLDER")],
    host: Annotated[str, typer.Option(help="Address; any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[Optional[int], typer.Option(help="Default: the first that is free, from 7860.")] = None,  # noqa: UP045
    token: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(envvar="TRL_NLPO_STUDY_TOKEN", help="What people must know to get in."),
    ] = None,
) -> None:
    from .human_study.page import serve as serve_page
    from .human_study.study import Study

    page = serve_page(Study(folder), host, port, token, waits=False)
    typer.echo(f"People can judge at {page.local_url} (Ctrl-C ends it; every answer is kept).")
    page.block_thread()


@study.command(
    help="Write a study's answers: as judgements, which study analyse reads; as preferences, which train-reward "
    "reads; or as argilla, a record per item.",
)
def export(
    folder: Annotated[str, typer.Argument(metavar="FOLDER")],
    out: Annotated[str, typer.Option(help="A .jsonl file.")],
    shape: Annotated[str, typer.Option("--as", help="judgements, preferences or argilla.")] = "judgements",
) -> None:
    from pathlib import Path

    from .human_study.argilla import records_of
    from .human_study.study import Study, preferences_of
    from .storage.json_lines import write_json_lines

    made = {
        "judgements": Study.judgements,
        "preferences": preferences_of,
        "argilla": lambda study: records_of(study.items(), study.judgements()),
    }
    if shape not in made:
        raise UserError(f"--as is {shape!r}, but must be one of {', '.join(made)}.")
    rows = made[shape](Study(folder))
    if not rows:
        raise UserError(f"{folder} has nothing to write as {shape} yet.")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(Path(out), rows)
    uses = {"judgements": f"trl-nlpo study analyse {out}", "preferences": f"trl-nlpo train-reward {out} --out judge"}
    typer.echo(f"{len(rows)} rows are in {out}." + (f" Next: {uses[shape]}" if shape in uses else ""))


@study.command(
    help="Agreement, means with Tukey's test, strengths by Bradley and Terry, annotators, and how ratings go together "
    "with automatic metrics: trl-nlpo study analyse judgements.jsonl --run runs/commongen. Rows are ratings (item, "
    "annotator, system, rating) or choices (item, annotator, systems, choice).",
)
def analyse(
    judgements: Annotated[str, typer.Argument(metavar="FILE")],
    out: Annotated[Optional[str], typer.Option(help="Folder of the report. Default: the file's.")] = None,  # noqa: UP045
    run: Annotated[Optional[str], typer.Option(help="The run whose samples were judged.")] = None,  # noqa: UP045
) -> None:
    from pathlib import Path

    from .human_study.analysis import analyse as analyse_judgements

    folder = Path(judgements).parent if out is None else Path(out)
    analyse_judgements(Path(judgements), folder, None if run is None else Path(run))
    typer.echo((folder / "analysis.md").read_text(encoding="utf-8"))
    typer.echo(f"The report is {folder / 'analysis.html'}; all numbers are in {folder / 'analysis.json'}.")


@app.command(
    help="Keys of a recipe: meaning, values, default, and what switches each off. NAMEs are parts of keys' names: "
    "trl-nlpo keys kl",
)
def keys(
    names: Annotated[Optional[list[str]], typer.Argument(metavar="[NAME]...")] = None,  # noqa: UP045
    command: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--of", help="Keys of another command: collect, train-reward, train-classifier or study."),
    ] = None,
) -> None:
    _print_keys(names or [], command)


def _print_keys(names: list[str], command: str | None = None) -> None:
    from .recipes.key_list import key_lines, keys_named, keys_of_command, meant_keys

    if command is None:
        found = keys_named(names)
    else:
        listed = keys_of_command(command, _class_of_keys(command))
        found = meant_keys(listed, names, f"trl-nlpo keys --of {command}")
    for line, is_heading in key_lines(found, _width()):
        typer.secho(line, bold=is_heading)


def _class_of_keys(command: str) -> type:
    """The dataclass of a command's own keys."""
    from .collection.arguments import CollectionArguments
    from .human_study.study import StudySettings
    from .naming import did_you_mean
    from .reward_training.classifier import ClassifierArguments
    from .reward_training.reward_model import RewardModelArguments

    known: dict[str, type] = {
        "collect": CollectionArguments,
        "train-reward": RewardModelArguments,
        "train-classifier": ClassifierArguments,
        "study": StudySettings,
    }
    if command not in known:
        raise UserError(
            f"no command {command!r} has keys of its own{did_you_mean(command, known) or '.'} There are: "
            f"{', '.join(known)}; a recipe's are listed without --of."
        )
    return known[command]


def _width() -> int:
    """Of the screen, in characters; 80 where there is none. Longer lines are hard to read."""
    return min(get_terminal_size().columns, 100)


@app.command(help="Tasks that recipes can name: GRUE's seven and those of installed packages.")
def tasks() -> None:
    from .tasks import get_task, task_names

    names = task_names()
    for name in names:
        typer.echo(f"{name:<{max(map(len, names))}}  {get_task(name).summary}")


@app.command(
    help="Rewards that recipes can name: range, needs and options. NAMEs are parts of names: trl-nlpo rewards rouge"
)
def rewards(names: Annotated[Optional[list[str]], typer.Argument(metavar="[NAME]...")] = None) -> None:  # noqa: UP045
    from .rewards.listing import ANYTHING_ELSE, reward_entries

    _print_entries("reward", reward_entries(), names or [], ANYTHING_ELSE)


@app.command(
    help="Metrics that recipes can name: range, direction, needs and options. NAMEs are parts of names: trl-nlpo "
    "metrics bleu"
)
def metrics(names: Annotated[Optional[list[str]], typer.Argument(metavar="[NAME]...")] = None) -> None:  # noqa: UP045
    from .metrics.listing import ANYTHING_ELSE, metric_entries

    _print_entries("metric", metric_entries(), names or [], ANYTHING_ELSE)


def _print_entries(what: str, entries: list[Any], names: list[str], anything_else: str) -> None:
    from .metrics.listing import entries_named, entry_lines

    for line in entry_lines(entries_named(what, entries, names), _width(), explains=bool(names)):
        typer.echo(line)
    if not names:
        typer.echo(f"\n{fill(anything_else, _width())}")


@app.command(help="Recipes that ship with the package.")
def recipes() -> None:
    from .recipes.files import shipped_recipes, summary

    shipped = shipped_recipes()
    for name, path in shipped.items():
        typer.echo(f"{name:<{max(map(len, shipped))}}  {summary(path)}")


@app.command(
    help="Make a recipe of a YAML file of RL4LMs, key by key, and say what has no counterpart: trl-nlpo convert "
    "old.yml --out recipe.yaml",
)
def convert(
    file: Annotated[str, typer.Argument(metavar="FILE")],
    out: Annotated[Optional[str], typer.Option(help="The recipe's file. Default: print it.")] = None,  # noqa: UP045
) -> None:
    from pathlib import Path

    from .recipes.rl4lms import convert_file

    made = convert_file(Path(file))
    for note in made.notes:
        typer.echo(f"trl-nlpo: {printable(note)}.", err=True)
    if out is None:
        typer.echo(made.text(), nl=False)
        return
    made.write(Path(out))
    typer.echo(f"The recipe is {out}. Check it: trl-nlpo run {out} --dry-run")


@app.callback(invoke_without_command=True)
def _no_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _recipe_and_overrides(arguments: list[str], config: str | None) -> tuple[str, list[str]]:
    positional = arguments[0] if arguments and not arguments[0].startswith("--") else None
    if positional is not None and config is not None:
        raise UserError(f"two recipes, {positional!r} and --config {config!r}: give one.")
    if positional is None and config is None:
        raise UserError("no recipe: `trl-nlpo run quickstart`, or the path of a YAML file before the keys.")
    return (config, arguments) if config is not None else (str(positional), arguments[1:])
