"""What the process of a job does: the one cell that it was asked for, as the plain loop would run it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..asked import as_json, from_json
from ..cells import Cell, Grid, fingerprint_of
from ..grid import run_cell


def request_of(grid: Grid, cell: Cell, place: str) -> dict[str, Any]:
    """What a process needs to know to run a cell; JSON.

    Args:
        grid ([`Grid`]): relative paths in it are those of the working directory.
        cell ([`Cell`])
        place (`str`): what it is called in lines.
    """
    # Of its task and seed all variants, as the first of them has results that others take.
    own = Grid((cell.recipe,), grid.variants, (cell.seed,), grid.folder, grid.overrides)
    return {
        "place": place,
        "folder": str(grid.folder),
        "overrides": [*grid.overrides],
        "grid": as_json(own),
        "variant": cell.variant.label,
        "fingerprint": fingerprint_of(grid, cell),
    }


def read_request(descriptor: int = 0) -> dict[str, Any]:
    """Read what is to be done from a pipe, and from then on end when whoever writes to it has ended.

    Args:
        descriptor (`int`): of the pipe; standard input.

    Raises:
        UserError: it is something else.
    """
    read = b""
    # Not through `sys.stdin`: a thread that waits in there keeps Python from ending.
    while not read.endswith(b"\n"):
        more = os.read(descriptor, 1 << 16)
        if not more:
            raise UserError("grue cell is started by --launcher, which tells it what to do.")
        read += more
    try:
        request = json.loads(read)
    except ValueError:
        raise UserError("grue cell is started by --launcher, which tells it what to do.") from None
    threading.Thread(target=_end_with_the_other, args=(descriptor,), daemon=True).start()
    return request


def _end_with_the_other(descriptor: int) -> None:
    while os.read(descriptor, 1 << 10):
        pass
    # With a checkpoint, as on any other request to stop.
    os.kill(os.getpid(), signal.SIGTERM)


def run_request(request: dict[str, Any], run: Callable[..., Any], say: Callable[[str], None]) -> None:
    """Run the cell of a request, unless it is done or another command has it.

    Args:
        request (`dict`): as [`request_of`] has made it.
        run, say: as for [`grid.run_grid`].

    Raises:
        UserError: the cell has failed, which is recorded in its folder; or its recipe was edited in the meantime.
    """
    grid = from_json(request["grid"], Path(request["folder"]), tuple(request["overrides"]))
    cell = next(cell for cell in grid.cells() if cell.variant.label == request["variant"])
    if fingerprint_of(grid, cell) != request["fingerprint"]:
        raise UserError(
            f"recipe {cell.recipe!r} was edited after its cells were submitted: undo the edit, or give another --out."
        )
    run_cell(grid, cell, request["place"], run, say)
    if cell.status == "failed":
        raise UserError(f"{request['place']}: {cell.result().get('error')}")
