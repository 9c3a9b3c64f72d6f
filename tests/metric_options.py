"""What a metric's name needs beside it where a test takes all names: stand-ins for WordNet, parsers and models."""

from __future__ import annotations

from typing import Any


OPTIONS: dict[str, dict[str, Any]] = {
    "meteor": {"synonyms": False},
}
