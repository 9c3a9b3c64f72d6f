"""A SQLite file that only grows: rows are added, and the file itself refuses to change or delete one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import UserError, one_line


class AppendOnlyFile:
    """Tables to which rows are added, each transaction on disk when it is done. Several processes may use it at once.

    Args:
        path (`Path`): made with its folder if it is not there.
        tables (`Mapping[str, str]`): the columns of each table, as SQL has them.

    Raises:
        UserError: the file is no such file, or cannot be written.
    """

    def __init__(self, path: Path, tables: Mapping[str, str]):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.transaction() as connection:
            for name, columns in tables.items():
                connection.execute(f"CREATE TABLE IF NOT EXISTS {name} (id INTEGER PRIMARY KEY, {columns})")
                for change in ("UPDATE", "DELETE"):
                    connection.execute(
                        f"CREATE TRIGGER IF NOT EXISTS no_{change.lower()}_of_{name} BEFORE {change} ON {name} "
                        f"BEGIN SELECT RAISE(ABORT, '{name} are never changed'); END"
                    )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done inside, or nothing of it. Nobody else writes meanwhile.

        Raises:
            UserError: the file cannot be used, or refuses what was asked.
        """
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path} cannot be used: {one_line(error)}.") from error
