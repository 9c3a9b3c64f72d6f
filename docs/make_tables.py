"""Write the README's table of settings from the fields of `NLPOConfig`: `python docs/make_tables.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from trl_nlpo.config import NLPOConfig, described_fields


README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def settings_table() -> str:
    """A row per field: its name, its default, and the first sentence of its help."""
    rows = ["| field | default | meaning |", "|---|---|---|"]
    for item in described_fields(NLPOConfig):
        value = item.default
        default = json.dumps(value) if isinstance(value, str) else value
        rows.append(f"| `{item.name}` | `{default}` | {first_sentence(item.metadata['help'].replace('%%', '%'))} |")
    return "\n".join(rows) + "\n"


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, without it."""
    return re.split(r"\.(?:\s|$)", text, maxsplit=1)[0]


def with_table(text: str) -> str:
    """The README's text with a fresh table between the two comments."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{settings_table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
