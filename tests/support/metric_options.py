"""What a metric's name needs beside it where a test takes all names: stand-ins for WordNet, parsers and models."""

from __future__ import annotations

from typing import Any


def words_as_objects(text: str) -> list[tuple[str]]:
    """A stand-in for a scene-graph parser: every word is an object."""
    return [(word,) for word in text.lower().split()]


OPTIONS: dict[str, dict[str, Any]] = {
    "meteor": {"synonyms": False},
    "spice": {"parser": "support.metric_options.words_as_objects"},
}
