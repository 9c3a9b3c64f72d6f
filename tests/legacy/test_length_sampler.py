"""Random lengths."""

from __future__ import annotations

from trl_nlpo.legacy import LengthSampler, set_seed


def test_lengths_are_drawn_below_the_maximum_by_the_seed():
    sampler = LengthSampler(2, 5)
    set_seed(3)
    drawn = [sampler() for _ in range(50)]
    assert set(drawn) == {2, 3, 4}
    set_seed(3)
    assert [sampler() for _ in range(50)] == drawn
