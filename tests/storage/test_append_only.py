"""A file that only grows."""

from __future__ import annotations

import sqlite3

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.storage.append_only import AppendOnlyFile


@pytest.fixture
def file(tmp_path):
    made = AppendOnlyFile(tmp_path / "new" / "file.sqlite", {"rows": "value INTEGER NOT NULL"})
    with made.transaction() as connection:
        connection.execute("INSERT INTO rows (value) VALUES (1)")
    return made


def values(path):
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT value FROM rows ORDER BY id").fetchall()
    connection.close()
    return [value for (value,) in found]


@pytest.mark.parametrize("statement", ["UPDATE rows SET value = 2", "DELETE FROM rows"])
def test_rows_are_neither_changed_nor_deleted(file, statement):
    with pytest.raises(UserError, match="rows are never changed"), file.transaction() as connection:
        connection.execute(statement)
    assert values(file.path) == [1]


def test_a_transaction_that_fails_leaves_nothing(file):
    def failing():
        with file.transaction() as connection:
            connection.execute("INSERT INTO rows (value) VALUES (2)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert values(file.path) == [1]


def test_a_file_is_opened_again_with_what_is_in_it(file):
    with AppendOnlyFile(file.path, {"rows": "value INTEGER NOT NULL"}).transaction() as connection:
        connection.execute("INSERT INTO rows (value) VALUES (3)")
    assert values(file.path) == [1, 3]
