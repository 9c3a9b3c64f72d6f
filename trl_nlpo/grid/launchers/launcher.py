"""What a launcher is: how cells become jobs somewhere, and what is known of them there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...errors import UserError
from ...naming import did_you_mean
from ...recipes.overrides import arguments_from
from ...secrets import HIDDEN, redacted, redacted_words
from ...storage.run_lock import Owner
from ..cells import Grid
from .job import CellJob


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted.

    Attributes:
        id (`str`): as the launcher calls it.
        words (`str`): what people call it: `Slurm job 12_3`.
        record (`dict`): what a later command needs in order to find it again; JSON.
    """

    id: str
    words: str
    record: Mapping[str, Any] = field(default_factory=dict)


class Launcher(Protocol):
    """Where the jobs of a grid run.

    Attributes:
        name (`str`): as `--launcher` has it.
        queues (`bool`): whether a job can be submitted before the one that it comes after has ended.
        goes_on (`bool`): whether jobs go on when the command that submitted them ends.
        most (`int`, *optional*): jobs that there can be at a time; None: any number.
        usual (`int`, *optional*): the same where `--max_parallel` does not say.
        settling (`float`): seconds until what a job wrote is seen here after it has ended.
    """

    name: str
    queues: bool
    goes_on: bool
    most: int | None
    usual: int | None
    settling: float

    def submit(self, jobs: Sequence[CellJob], after: Submitted | None) -> list[Submitted]:
        """Have jobs run, after another has ended (however that was: what is missing then, they say themselves).

        Raises:
            UserError: they are not accepted.
        """

    def find(self, record: Mapping[str, Any]) -> Submitted | None:
        """A job that an earlier command submitted, from its record; None where it has ended."""

    def unfinished(self, jobs: Sequence[Submitted]) -> set[str]:
        """The ids of those that wait or run."""

    def has_ended(self, job: Submitted, owner: Owner) -> bool:
        """Whether a process that has a cell's lock has surely ended with an unfinished job, on another machine."""

    def is_of(self, job: Submitted, owner: Owner) -> bool:
        """Whether a process that has a cell's lock was begun by a job."""

    def last_words(self, job: Submitted) -> str:
        """Why a job has ended that has not come to begin its cell, or where that stands; in words."""

    def leave(self, jobs: Sequence[Submitted]) -> str:
        """What becomes of these jobs when the command ends now, and how they are ended; in words."""


def options_from(cls: type, options: Sequence[str]) -> Any:
    """The options of a launcher from `KEY=VALUE` words.

    Raises:
        UserError: a word is not written so, or names no option; the message names the nearest.
    """
    words = []
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--launcher_options {option!r}: write KEY=VALUE, as gpus=1.")
        known = list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
        if key not in known:
            hint = did_you_mean(key, known) or "."
            raise UserError(f"--launcher_options {key}: there is no such option{hint} There are {', '.join(known)}.")
        words += [f"--{key}", value]
    return arguments_from(cls, {}, words)


def check_nothing_secret(grid: Grid) -> None:
    """Refuse keys that would be written into the files of a queue.

    Raises:
        UserError: the value of a key is secret.
    """
    if any(HIDDEN in word for word in redacted_words(grid.overrides)):
        raise UserError(
            "a secret among the keys would stand in the files of a queue: leave it out, and set it in the environment "
            "of the jobs (HF_TOKEN for the Hub)."
        )


_OF_RUNS = (
    "OMP_", "MKL_", "HF_", "TRANSFORMERS_", "TRL_NLPO_", "TOKENIZERS_", "CUBLAS_", "NCCL_", "TORCH_", "PYTHONPATH",
)  # fmt: skip


def environment_of_runs() -> dict[str, str]:
    """The variables of this process that decide how a run computes and what it finds; nothing secret."""
    named = {name: value for name, value in os.environ.items() if name.startswith(_OF_RUNS)}
    return {name: value for name, value in named.items() if redacted(value, name) == value}
