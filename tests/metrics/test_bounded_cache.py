"""What is kept for the next time, and what goes when there is no room."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from trl_nlpo.metrics.bounded_cache import bounded_cache


def counting(characters):
    calls = []

    @bounded_cache(characters=characters)
    def length(text, *others):
        calls.append(text)
        return len(text)

    return length, calls


def test_a_result_is_worked_out_once_for_each_set_of_arguments():
    length, calls = counting(10_000)
    assert [length("abc"), length("abc"), length("abc", 1), length("abc", 1)] == [3] * 4
    assert calls == ["abc", "abc"]


def test_what_was_used_longest_ago_goes_first_when_there_is_no_room():
    # An entry counts for its text and 100 more: two of 100 characters fill 400, a third does not fit beside them.
    length, calls = counting(400)
    first, second, third = ("a" * 100, "b" * 100, "c" * 100)
    for text in (first, second, first, third, first, second):
        length(text)
    assert calls == [first, second, third, second]


def test_many_empty_texts_are_bounded_too():
    length, calls = counting(250)
    for number in (1, 2, 3, 1):
        length("", number)
    assert len(calls) == 4


def test_a_text_longer_than_all_room_is_not_kept_and_pushes_nothing_out():
    length, calls = counting(300)
    for text in ("a", "b" * 500, "b" * 500, "a"):
        length(text)
    assert calls == ["a", "b" * 500, "b" * 500]


def test_threads_share_it_and_its_room_is_what_was_said():
    length, _ = counting(2_000)
    texts = [str(number) * (number % 7 + 1) for number in range(300)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(length, texts * 5)) == [len(text) for text in texts] * 5
