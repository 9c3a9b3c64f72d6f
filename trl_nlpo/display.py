"""Text of models and data sets where people see it: on a terminal, which obeys control characters, and in Markdown."""

from __future__ import annotations

import re


# Control characters but tab and line break, halves of surrogate pairs, which cannot be printed, line separators, and
# marks that turn the direction of writing around: text that has them shows something else than it is.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# What Markdown reads; an underscore only at the edge of a word, a bracket only where a link would begin.
_MARKDOWN = re.compile(r"[\\`*<>|&~$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])")


def printable(text: str) -> str:
    r"""Text whose control characters are written as Python writes them, so that a terminal does not obey them.

    Tabs, line breaks, and what scripts and emoji are joined with stay.

    Example:
        >>> printable("red \x1b[31m, back \r, turned \u202e.")
        'red \\x1b[31m, back \\r, turned \\u202e.'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_yamls_words(text: str) -> str:
    """Text about Python's values in the words of YAML, which recipes are written in.

    Example:
        >>> in_yamls_words("None: as True; a function that returned None")
        'null: as true; a function that returned None'
    """
    for python, ours in (("None", "null"), ("True", "true"), ("False", "false")):
        # What a function returns is Python's.
        text = re.sub(rf"(?<!returned )\b{python}\b", ours, text)
    return text


def markdown(text: str) -> str:
    r"""Text that Markdown shows as it is, in one line, in a cell of a table too.

    Example:
        >>> markdown("a|b *c* snake_case <img>")
        'a\\|b \\*c\\* snake_case \\<img\\>'
    """
    return _MARKDOWN.sub(r"\\\g<0>", printable(" ".join(text.split())))


def markdown_code(text: str) -> str:
    """Text as inline code of Markdown, in one line, whatever backticks it has. For tables, `|` is escaped.

    Example:
        >>> markdown_code("trl-nlpo grue")
        '`trl-nlpo grue`'
    """
    line = printable(" ".join(text.split()))
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", r"\|")
