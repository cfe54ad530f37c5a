"""Where a processed store is kept: a SQLite file, or PostgreSQL; the SQL is the same in both.

Statements are written with `?` for values. One that has values contains no names of a user's: they may contain `?`.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from utils.app.config import StoreUrl
from utils.app.errors import ToolkitError
from utils.clients import postgres, sqlite
from utils.records.table import Dialect, Table

WAIT_S = 5.0
ROWS_PER_STATEMENT, MAX_VALUES = 500, 32_766

Row = tuple[Any, ...]


def upsert(table: str, keys: str, values: str) -> str:
    """The statement that stores a row of `keys` and `values` (names with commas), or replaces its values."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in values.split(", "))
    marks = ", ".join("?" * len(f"{keys}, {values}".split(", ")))
    return f"INSERT INTO {table} ({keys}, {values}) VALUES ({marks}) ON CONFLICT ({keys}) DO UPDATE SET {changes}"


def one_of(values: Collection[Any]) -> str:
    """What a column is compared with `IN`; of no values at all, which PostgreSQL does not parse, it is none."""
    return f"({', '.join(['NULL', *'?' * len(values)])})"


def without_nul(values: Sequence[Any]) -> Row:
    """The values as PostgreSQL can store them."""
    return tuple(value.replace("\0", "\ufffd") if type(value) is str else value for value in values)


class SqliteDatabase(sqlite.Database):
    """A SQLite file. Raises Unavailable for what can heal, another ToolkitError for what the user must fix."""

    dialect: Dialect = "sqlite"
    lock_tables = "SELECT 1"  # whoever makes tables waits for others, as in every transaction here
    list_columns = "SELECT name, type FROM pragma_table_info(?)"

    def __init__(self, path: Path) -> None:
        super().__init__(path, wait_s=WAIT_S)
        self.place = str(path)

    def execute(self, statement: str, *values: Any) -> Any:
        """Execute one statement in a transaction; its cursor."""
        return self.connection.execute(statement, values)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        """Execute one statement for each row of values, in a transaction."""
        self.connection.executemany(statement, rows)

    def takes(self, column: str) -> bool:
        """Whether a column can have this name."""
        return True

    def storable(self, rows: list[Row]) -> list[Row]:
        """The rows as they can be stored: the same list if all of them can."""
        return rows

    def insert(self, table: Table, rows: Sequence[Row]) -> list[Row] | None:
        """Insert the rows whose ids are not there yet, in a transaction; None if all, else the ids of those."""
        ((last,),) = self.execute("SELECT COALESCE(MAX(rowid), 0) FROM records").fetchall()
        step, inserted = min(ROWS_PER_STATEMENT, MAX_VALUES // len(table.columns)), 0
        for start in range(0, len(rows), step):
            page = rows[start : start + step]
            statement = f"{table.insert(len(page))} ON CONFLICT DO NOTHING"
            inserted += self.execute(statement, *chain.from_iterable(page)).rowcount
        # RETURNING would take a sixth of the time of all.
        query = "SELECT producer_id, sequence FROM records WHERE rowid > ?"
        return None if inserted == len(rows) else self.execute(query, last).fetchall()


class PostgresDatabase:
    """The schema of a consumer group on several machines; what is not said here is as in SqliteDatabase.

    For one thread. A lost connection is replaced at the next transaction. A text cannot contain U+0000: U+FFFD takes
    its place. A name that is longer than 63 bytes, or that PostgreSQL uses, has no column.
    """

    dialect: Dialect = "postgres"
    lock_tables = "SELECT pg_advisory_xact_lock(hashtext(current_schema()))"
    list_columns = """SELECT column_name, data_type FROM information_schema.columns
        WHERE table_schema = current_schema() AND table_name = ?"""

    def __init__(self, url: StoreUrl, schema: str) -> None:
        if len(schema.encode()) > postgres.MOST_NAME_BYTES or schema.startswith("pg_") or not schema:
            raise ToolkitError(f"{schema!r} cannot name a schema of PostgreSQL: choose another name for the group")
        self.place, self._url, self._schema = f"PostgreSQL at {url.place}, schema {schema}", url, schema
        self._connection: Any = None

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The connection, and the errors of statements."""
        with postgres.errors(self._url):
            if self._connection is None or self._connection.closed:
                self._connection = postgres.connect(self._url, self._schema)
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._connected() as connection:
            connection.execute("BEGIN")
            try:
                yield
                connection.execute("COMMIT")
            finally:
                if connection.info.transaction_status:  # what went wrong is being raised
                    with suppress(postgres.library().Error):
                        connection.execute("ROLLBACK")

    def execute(self, statement: str, *values: Any) -> Any:
        marked = statement.replace("?", "%s") if values else statement
        return self._connection.execute(marked, values or None)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        self._connection.cursor().executemany(statement.replace("?", "%s"), rows)

    def query(self, statement: str, *values: Any) -> list[Row]:
        with self._connected():
            found: list[Row] = self.execute(statement, *values).fetchall()
            return found

    def takes(self, column: str) -> bool:
        return len(column.encode()) <= postgres.MOST_NAME_BYTES and column not in postgres.SYSTEM_COLUMNS

    def storable(self, rows: list[Row]) -> list[Row]:
        has_nul = b"\\u0000" in msgspec.json.encode(rows)  # the fastest way to see that almost no rows have it
        return list(map(without_nul, rows)) if has_nul else rows

    def insert(self, table: Table, rows: Sequence[Row]) -> list[Row] | None:
        self.execute("CREATE TEMPORARY TABLE IF NOT EXISTS page (LIKE records) ON COMMIT DELETE ROWS")
        with self._connection.cursor().copy(f"COPY page ({table.row}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        statement = f"INSERT INTO records ({table.row}) SELECT {table.row} FROM page ON CONFLICT DO NOTHING"
        inserted: list[Row] = self.execute(f"{statement} RETURNING producer_id, sequence").fetchall()
        return None if len(inserted) == len(rows) else inserted

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


Database = SqliteDatabase | PostgresDatabase


def make_tables(database: Database, *statements: str) -> None:
    """Make tables where they are missing, in a transaction; nobody else does meanwhile."""
    for statement in (database.lock_tables, *statements):
        database.execute(statement)
