"""Errors that a user can mend. The command line prints their one line and exits with code 2; everything else is a bug
of ours and keeps its traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what was wrong, where, and what to do."""


class RewardError(UserError):
    """A reward function raised, or returned something that is not one finite number (or None) per completion."""


class DiskFullError(UserError):
    """There is no room for a checkpoint or a log line. What was whole before is still whole."""


class OutOfMemoryError(UserError):
    """An update needs more memory than there is; the message names the settings to lower."""


class TrainingStoppedError(UserError):
    """A run that has no use in going on, such as one whose gradients stay non-finite. Its checkpoint is written."""


def one_line(error: BaseException, longest: int | None = None) -> str:
    """What an error says, without line breaks, cut after `longest` characters; its class where it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__
