"""Text where people see it: nothing in it acts on a terminal or in Markdown."""

from __future__ import annotations

import pytest

from trl_nlpo.display import markdown, markdown_code, printable
from trl_nlpo.errors import one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\rb\x08c\x7f\x9b31m", r"a\rb\x08c\x7f\x9b31m"),
        ("user\u202enimda \u2066x\u2069 \u200f", r"user\u202enimda \u2066x\u2069 \u200f"),
        ("half \ud83d pair", r"half \ud83d pair"),
        ("line\u2028end", r"line\u2028end"),
    ],
)
def test_what_acts_on_a_terminal_is_written_out(text, shown):
    assert printable(text) == shown
    assert one_line(ValueError(text.replace("\r", ""))).isprintable()


@pytest.mark.parametrize("text", ["two\nlines\tand a tab", "日本語 naïve", "👩‍👩‍👧", "می‌خواهم", r"\x1b [/b]"])
def test_all_else_stays_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", r"a\|b"),
        ("**bold** _it_ `code`", r"\*\*bold\*\* \_it\_ \`code\`"),
        ("[x](http://e)", r"[x\](http://e)"),
        ("<img src=x>", r"\<img src=x\>"),
        ("two\nlines", "two lines"),
        ("supervised+nlpo[mask_top_p=0.9]", "supervised+nlpo[mask_top_p=0.9]"),
        ("\x1b[1m", r"\\x1b[1m"),
    ],
)
def test_what_markdown_reads_is_escaped(text, written):
    assert markdown(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [("a b", "`a b`"), ("a `b`", "`` a `b` ``"), ("``", "``` `` ```"), ("a|b\nc", r"`a\|b c`")],
)
def test_code_stays_code_whatever_backticks_it_has(text, written):
    assert markdown_code(text) == written
