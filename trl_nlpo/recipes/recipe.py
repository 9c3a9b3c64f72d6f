"""From a YAML file and the command line to a valid recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import UserError, one_line
from ..secrets import note_secrets, without_secret_keys
from ..tasks.registry import get_task
from .algorithms import Algorithm
from .arguments import RecipeArguments
from .files import find_recipe, read_yaml_with_lines
from .keys import converted, recipe_fields
from .overrides import parse_overrides
from .presets import preset_values
from .values import last


if TYPE_CHECKING:
    from trl import ModelConfig

    from ..config import NLPOConfig


COMMAND_LINE = "command line"
"""Where a value was given, for messages."""

_Given = dict[str, tuple[Any, str]]
"""Values by key, each with where it was given: a file, the command line, a task or a preset."""


@dataclass(frozen=True)
class Recipe:
    """A validated recipe.

    Attributes:
        name (`str`): the file's name without its ending.
        path (`Path`): the file.
        arguments ([`RecipeArguments`]): data, rewards and stages.
        training ([`NLPOConfig`]): the trainer's settings.
        model (`trl.ModelConfig`): which model, quantization and adapters.
        resolved (`dict`): every key that was given or that differs from the defaults, in the file's order, without
            secrets; a recipe that reproduces the run.
        places (`dict[str, str]`): where each key was given, for messages: a line of the file, `"command line"`, or a
            task.
    """

    name: str
    path: Path
    arguments: RecipeArguments
    training: NLPOConfig
    model: ModelConfig
    resolved: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)

    @property
    def algorithm(self) -> Algorithm:
        """What `algorithm` names."""
        return Algorithm.parse(self.arguments.algorithm)


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe, and set the environment variables of its `env:`.

    Args:
        name (`str` or `Path`): a file, or the bare name of a recipe that ships with the package.
        overrides (`Sequence[str]`): `["--learning_rate", "1e-5", "--rewards=rougeL"]`; they override the file.

    Raises:
        UserError: whatever is wrong with either, in one line.
    """
    path = find_recipe(name)
    values, lines = read_yaml_with_lines(path)
    note_secrets(values)
    environment = _environment(values.pop("env", None), _line(path, lines.get("env")))
    try:
        # Before torch and transformers are imported: they read some of these then.
        os.environ.update(environment)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{_line(path, lines.get('env'))}: env has a name or value that cannot be set ({error})."
        ) from None
    in_file = {key: (value, _line(path, lines.get(key))) for key, value in values.items()}
    in_words = {key: (value, COMMAND_LINE) for key, value in parse_overrides(overrides).items()}
    note_secrets({key: value for key, (value, _) in in_words.items()})
    return _build(path, _with_task_and_preset(in_file, in_words), environment)


def _with_task_and_preset(in_file: _Given, in_words: _Given) -> _Given:
    """All values that are given: the task's, overridden by the file's, and those by the command line's.

    A preset overrides what is below the place that names it: the task, and on the command line the file too.
    """
    together = {**in_file, **in_words}
    name, where = together.get("task", (None, ""))
    preset, preset_where = together.get("preset", (None, ""))
    name, preset = last(name), last(preset)
    of_task: _Given = {}
    of_preset: _Given = {}
    if name is not None:
        task = _placing_mistakes(where, get_task, str(name))
        of_task = {key: (value, f"task {name}") for key, value in task.recipe_values().items()}
        if preset is not None:
            chosen = {key: value for key, (value, _) in together.items()}
            values = _placing_mistakes(preset_where, preset_values, str(preset), task, chosen)
            of_preset = {key: (value, f"preset {preset}") for key, value in values.items()}
    elif preset is not None:
        raise UserError(f"{preset_where}: preset {preset!r} needs a recipe with a task; this one has none.")
    layers = (in_file, of_preset) if "preset" in in_words else (of_preset, in_file)
    merged = {**of_task, **layers[0], **layers[1], **in_words}
    # Its values are there now; named in a resolved recipe, it would override them when that is loaded.
    merged.pop("preset", None)
    return merged


