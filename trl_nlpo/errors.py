"""Errors that a user can mend. The command line prints their one line and exits with code 2; everything else is a bug
of ours and keeps its traceback."""


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what was wrong, where, and what to do."""


class RewardError(UserError):
    """A reward function raised, or returned something that is not one finite number (or None) per completion."""
