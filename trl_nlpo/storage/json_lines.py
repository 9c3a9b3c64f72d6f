"""JSON Lines: a value a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    # Not `splitlines`: a text may hold a line separator of its own (U+2028, U+0085), which JSON does not escape.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