def _placing_mistakes(where: str, find: Callable[..., Any], *arguments: Any) -> Any:
    """What `find` returns; a mistake that it raises gets `where` before its message."""
    try:
        return find(*arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def write_resolved(recipe: Recipe, path: Path) -> None:
    """Write a recipe as a file that gives the same run, with the versions it ran under."""
    from ..launch.environment import versions

    used = ", ".join(f"{package} {version}" for package, version in versions().items() if version)
    with path.open("w", encoding="utf-8") as file:
        file.write(f"# {recipe.name}, as it ran with {used}\n")
        yaml.safe_dump(recipe.resolved, file, sort_keys=False, allow_unicode=True, width=119)


def _build(path: Path, given: _Given, environment: dict[str, str]) -> Recipe:
    from trl import ModelConfig

    from ..config import NLPOConfig

    fields = recipe_fields(classes_of_keys())
    places = {key: where for key, (_, where) in given.items()}
    values = {key: converted(key, value, where, fields) for key, (value, where) in given.items()}
    values |= _defaults(values, path)
    # Resuming is not part of the recipe that reproduces a run.
    given_values = {key: value for key, value in values.items() if key != "resume_from_checkpoint"}
    resolved = without_secret_keys({"env": environment, **given_values} if environment else given_values)
    if not resolved.get("env", True):
        del resolved["env"]
    try:
        arguments, model = _instance(RecipeArguments, values), _instance(ModelConfig, values)
        training = NLPOConfig(
            reward_weights=[reward.weight for reward in arguments.reward_specs], **_own(NLPOConfig, values)
        )
        _check_together(arguments, model, training)
    except Exception as error:
        # transformers and TRL check fields with every kind of exception; all of them are about the values.
        raise UserError(_with_key(error, path, given, values)) from error
    return Recipe(path.stem, path, arguments, training, model, resolved, places)


def _with_key(error: Exception, path: Path, given: _Given, values: dict[str, Any]) -> str:
    """What is wrong, with the key that it is about: where the error names none, found by leaving out one at a time."""
    text = one_line(error)
    if any(key in text for key in recipe_fields(classes_of_keys())):
        return _placed(text, {key: where for key, (_, where) in given.items()}, _where(path))
    # Of several without which all would be well, what the command line added is the likelier mistake.
    for key, (value, where) in sorted(given.items(), key=lambda item: item[1][1] != COMMAND_LINE):
        rest = {name: kept for name, kept in values.items() if name != key}
        try:
            for cls in classes_of_keys():
                _instance(cls, rest)
        except Exception:
            continue
        return f"{where}: {key} is {value!r}: {text}"
    return f"{_where(path)}: {text} (it is about one of {', '.join(given)})"


def _placed(text: str, places: Mapping[str, str], otherwise: str) -> str:
    """A message behind the place of the keys that it is about: whose value it has, or else the first that it names."""
    named = {key: found.end() for key in places if (found := re.search(rf"(?<!\w){re.escape(key)}(?!\w)", text))}
    in_order = sorted(named, key=lambda key: named[key])
    has_value = [key for key in in_order if re.match(r" (is |has )?['\"\[{\d.-]", text[named[key] :])]
    about = list(dict.fromkeys(places[key] for key in has_value or in_order[:1]))
    for number, place in enumerate(about[1:], start=1):
        # "own.yaml, line 4 and line 5"
        file, comma, line = place.rpartition(", line ")
        if comma and about[0].startswith(f"{file}, line "):
            about[number] = f"line {line}"
    return f"{' and '.join(about) or otherwise}: {text}"


@contextlib.contextmanager
def placing_mistakes(recipe: Recipe) -> Iterator[None]:
    """Put before the message of a `UserError` where the key was given that it is about.

    Args:
        recipe ([`Recipe`])
    """
    try:
        yield
    except UserError as error:
        raise UserError(_placed(str(error), recipe.places, _where(recipe.path))) from error


def classes_of_keys() -> tuple[type, ...]:
    """The dataclasses whose fields are the keys of a recipe; a name that two have is the first one's."""
    from trl import ModelConfig

    from ..config import NLPOConfig

    return RecipeArguments, NLPOConfig, ModelConfig


def _defaults(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Values that recipes have unless they say otherwise, and those that the algorithm decides."""
    defaults: dict[str, Any] = {"output_dir": str(Path("runs") / path.stem), **RECIPE_DEFAULTS}
    if values.get("load_best_model_at_end"):
        # transformers wants a checkpoint at every evaluation that may turn out the best.
        defaults["save_steps"] = values.get("eval_steps", 500)
    if values.get("stop_token_id") is not None:
        del defaults["stop_token"]
    given = {key for key, value in values.items() if value is not None or key in _NULL_MEANS_SOMETHING}
    found = {key: value for key, value in defaults.items() if key not in given}
    return found | Algorithm.parse(values.get("algorithm", RecipeArguments.algorithm)).settings


RECIPE_DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "save_steps": 0.25,
    "save_total_limit": 2,
    "num_sample_generations": 0,
    "stop_token": "eos",
}
"""Defaults of recipes that are not the trainer's, besides `output_dir`, which is named for the recipe."""

_NULL_MEANS_SOMETHING = ("stop_token", "save_total_limit")
"""Keys with a default here whose null is not the same as nothing: no token ends a completion; keep all checkpoints."""


def _check_together(arguments: RecipeArguments, model: ModelConfig, training: NLPOConfig) -> None:
    """Check what needs several of the three."""
    # Late, as it reads environment variables when it is imported.
    from ..hub.upload import check_repository

    algorithm = Algorithm.parse(arguments.algorithm)
    if model.use_peft and model.model_name_or_path is None and not algorithm.supervised:
        raise UserError("use_peft needs a model to adapt: set model_name_or_path, or add a supervised stage.")
    check_repository(training)
    if training.push_to_hub and not algorithm.reinforces:
        raise UserError(f"push_to_hub needs a reinforced model; algorithm {algorithm.name!r} makes none.")


def _own(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {item.name for item in dataclasses.fields(cls)}
    return {key: value for key, value in values.items() if key in names}


def _instance(cls: type, values: dict[str, Any]) -> Any:
    return cls(**_own(cls, values))


def _environment(env: Any, where: str) -> dict[str, str]:
    if env is None:
        return {}
    if not isinstance(env, dict):
        raise UserError(f"{where}: env must be a mapping of environment variables to values, not {env!r}.")
    return {str(key): str(value) for key, value in env.items()}


def _line(path: Path, number: int | None) -> str:
    return _where(path) if number is None else f"{_where(path)}, line {number}"


def _where(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
