"""The few completions that a run ends with."""

from __future__ import annotations

import io

from rich.console import Console

from trl_nlpo.progress.samples import print_samples


def printed(samples, **options):
    console = Console(file=io.StringIO(), width=119)
    print_samples(console, "Samples of [bold]nlpo[/bold]:", samples, **options)
    return console.file.getvalue()


def test_the_first_three_are_printed_in_a_line_each_and_markup_is_text():
    sample = {"prompt": "Why\n so [red]?", "completion": "[/b] because\x1b[2J", "score": 0.5}
    text = printed([sample, sample, {**sample, "score": None}, {**sample, "prompt": "the fourth"}])
    assert "Samples of [bold]nlpo[/bold]:" in text
    assert text.count("  prompt     Why so [red]?\n  completion [/b] because\\x1b[2J\n") == 3
    assert [line.split()[1] for line in text.split("\n") if "reward" in line] == ["0.500", "0.500", "-"]
    assert "the fourth" not in text
    assert "\x1b" not in text


def test_of_a_long_prompt_the_end_is_shown_and_of_a_long_completion_the_beginning():
    text = printed([{"prompt": "p" * 400 + "q", "completion": "c" + "d" * 400, "score": 1.0}])
    assert max(map(len, text.split("\n"))) < 330
    assert "... p" in text
    assert "pq\n" in text
    assert " cd" in text
    assert "d ...\n" in text


def test_messages_are_read_by_role_and_no_samples_print_nothing():
    text = printed([{"prompt": [{"role": "user", "content": "Hi\nyou"}], "completion": "Ho", "score": 1.0}])
    assert "user: Hi you" in text
    assert printed([]) == ""
