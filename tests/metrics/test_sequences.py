"""The longest common subsequence, against its recursive definition and the table of the textbook."""

from __future__ import annotations

import functools
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from trl_nlpo.metrics.sequences import longest_common_subsequence


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), max_size=90), st.lists(st.sampled_from("abcdef"), max_size=90))
def test_the_longest_common_subsequence_is_that_of_the_table(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if word == other else max(table[i][j + 1], table[i + 1][j])
    assert longest_common_subsequence(first, second) == table[-1][-1]


def test_the_longest_common_subsequence_is_that_of_the_recursive_definition():
    @functools.cache
    def length(first, second):
        if not first or not second:
            return 0
        if first[0] == second[0]:
            return 1 + length(first[1:], second[1:])
        return max(length(first[1:], second), length(first, second[1:]))

    words = [tuple(word) for size in range(5) for word in itertools.product("abc", repeat=size)]
    assert all(longest_common_subsequence(one, other) == length(one, other) for one in words for other in words)
