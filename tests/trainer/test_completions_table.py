"""Sample completions on the terminal and in the run folder, whatever they hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from trl_nlpo.trainer.completions_table import append_completions, print_completions


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize(
    "text", [r"\[/b]", "[/b]", "[bold]x[/bold]", r"\[x^2\] and \\[", "a [link=x", ":smile:", r"x\\"]
)
def test_cells_titles_and_names_of_columns_are_printed_as_they_are(capsys, text):
    print_completions([{"prompt": f"p{text}", f"k{text}": f"c{text}"}], title=f"t{text}", limit=1)
    printed = capsys.readouterr().out
    for part in "pkct":
        assert f"{part}{text}" in printed


def test_no_control_character_of_a_prompt_or_completion_reaches_the_terminal(capsys):
    evil = "\x1b[2J\r\u202e\ud83d"
    messages = [{"role": "user", "content": evil}]
    print_completions([{"prompt": messages, f"k{evil}": evil, "list": [evil]}], title=evil, limit=1)
    printed = capsys.readouterr().out
    assert not set(evil[:1] + evil[4:]) & set(printed)
    assert r"\x1b[2J\r\u202e\ud83d" in printed


def test_messages_are_a_line_each_numbers_are_short_and_rows_are_limited(capsys):
    messages = [{"role": "user", "content": "[/b] Hi"}, {"role": "assistant", "content": "Ho"}]
    print_completions([{"prompt": messages, "score": 0.123456}, {"prompt": "second", "score": 1.0}], "t", limit=1)
    printed = capsys.readouterr().out
    assert "user: [/b] Hi" in printed
    assert "assistant: Ho" in printed
    assert "0.1235" in printed
    assert "second" not in printed


def test_nothing_is_printed_of_nothing(capsys):
    print_completions([], "t", limit=5)
    print_completions([{"prompt": "p"}], "t", limit=0)
    assert capsys.readouterr().out == ""


def test_what_a_reward_function_logs_is_kept_as_text_where_it_is_no_json(tmp_path):
    rows = [{"prompt": "p\u2028\n", "extra": np.float32(0.5)}, {"prompt": "q", "extra": torch.tensor(2)}]
    append_completions(rows, tmp_path, step=7)
    lines = (tmp_path / "completions" / "completions_00007.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"step": 7, "prompt": "p\u2028\n", "extra": "0.5"},
        {"step": 7, "prompt": "q", "extra": "tensor(2)"},
    ]
