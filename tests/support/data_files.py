"""Data files of a test, and what is said about wrong ones."""

from __future__ import annotations

import json

import pytest

from trl_nlpo.data.splits import load_splits
from trl_nlpo.errors import UserError
from trl_nlpo.recipes.arguments import RecipeArguments


ROW = {"prompt": "dog ball", "references": ["A dog has a ball.", "The ball."], "concepts": ["dog", "ball"], "id": "x"}


def arguments(name, **keys):
    return RecipeArguments(rewards=["rougeL"], dataset_name=str(name), **keys)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def folder_of(tmp_path, row=None, prefix="", splits=("train", "validation", "test"), count=3):
    for split in splits:
        write_rows(tmp_path / f"{prefix}{split}.jsonl", [{**(row or ROW), "id": f"{split}-{n}"} for n in range(count)])
    return tmp_path


def mistake(*args, **keys):
    with pytest.raises(UserError) as caught:
        load_splits(arguments(*args, **keys))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_last_row(tmp_path, row, name="train"):
    """A folder whose split has the usual row twice, a blank line between, and then this one."""
    folder = folder_of(tmp_path)
    usual = {**ROW, "target": "Own."}
    (folder / f"{name}.jsonl").write_text("\n\n".join(json.dumps(row) for row in [usual, usual, {**usual, **row}]))
    return folder


def predictions(path, rows):
    """A file of predictions; returns its name."""
    write_rows(path, rows)
    return str(path)
