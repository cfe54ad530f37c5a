"""Where a processed store is kept: a SQLite file, or PostgreSQL; the SQL is the same in both.

Statements are written with `?` for values. One that has values contains no names of a user's: they may contain `?`.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from utils.app.errors import ToolkitError
from utils.clients import sqlite
from utils.clients.files import check_one_name, file_id
from utils.reading.store_postgres import PostgresDatabase
from utils.reading.store_table import Row, StoreTable
from utils.records.table import Dialect

WAIT_S = 5.0
ROWS_PER_STATEMENT, MAX_VALUES = 500, 32_766


class SqliteDatabase:
    """A SQLite file, which opening creates: one connection.

    Raises Unavailable for what can heal, another ToolkitError for what the user must fix.
    """

    dialect: Dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        check_one_name(path)
        self.place, self._path = str(path), path
        self._connection = sqlite.connect(path, wait_s=WAIT_S)
        self._opened = file_id(path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and durable at its end."""
        with self.errors(), sqlite.transaction(self._connection):
            if file_id(self._path) != self._opened:  # what is stored now would be gone with the file
                raise ToolkitError(f"processed store {self._path} was deleted, moved or replaced in use; start again")
            yield

    def errors(self) -> AbstractContextManager[None]:
        """What statements outside of a transaction need."""
        return sqlite.errors(self._path)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute one statement."""
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        """Execute one statement for each row of values."""
        self._connection.executemany(statement, rows)

    def lock_tables(self) -> None:
        """Keep others from making tables until the end of the transaction, which does that here."""

    def columns(self, table: str) -> dict[str, str]:
        """Column -> type of a table, nothing if there is none."""
        return sqlite.columns(self._connection, table)

    def takes(self, column: str) -> bool:
        """Whether a column can have this name."""
        return True

    def insert(self, table: StoreTable, rows: list[Row]) -> Sequence[int]:
        """Insert the rows that no unique index knows, in a transaction; the numbers of those, in order."""
        ((last,),) = self.execute("SELECT COALESCE(MAX(rowid), 0) FROM records").fetchall()
        step, inserted = max(1, min(ROWS_PER_STATEMENT, MAX_VALUES // len(table.columns))), 0
        for start in range(0, len(rows), step):
            page = rows[start : start + step]
            statement = f"{table.insert(len(page))} ON CONFLICT DO NOTHING"
            inserted += self.execute(statement, *chain.from_iterable(page)).rowcount
        if inserted == len(rows):
            return range(inserted)
        return table.numbers_of(self.execute(f"SELECT {table.identity} FROM records WHERE rowid > {last}"), rows)

    def close(self) -> None:
        """Release the file; one that was moved gets everything first, as its log stays at the old name."""
        sqlite.close(self._connection, self._path, self._opened)


Database = SqliteDatabase | PostgresDatabase
