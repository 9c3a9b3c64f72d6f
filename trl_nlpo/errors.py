"""Errors that a user can mend, and how a run ends that was asked to stop.

The command line prints the one line of a `UserError` and exits with code 2; everything else is a bug of ours and keeps
its traceback.
"""

from __future__ import annotations

import signal
from typing import Any

from .display import printable
from .secrets import redacted


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what was wrong, where and what to do; nothing secret."""

    def __init__(self, *args: Any):
        super().__init__(*(redacted(argument) for argument in args))


class RewardError(UserError):
    """A reward function raised, or returned something that is not one finite number (or None) per completion."""


class DiskFullError(UserError):
    """There is no room for a checkpoint or a log line. What was written before is undamaged."""


class OutOfMemoryError(UserError):
    """An update needs more memory than there is; the message names the settings to lower."""


class TrainingStoppedError(UserError):
    """Training that cannot usefully continue, such as with gradients that stay non-finite. There is a checkpoint."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during training, raised after the update and its checkpoint. The message says how to resume."""


class StoppedAtOnce(KeyboardInterrupt):
    """The second Ctrl-C: the update is not finished and no checkpoint is written."""


class Terminated(SystemExit):
    """SIGTERM, raised after the update and its checkpoint. A script that lets it pass exits with 143.

    Args:
        message (`str`): how to resume.
    """

    def __init__(self, message: str):
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message


class NotPushedError(UserError):
    """The Hub did not take the model, which is whole on this machine; the message says how to push it by hand."""

    exit_code = 3
    """Of the command line: the run is finished, and only the upload is missing."""


class StoppedRunError(UserError):
    """A run of the command line that a signal ended.

    Args:
        message (`str`): how to resume.
        exit_code (`int`): 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def one_line(error: BaseException, longest: int | None = None) -> str:
    """What an error says, without line breaks, truncated to `longest` characters; its class where it says nothing.

    Control characters, as of data that it quotes, are written out ([`display.printable`]).
    """
    return printable(" ".join(str(error).split())[:longest]) or type(error).__name__
