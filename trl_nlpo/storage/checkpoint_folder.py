"""Checkpoints as folders: complete or absent, checked for damage, and removed when there are enough newer ones.

A checkpoint is written under `_unfinished/` and renamed once it is on disk, so that a folder `checkpoint-N` was
complete when it got its name. Its manifest holds the size and CRC-32 of every file, so that what was lost or changed
since is noticed; the run that wrote it, as a run removes and replaces its own checkpoints only; and a number that
counts the checkpoints of the folder, as clocks can go backwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from .files import UNFINISHED


MANIFEST_NAME = "manifest.json"

EARLIER = "_earlier"
"""Folder for checkpoints of other runs that were in the way, by run. Uploads to the Hub leave it out."""

_REPLACED = "replaced-"
_REMOVED = "removed-"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_BLOCK = 1 << 20


def publish_checkpoint(output_dir: str | Path, name: str, run: str = "") -> Path:
    """Give `_unfinished/<name>` its manifest and its place in `output_dir`, in one step that a crash cannot halve.

    Args:
        output_dir (`str` or `Path`): the folder of the checkpoints.
        name (`str`): such as `"checkpoint-8"`; an existing one of that name is replaced once the new one is complete.
            If another run wrote it, it is moved into `_earlier/<run>/`.
        run (`str`): the run that writes it.

    Returns:
        `Path`: the checkpoint.
    """
    unfinished = Path(output_dir) / UNFINISHED
    source, target = unfinished / name, Path(output_dir) / name
    _write_manifest(source, run, 1 + max(map(_number, checkpoints_by_age(output_dir)), default=0))
    for folder in [*(path for path in source.rglob("*") if path.is_dir()), source]:
        _sync(folder)
    if target.exists():
        if run_of(target) == run:
            os.replace(target, unfinished / f"{_REPLACED}{name}")
        else:
            _move_aside(target)
    os.replace(source, target)
    _sync(Path(output_dir))
    remove_leftovers(output_dir)
    return target


def _write_manifest(folder: Path, run: str, number: int) -> None:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(_files(folder))}
    manifest = {
        "written": time.time(),
        "run": run,
        "number": number,
        "files": {name: path.stat().st_size for name, path in files.items()},
        "crc32": {name: _checksum(path) for name, path in files.items()},
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in _files(folder):
        _sync(path)


def _move_aside(checkpoint: Path) -> None:
    """Keep a checkpoint of another run where it is in nobody's way."""
    place = checkpoint.parent / EARLIER / (run_of(checkpoint) or "unknown")
    number = 1
    while (place / checkpoint.name).exists():
        number += 1
        place = place.with_name(f"{place.name.partition('.')[0]}.{number}")
    place.mkdir(parents=True, exist_ok=True)
    os.replace(checkpoint, place / checkpoint.name)


def remove_leftovers(output_dir: str | Path) -> None:
    """Remove what a killed run was writing or removing. A checkpoint that it was replacing comes back."""
    unfinished = Path(output_dir) / UNFINISHED
    for replaced in unfinished.glob(f"{_REPLACED}*"):
        target = Path(output_dir) / replaced.name.removeprefix(_REPLACED)
        if not target.exists():
            os.replace(replaced, target)
    shutil.rmtree(unfinished, ignore_errors=True)


def remove_old_checkpoints(
    output_dir: str | Path,
    limit: int | None,
    protected: set[Path],
    run: str = "",
    report: Callable[[str], Any] = print,
) -> None:
    """Keep `limit` checkpoints of a run; None or less than 1: all. Those of other runs neither count nor go.

    Args:
        output_dir (`str` or `Path`): the folder of the checkpoints.
        limit (`int`, *optional*): as `save_total_limit`.
        protected (`set` of `Path`): never removed, though they count: the newest and the best.
        run (`str`): the run whose checkpoints they are.
        report: called with one line for each checkpoint that cannot be removed.
    """
    if limit is None or limit < 1:
        return
    checkpoints = [path for path in checkpoints_by_age(output_dir) if run_of(path) == run]
    kept = {path.resolve() for path in protected}
    removable = [path for path in checkpoints if path.resolve() not in kept]
    # A damaged checkpoint is of less use than any other.
    removable.sort(key=lambda path: damage(path, read_all=False) is None)
    for checkpoint in removable[: max(len(checkpoints) - limit, 0)]:
        unfinished = Path(output_dir) / UNFINISHED
        try:
            unfinished.mkdir(exist_ok=True)
            # Renamed first: a run that is killed here leaves no half checkpoint.
            os.replace(checkpoint, unfinished / f"{_REMOVED}{checkpoint.name}")
        except OSError as error:
            report(f"The old checkpoint {checkpoint} cannot be removed ({error.strerror or one_line(error)}).")
    remove_leftovers(output_dir)
    if (Path(output_dir) / UNFINISHED).exists():
        report(f"What is left of old checkpoints in {Path(output_dir) / UNFINISHED} cannot be removed.")


def checkpoints_by_age(output_dir: str | Path) -> list[Path]:
    """All checkpoints in a folder, the one that was written last at the end, by the count in their manifests.

    A run that went back to an earlier checkpoint, or another run in the same folder, leaves higher numbers behind that
    are not the newest. Those of earlier versions, which did not count, come first and are ordered by their time; those
    whose manifest cannot be read come last, so that nobody overlooks them.
    """
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir()]
    numbered = [path for path in folders if _CHECKPOINT.fullmatch(path.name)]
    return sorted(numbered, key=_age)


def newest_complete_checkpoint(
    output_dir: str | Path, report: Callable[[str], Any], run: str | None = None
) -> Path | None:
    """The last checkpoint that is not damaged; None when there is no checkpoint at all.

    Args:
        output_dir (`str` or `Path`): the folder of the checkpoints.
        report: called with one line for each damaged checkpoint that is skipped.
        run (`str`, *optional*): look at this run's only. One without a readable manifest may be anybody's.

    Raises:
        UserError: there are checkpoints, but all are damaged.
    """
    checkpoints = checkpoints_by_age(output_dir)
    if run is not None:
        checkpoints = [path for path in checkpoints if run_of(path) in (run, None)]
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


def damage(checkpoint: str | Path, read_all: bool = True) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None for a complete one.

    Args:
        checkpoint (`str` or `Path`)
        read_all (`bool`): also compare checksums, for which every file is read. Earlier versions recorded none.
    """
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
    return _changed(folder, manifest.get("crc32", {})) if read_all else None


def _changed(folder: Path, checksums: dict[str, str]) -> str | None:
    try:
        changed = next((name for name, wanted in checksums.items() if _checksum(folder / name) != wanted), None)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror or one_line(error)})"
    return None if changed is None else f"{changed} has changed since it was written"


def run_of(checkpoint: str | Path) -> str | None:
    """The run that wrote a checkpoint; empty for one of earlier versions, None where its manifest cannot be read."""
    manifest = _manifest(Path(checkpoint))
    return None if manifest is None else str(manifest.get("run", ""))


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        return manifest if isinstance(manifest["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _written(folder: Path) -> float:
    manifest = _manifest(folder)
    return float(manifest["written"]) if manifest and "written" in manifest else folder.stat().st_mtime


def _age(folder: Path) -> tuple[bool, int, float, int]:
    return _manifest(folder) is None, _number(folder), _written(folder), _step(folder)


def _number(folder: Path) -> int:
    number = (_manifest(folder) or {}).get("number")
    return number if isinstance(number, int) else 0


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


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
