"""Databases of processed stores: a SQLite file or PostgreSQL, with the same SQL and `?` for values."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from utils.app.config import StoreUrl
from utils.app.errors import ToolkitError
from utils.clients import postgres, sqlite

WAIT_S = 5.0
ROWS_PER_STATEMENT, PAGE = 500, 10_000

Row = tuple[Any, ...]


def upsert(table: str, keys: str, values: str) -> str:
    """Return a statement that inserts a row of `keys` and `values` (comma-separated columns) or updates its values."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in values.split(", "))
    marks = ", ".join("?" * len(f"{keys}, {values}".split(", ")))
    return f"INSERT INTO {table} ({keys}, {values}) VALUES ({marks}) ON CONFLICT ({keys}) DO UPDATE SET {changes}"


def one_of(values: Collection[Any]) -> str:
    """Return the right side of `IN` for these values. It has a NULL, as PostgreSQL cannot parse an empty list."""
    return f"({', '.join(['NULL', *'?' * len(values)])})"


class SqliteDatabase(sqlite.Database):
    """A SQLite file. Raises Unavailable for errors that can heal, another ToolkitError for what the user must fix."""

    lock_tables = "SELECT 1"  # nothing to do: the transaction itself locks the file

    def __init__(self, path: Path) -> None:
        super().__init__(path, wait_s=WAIT_S)
        self.place = str(path)

    def execute(self, statement: str, *values: Any) -> Any:
        """Execute one statement in an open transaction and return its cursor."""
        return self.connection.execute(statement, values)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        """Execute one statement for each row of values, in an open transaction."""
        self.connection.executemany(statement, rows)

    def insert(self, rows: Sequence[Row]) -> list[Row] | None:
        """Insert the records with new ids, in an open transaction. Return the inserted ids, or None if all were new."""
        ((last,),) = self.execute("SELECT COALESCE(MAX(rowid), 0) FROM records").fetchall()
        inserted = 0
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            page = rows[start : start + ROWS_PER_STATEMENT]
            marks = ", ".join([f"({', '.join('?' * len(page[0]))})"] * len(page))
            statement = f"INSERT INTO records VALUES {marks} ON CONFLICT DO NOTHING"
            inserted += self.execute(statement, *chain.from_iterable(page)).rowcount
        # Not RETURNING, which takes a sixth of the whole time.
        query = "SELECT producer_id, sequence FROM records WHERE rowid > ?"
        return None if inserted == len(rows) else self.execute(query, last).fetchall()

    def pages(self) -> Iterator[list[Row]]:
        """Yield pages of rows (key for `rename`, JSON of the record), in an open transaction."""
        last, query = 0, f"SELECT rowid, record FROM records WHERE rowid > ? ORDER BY rowid LIMIT {PAGE}"
        while page := self.execute(query, last).fetchall():
            yield page
            last = page[-1][0]

    def rename(self, rows: Sequence[Row]) -> None:
        """Update the records of rows (name, value, key from `pages`), in an open transaction."""
        self.execute_many("UPDATE records SET name = ?, value = ? WHERE rowid = ?", rows)


class PostgresDatabase:
    """A PostgreSQL schema, for a consumer group on several machines. See SqliteDatabase for the methods.

    For one thread. A lost connection is replaced at the next transaction.
    """

    lock_tables = "SELECT pg_advisory_xact_lock(hashtext(current_schema()))"

    def __init__(self, url: StoreUrl, schema: str) -> None:
        if len(schema.encode()) > postgres.MOST_NAME_BYTES or schema.startswith("pg_"):
            raise ToolkitError(f"{schema!r} cannot name a schema of PostgreSQL: choose another name for the group")
        self.place, self._url, self._schema = f"PostgreSQL at {url.place}, schema {schema}", url, schema
        self._connection: Any = None

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Connect if necessary, and map the errors of statements."""
        with postgres.mapped_errors(self._url):
            if self._connection is None or self._connection.closed:
                self._connection = postgres.connect(self._url, self._schema)
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._connected() as connection, connection.transaction():
            yield

    def execute(self, statement: str, *values: Any) -> Any:
        marked = statement.replace("?", "%s") if values else statement
        return self._connection.execute(marked, values or None)

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        self._connection.cursor().executemany(statement.replace("?", "%s"), rows)

    def query(self, statement: str, *values: Any) -> list[Row]:
        with self._connected():
            found: list[Row] = self.execute(statement, *values).fetchall()
            return found

    def insert(self, rows: Sequence[Row]) -> list[Row] | None:
        self.execute("CREATE TEMPORARY TABLE IF NOT EXISTS page (LIKE records) ON COMMIT DELETE ROWS")
        with self._connection.cursor().copy("COPY page FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        statement = "INSERT INTO records SELECT * FROM page ON CONFLICT DO NOTHING RETURNING producer_id, sequence"
        inserted: list[Row] = self.execute(statement).fetchall()
        return None if len(inserted) == len(rows) else inserted

    def pages(self) -> Iterator[list[Row]]:
        with self._connection.cursor("pages") as cursor:  # a server-side cursor does not see later changes
            cursor.execute("SELECT ctid, record FROM records")
            yield from iter(lambda: cursor.fetchmany(PAGE), [])

    def rename(self, rows: Sequence[Row]) -> None:
        self.execute_many("UPDATE records SET name = ?, value = ? WHERE ctid = ?", rows)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


Database = SqliteDatabase | PostgresDatabase


def make_tables(database: Database, *statements: str) -> None:
    """Create missing tables, in an open transaction, with a lock against other processes that do the same."""
    for statement in (database.lock_tables, *statements):
        database.execute(statement)
