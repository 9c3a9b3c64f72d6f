"""Whether two grids ended alike: results, samples and weights of every cell, bit for bit."""

from __future__ import annotations

import hashlib
import json

from trl_nlpo.storage.json_lines import read_json_lines


_OF_TIME = ("seconds", "runtime", "per_second", "eps", "time")


def ends_of(folder):
    """By cell what a run leaves: metrics of its stages, samples, and hashes of all weights; nothing about time."""
    return {path.parent.relative_to(folder).as_posix(): _end(path.parent) for path in folder.glob("*/*/*/cell.json")}


def _end(cell):
    stages = json.loads((cell / "results.json").read_text())["stages"]
    weights = sorted(cell.glob("*.safetensors")) + sorted(cell.glob("supervised/*.safetensors"))
    return {
        "status": json.loads((cell / "cell.json").read_text()).get("status"),
        "stages": {stage: _timeless(metrics) for stage, metrics in stages.items()},
        "samples": (cell / "samples.jsonl").read_text(),
        "log": [_timeless(row) for _, row in read_json_lines(cell / "metrics.jsonl")],
        "weights": {
            path.relative_to(cell).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in weights
        },
    }


def _hash(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(metrics):
    return {key: value for key, value in metrics.items() if not key.endswith(_OF_TIME)}
