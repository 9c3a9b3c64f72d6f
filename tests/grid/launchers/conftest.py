"""The grid that the launched ones are compared with, run once."""

from __future__ import annotations

import pytest

from support.equal_grids import ends_of
from support.launched import CELLS, finished, grue, write_recipe


@pytest.fixture(scope="session")
def plain_ends(tmp_path_factory):
    """What the plain loop leaves of `write_recipe`'s two cells."""
    folder = tmp_path_factory.mktemp("plain")
    write_recipe(folder)
    code, out = finished(grue(folder, "plain"))
    assert code == 0, out
    ends = ends_of(folder / "plain")
    assert sorted(ends) == sorted(CELLS)
    assert ends[CELLS[1]]["weights"]
    return ends
