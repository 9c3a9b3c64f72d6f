"""JSON Lines: line feeds alone end a line, and a damaged one is named."""

from __future__ import annotations

import json

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.storage.json_lines import json_line, read_json_lines, write_json_lines


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_separators_of_unicode_stay_inside_a_text(tmp_path, separator):
    text = f"one{separator}two"
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f'{{"a": {json.dumps(text, ensure_ascii=False)}}}\n2\n'.encode())
    # JSON escapes the control characters \x0b and \x0c; the others stand for themselves.
    assert [number for number, _ in read_json_lines(path)] == [1, 2]
    assert next(read_json_lines(path)) == (1, {"a": text})
    write_json_lines(path, [{"a": text}, 2])
    assert list(read_json_lines(path)) == [(1, {"a": text}), (2, 2)]
    assert path.read_bytes().count(b"\n") == 2


def test_blank_lines_line_ends_of_windows_and_a_byte_order_mark_are_no_values_but_count_as_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf1\r\n\r\n  \n4")
    assert list(read_json_lines(path)) == [(1, 1), (4, 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'1\n\n{"a": \n4\n', r"rows\.jsonl, line 3: not valid JSON \(Expecting value\)"),
        (b"1\n\x00\x00\n", r"rows\.jsonl, line 2: not valid JSON"),
        (b'1\n{"a', r"rows\.jsonl, line 2: not valid JSON"),
        (b"\xff\n", r"rows\.jsonl, after line 0: not valid UTF-8 \(invalid start byte\)"),
    ],
)
def test_a_damaged_line_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_json_lines(tmp_path / "rows.jsonl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ['{"a', '{"a": 1}'])
def test_the_last_line_of_a_file_that_is_still_written_is_left_out_until_its_end_is_there(tmp_path, end):
    path = tmp_path / "rows.jsonl"
    path.write_text("1\n" + end)
    assert list(read_json_lines(path, growing=True)) == [(1, 1)]
    path.write_text("1\n" + '{"a": 1}\n')
    assert list(read_json_lines(path, growing=True)) == [(1, 1), (2, {"a": 1})]


def test_what_json_does_not_have_is_made_into_what_it_has_or_refused():
    assert json_line({"a": "ä", "b": {1}}, default=str) == '{"a": "ä", "b": "{1}"}\n'
    with pytest.raises(TypeError):
        json_line({1})


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, [1])
    with pytest.raises(TypeError):
        write_json_lines(path, [2, {3}])
    assert path.read_text() == "1\n"
