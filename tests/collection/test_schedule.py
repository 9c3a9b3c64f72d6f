"""When labels are asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_nlpo.collection.schedule import labels_due, rounds_of


def test_the_schedule_of_the_paper_by_hand():
    # A quarter of the way: 1 - (3/4)^2 = 7/16 of the 160 later labels.
    assert labels_due(25, 100, 40, 200) == 40 + 160 * 7 / 16
    assert labels_due(0, 100, 40, 200) == 40
    assert labels_due(100, 100, 40, 200) == 200


def test_offline_all_labels_come_before_the_first_update():
    assert [(part.update, part.num_labels) for part in rounds_of(100, 500, 500, 0)] == [(0, 500)]


@given(
    num_updates=st.integers(1, 300),
    initial=st.integers(1, 100),
    more=st.integers(0, 500),
    retrainings=st.integers(1, 30),
)
def test_every_label_is_asked_for_once_and_before_the_end(num_updates, initial, more, retrainings):
    rounds = rounds_of(num_updates, initial, initial + more, retrainings)
    assert sum(part.num_labels for part in rounds) == initial + more
    updates = [part.update for part in rounds]
    assert updates == sorted(set(updates))
    assert updates[0] == 0
    assert updates[-1] < num_updates


def test_later_shares_are_asked_for_when_half_of_each_is_due():
    rounds = rounds_of(1000, 100, 500, 4)
    for index, part in enumerate(rounds[1:]):
        assert labels_due(part.update, 1000, 100, 500) == pytest.approx(100 + 100 * (index + 0.5), abs=1)
