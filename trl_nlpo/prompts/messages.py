"""Prompts in the shapes in which data sets have them: text, or messages with `role` and `content`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError, one_line
from .tokenized import as_list


SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "bot": "assistant", "model": "assistant", "system": "system", "tool": "tool", "observation": "tool",
}  # fmt: skip
"""What ShareGPT's `from` calls those whom chat templates call otherwise."""

NEVER_LEFT_OUT = ("user", "system", "developer")
"""Roles whose words a template renders as they are; of an assistant's, templates drop thoughts."""


def read_prompt(prompt: Any) -> str | list[dict[str, Any]]:
    """A prompt as text, or as messages with `role` and text as `content`.

    Messages may also have `from` and `value` (ShareGPT) instead, or a list of text parts as their content.

    Raises:
        UserError: neither text nor messages, or parts that are not text.
    """
    if isinstance(prompt, str):
        return prompt
    messages = as_list(prompt)
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise UserError(
            f"has a prompt of {type(prompt).__name__}: prompts must be all text, or all lists of messages."
        )
    return [_message(message, place) for place, message in enumerate(messages)]


def _message(message: Mapping[str, Any], place: int) -> dict[str, Any]:
    read = dict(message)
    if "from" in read and "role" not in read:
        role = read.pop("from")
        read["role"] = SHAREGPT_ROLES.get(str(role).lower(), role)
    if "value" in read and "content" not in read:
        read["content"] = read.pop("value")
    if not isinstance(read.get("role"), str) or "content" not in read:
        raise UserError(
            f"has a message {place} with the keys {', '.join(map(str, message))}: it needs role and content "
            "(or ShareGPT's from and value)."
        )
    content = as_list(read["content"])
    if isinstance(content, list):
        read["content"] = "".join(_text_part(part, place) for part in content)
    elif not isinstance(content, str) and not (content is None and read.get("tool_calls")):
        raise UserError(f"has {content!r:.60} as the content of message {place}: write text.")
    return read


def _text_part(part: Any, place: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type", "unknown") if isinstance(part, Mapping) else type(part).__name__
    raise UserError(f"has a part of type {kind!r} in message {place}: only text is read; leave the part out.")


def rendered(messages: list[dict[str, Any]], tokenizer: Any, template_kwargs: dict[str, Any]) -> str:
    """Messages as the text that the policy completes.

    Args:
        messages (`list[dict]`): of [`read_prompt`].
        tokenizer: its chat template renders them.
        template_kwargs (`dict`): of the template.

    Raises:
        UserError: no template, no messages, or messages that the template refuses or leaves out.
    """
    from trl import apply_chat_template

    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            "has messages as its prompt, but the tokenizer has no chat template: set tokenizer.chat_template, or use "
            "text."
        )
    if not messages:
        raise UserError("has no messages: a prompt needs one of the user's at least.")
    roles = [message["role"] for message in messages]
    if roles[-1] not in ("user", "tool", "assistant"):
        raise UserError(
            f"has messages that end with one of the role {roles[-1]!r}: the last must be by user or tool (or by "
            "assistant, to be continued)."
        )
    try:
        text: str = apply_chat_template({"prompt": messages}, tokenizer, **template_kwargs)["prompt"]
    except Exception as error:
        # A template raises what it likes, beside jinja's and TRL's own errors.
        raise UserError(
            f"has messages (roles: {', '.join(roles)}) that the chat template does not render: "
            f"{one_line(error, 200)}. Change the messages, or set another tokenizer.chat_template."
        ) from error
    _check_nothing_is_left_out(messages, text)
    return text


def _check_nothing_is_left_out(messages: list[dict[str, Any]], text: str) -> None:
    """Refuse messages that a template drops without a word, as many do with a role that they do not know."""
    shown = " ".join(text.split())
    for message in messages:
        role, content = message["role"], message["content"] or ""
        if (role in NEVER_LEFT_OUT or role not in SHAREGPT_ROLES.values()) and " ".join(content.split()) not in shown:
            raise UserError(
                f"has a message of the role {role!r} that the chat template leaves out: rename the role, remove the "
                "message, or set another tokenizer.chat_template."
            )
