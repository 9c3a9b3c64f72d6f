"""The command line: parse, load, call."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Annotated, Optional

import typer

from . import __version__
from .errors import UserError


_INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended, by the shell's convention."""

app = typer.Typer(
    name="trl-nlpo",
    help="Reinforcement learning of text generators with a critic: PPO and NLPO for TRL.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point. A user's mistake is one line on stderr and exit code 2; Ctrl-C 130, SIGTERM 143."""
    # TRL's trainers send usage statistics; a run of ours does not. Set it to 0 to have them sent.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # What transformers will rename, or which kernel bitsandbytes misses, is no concern of whoever runs a recipe.
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        # Commands return nothing; what comes back is the exit code of a `typer.Exit`.
        code = app(standalone_mode=False) or 0
    except UserError as error:
        sys.exit(_complain(str(error), getattr(error, "exit_code", 2)))
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        # Typer's own complaints (no such command, an option without a value) know how to say themselves.
        if not hasattr(error, "format_message"):
            raise
        code = _complain(error.format_message(), 2)
    if code == _INTERRUPTED:
        _complain("interrupted.", code)
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    print(f"trl-nlpo: {' '.join(message.split())}", file=sys.stderr)
    return code


@app.command(
    context_settings={"ignore_unknown_options": True},
    help="Run a recipe: a YAML file, or the name of one that ships. Any key of a recipe can be given as --KEY VALUE "
    "and beats the file: trl-nlpo run quickstart --learning_rate 1e-4 --output_dir runs/faster",
)
def run(
    arguments: Annotated[Optional[list[str]], typer.Argument(metavar="RECIPE [--KEY VALUE]...")] = None,  # noqa: UP045
    config: Annotated[Optional[str], typer.Option(help="The recipe, as in TRL's commands.")] = None,  # noqa: UP045
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and print it resolved.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run in the same output_dir ended.")] = False,
) -> None:
    from .recipes import load_recipe

    name, overrides = _recipe_and_overrides(arguments or [], config)
    recipe = load_recipe(name, [*overrides, "--resume_from_checkpoint", "true"] if resume else overrides)
    if dry_run:
        import yaml

        recipe.arguments.reward_functions()
        typer.echo(yaml.safe_dump(recipe.resolved, sort_keys=False, allow_unicode=True).rstrip())
        return
    from .experiment import run_experiment
    from .signals import ending_with_a_line

    with ending_with_a_line("Go on with --resume; finished stages are not repeated."):
        run_experiment(recipe)


@app.command(help="Versions and device, for bug reports.")
def env() -> None:
    from .environment import device, versions

    for package, version in {**versions(), "device": device()}.items():
        typer.echo(f"{package}: {version or 'not installed'}")


@app.command(help="Recipes that ship with the package.")
def recipes() -> None:
    from .recipes import shipped_recipes, summary

    shipped = shipped_recipes()
    for name, path in shipped.items():
        typer.echo(f"{name:<{max(map(len, shipped))}}  {summary(path)}")


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
