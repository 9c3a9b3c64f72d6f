"""Checkpoints as folders: complete or absent, checked for damage, and removed when there are enough newer ones.

A checkpoint is written under `_unfinished/` and renamed once it is on disk, so that a folder `checkpoint-N` was
complete when it got its name. Its manifest holds the size of every file, so that what was lost since is noticed.
Sizes, not checksums: reading every file back would take as long as writing it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from .files import UNFINISHED


MANIFEST_NAME = "manifest.json"

_REPLACED = "replaced-"
_REMOVED = "removed-"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def publish_checkpoint(output_dir: str | Path, name: str) -> Path:
    """Give `_unfinished/<name>` its manifest and its place in `output_dir`, in one step that a crash cannot halve.

    Args:
        output_dir (`str` or `Path`): the folder of the checkpoints.
        name (`str`): such as `"checkpoint-8"`; an existing one of that name is replaced once the new one is complete.

    Returns:
        `Path`: the checkpoint.
    """
    unfinished = Path(output_dir) / UNFINISHED
    source, target = unfinished / name, Path(output_dir) / name
    sizes = {path.relative_to(source).as_posix(): path.stat().st_size for path in _files(source)}
    manifest = {"written": time.time(), "files": dict(sorted(sizes.items()))}
    (source / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in _files(source):
        _sync(path)
    for folder in [*(path for path in source.rglob("*") if path.is_dir()), source]:
        _sync(folder)
    if target.exists():
        os.replace(target, unfinished / f"{_REPLACED}{name}")
    os.replace(source, target)
    _sync(Path(output_dir))
    remove_leftovers(output_dir)
    return target


def remove_leftovers(output_dir: str | Path) -> None:
    """Remove what a killed run was writing or removing. A checkpoint that it was replacing comes back."""
    unfinished = Path(output_dir) / UNFINISHED
    for replaced in unfinished.glob(f"{_REPLACED}*"):
        target = Path(output_dir) / replaced.name.removeprefix(_REPLACED)
        if not target.exists():
            os.replace(replaced, target)
    shutil.rmtree(unfinished, ignore_errors=True)


def remove_old_checkpoints(output_dir: str | Path, limit: int | None, protected: set[Path]) -> None:
    """Keep `limit` checkpoints; None or less than 1: all.

    Args:
        output_dir (`str` or `Path`): the folder of the checkpoints.
        limit (`int`, *optional*): as `save_total_limit`.
        protected (`set` of `Path`): never removed, though they count: the newest and the best.
    """
    checkpoints = checkpoints_by_age(output_dir)
    if limit is None or limit < 1:
        return
    removable = [path for path in checkpoints if path not in protected]
    # A damaged checkpoint is of less use than any other.
    removable.sort(key=lambda path: damage(path) is None)
    for checkpoint in removable[: max(len(checkpoints) - limit, 0)]:
        unfinished = Path(output_dir) / UNFINISHED
        unfinished.mkdir(exist_ok=True)
        # Renamed first: a run that is killed here leaves no half checkpoint.
        os.replace(checkpoint, unfinished / f"{_REMOVED}{checkpoint.name}")
    remove_leftovers(output_dir)


def checkpoints_by_age(output_dir: str | Path) -> list[Path]:
    """All checkpoints in a folder, the one that was written last at the end.

    A run that went back to an earlier checkpoint, or another run in the same folder, leaves higher numbers behind that
    are not the newest.
    """
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir()]
    numbered = [path for path in folders if _CHECKPOINT.fullmatch(path.name)]
    return sorted(numbered, key=lambda path: (_written(path), _step(path)))


def newest_complete_checkpoint(
    output_dir: str | Path, report: Callable[[str], Any], since: float = 0.0
) -> Path | None:
    """The last checkpoint that is not damaged; None when there is no checkpoint at all.

    Args:
        output_dir (`str` or `Path`): the folder of the checkpoints.
        report: called with one line for each damaged checkpoint that is skipped.
        since (`float`): checkpoints written before this time are another run's, and ignored.

    Raises:
        UserError: there are checkpoints, but all are damaged.
    """
    checkpoints = [path for path in checkpoints_by_age(output_dir) if _written(path) >= since]
    for checkpoint in reversed(checkpoints):
        found = damage(checkpoint)
        if found is None:
            return checkpoint
        report(f"The checkpoint {checkpoint} is damaged ({found}): skipping it for the one before.")
    if checkpoints:
        raise UserError(
            f"No checkpoint in {output_dir} is complete ({checkpoints[-1].name}: {damage(checkpoints[-1])}): restore "
            "one, or remove them to start from the beginning."
        )
    return None


def damage(checkpoint: str | Path) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None for a complete one."""
    folder = Path(checkpoint)
    manifest = _manifest(folder)
    if manifest is None:
        return f"{MANIFEST_NAME} is missing or unreadable"
    for name, size in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        return manifest if isinstance(manifest["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _written(folder: Path) -> float:
    manifest = _manifest(folder)
    return float(manifest["written"]) if manifest and "written" in manifest else folder.stat().st_mtime


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk. Not every file system can do that for a folder."""
    with contextlib.suppress(PermissionError) if path.is_dir() else contextlib.nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
