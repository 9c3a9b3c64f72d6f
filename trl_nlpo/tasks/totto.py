"""ToTTo: a sentence that says what the highlighted cells of a table say (Parikh et al. 2020)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from .base import HubData, Portion, Row, Task


def rows(tables: Iterable[Row]) -> Iterator[Row]:
    """The highlighted cells with their headers, in ToTTo's tags; every annotator's final sentence is a reference."""
    for table in tables:
        references = [text for text in _sentences(table["sentence_annotations"]) if text]
        if references:
            yield {
                "prompt": linearized(
                    table["table_page_title"], table["table_section_title"], table["table"], table["highlighted_cells"]
                ),
                "references": references,
                "page_title": table["table_page_title"],
                "section_title": table["table_section_title"],
                "section_text": table.get("table_section_text") or "",
                "subset": _SUBSETS.get(str(table.get("overlap_subset")).lower()),
                "table": [[cell["value"] for cell in row] for row in table["table"]],
                "highlighted_cells": table["highlighted_cells"],
            }


_SUBSETS = {"true": "overlap", "false": "non_overlap"}
"""Whether header and table of a row occur in the train split; of train rows nobody says."""


def _sentences(annotations: Any) -> list[str]:
    """`datasets` turns a list of records into a record of lists."""
    if isinstance(annotations, dict):
        return list(annotations["final_sentence"])
    return [annotation["final_sentence"] for annotation in annotations]


def linearized(page_title: str, section_title: str, table: list[list[Any]], highlighted: list[list[int]]) -> str:
    """Titles and highlighted cells as text.

    Args:
        page_title, section_title (`str`)
        table: rows of cells: texts, or ToTTo's records with `value`, `is_header` and `column_span`.
        highlighted (`list[list[int]]`): row and column (its index in the row) of every highlighted cell.

    Example:
        >>> linearized("Ann", "Prizes", [["Year"], ["1901"]], [[1, 0]])
        '<page_title> Ann </page_title> <section_title> Prizes </section_title> <table> <cell> 1901 <col_header> Year </col_header> </cell> </table>'
    """  # noqa: E501
    grid = [[_cell(cell) for cell in row] for row in table]
    cells = []
    for row, column in highlighted:
        headers = "".join(f" <col_header> {header} </col_header>" for header in _column_headers(grid, row, column))
        cells.append(f"<cell> {grid[row][column]['value']}{headers} </cell>")
    return (
        f"<page_title> {page_title} </page_title> <section_title> {section_title} </section_title> "
        f"<table> {' '.join(cells)} </table>"
    )


def _cell(cell: Any) -> dict[str, Any]:
    return cell if isinstance(cell, dict) else {"value": cell, "is_header": False, "column_span": 1}


def _column_headers(grid: list[list[dict[str, Any]]], row: int, column: int) -> list[str]:
    """Values of the header cells above a cell; of a table of plain texts, the one in the first row."""
    first = _start(grid[row], column)
    last = first + grid[row][column].get("column_span", 1)
    headers = []
    for above in range(row):
        is_plain = above == 0 and not any(cell["is_header"] for line in grid for cell in line)
        for index, cell in enumerate(grid[above]):
            start = _start(grid[above], index)
            overlaps = start < last and first < start + cell.get("column_span", 1)
            if overlaps and (cell["is_header"] or is_plain) and cell["value"]:
                headers.append(cell["value"])
    return headers


def _start(line: list[dict[str, Any]], column: int) -> int:
    return sum(cell.get("column_span", 1) for cell in line[:column])


_FIRST = ("Ann", "Bob", "Carla", "David", "Eva", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo")
_LAST = ("Stone", "Miller", "Diaz", "Moss", "Hill", "Wood", "Brown", "King", "Reed", "Frost")
_FIELDS = {
    "Year": tuple(str(year) for year in range(1990, 2020)),
    "Team": ("Lions", "Hawks", "Bears", "Tigers", "Wolves"),
    "Goals": tuple(str(goals) for goals in range(2, 30)),
    "City": ("Oakville", "Riverton", "Lakeside", "Hillford"),
}


def miniature(rng: random.Random) -> Iterator[Row]:
    """Careers of players: a season is highlighted, with two of its columns."""
    while True:
        page = f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
        header = list(_FIELDS)
        table = [header] + [[rng.choice(_FIELDS[name]) for name in header] for _ in range(2)]
        row, shows_goals = rng.randrange(1, 3), rng.random() < 0.5
        year, team, goals, city = table[row]
        highlighted = [[row, 0], [row, 1], [row, 2 if shows_goals else 3]]
        what = f"scored {goals} goals for the {team}" if shows_goals else f"played for the {team} in {city}"
        yield {
            "prompt": linearized(page, "Career", table, highlighted),
            "references": [f"In {year}, {page} {what}.", f"{page} {what} in {year}."],
            "page_title": page,
            "section_title": "Career",
            "section_text": "",
            "subset": "overlap" if shows_goals else "non_overlap",
            "table": table,
            "highlighted_cells": highlighted,
        }


TASK = Task(
    name="totto",
    summary="A sentence that says what the highlighted cells of a table say.",
    # The test split's sentences are secret: half of the validation split takes its place.
    hub=HubData(
        "GEM/totto",
        {
            "train": Portion("train"),
            "validation": Portion("validation", 0, 0.5),
            "test": Portion("validation", 0.5, 1),
        },
        # By files: `datasets` would sort the folders challenge_train_sample, challenge_validation_sample and
        # challenge_test_scramble, which are beside these, into train, validation and test.
        {
            "revision": "7297c586f8e0ae0a0df7e69ca0e04f3efe73d576",
            "data_files": {split: f"totto/{split}/*.parquet" for split in ("train", "validation", "test")},
        },
        {"train": 120_761, "validation": 7_700},
    ),
    rows=rows,
    miniature=miniature,
    files="totto",
    response_length=50,
    rewards=("meteor",),
    # As ToTTo's own script: its variant of PARENT, BLEU in lower case, both of all rows and of each subset.
    metrics=(
        {"name": "parent", "totto": True, "by": "subset"}, {"name": "sacrebleu", "lowercase": True, "by": "subset"},
        "rouge", "meteor", {"name": "bertscore", "model": "FacebookAI/roberta-large", "layer": 17},
    ),
)  # fmt: skip
