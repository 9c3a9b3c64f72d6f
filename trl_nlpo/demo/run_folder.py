"""Whether a folder holds a run that can be shown, told without loading anything."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..hub.loading import holds_model
from ..storage.results import check_is_run


def check_finished(folder: Path) -> None:
    """Raise where there is no reinforced model to show.

    Args:
        folder (`Path`): a run's `output_dir`.

    Raises:
        UserError: it is no run, or its training has not ended.
    """
    check_is_run(folder)
    if not holds_model(folder):
        raise UserError(f"{folder} has no reinforced model yet: it is saved when the run's training ends.")
