"""Prompts and completions, as reward functions and data sets have them, as plain text."""

from __future__ import annotations

from typing import Any

from ..errors import UserError


def prompt_text(prompt: Any) -> str:
    """A prompt as text: itself, or the contents of a conversation's messages, one a line."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message["content"]) for message in prompt or [])


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a completion: itself, or the content of the last message of a conversational one."""
    if isinstance(completion, str):
        return completion
    return str(completion[-1]["content"]) if completion else ""


def joined(prompt: str, completion: str, separator: str | None = None) -> str:
    """Prompt and completion.

    Args:
        separator (`str`, *optional*): what stands between them. By default one space where neither has white space
            there and the completion begins with a letter or a digit: some tokenizers decode a completion without it.

    Example:
        >>> joined("the film", "is good"), joined("the film", " is good"), joined("the film", ".")
        ('the film is good', 'the film is good', 'the film.')
    """
    if separator is None:
        touching = bool(prompt) and not prompt[-1].isspace() and completion[:1].isalnum()
        separator = " " if touching else ""
    return f"{prompt}{separator}{completion}"


def check_flag(who: str, **options: Any) -> None:
    """Raise a `UserError` unless every option is true or false."""
    for name, value in options.items():
        if not isinstance(value, bool):
            raise UserError(f"{who}: {name} must be true or false, not {value!r}.")
