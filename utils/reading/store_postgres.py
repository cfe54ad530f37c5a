"""A processed store in PostgreSQL, for consumers of one group on several machines."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from loguru import logger

from utils.app.config import StoreUrl
from utils.app.errors import StoreUnavailable, ToolkitError
from utils.clients import postgres
from utils.reading.store_table import Row, StoreTable
from utils.records.table import Dialect

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

_COLUMNS = """SELECT column_name, data_type FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position"""


class PostgresDatabase:
    """The schema of a consumer group; what is not said here is as in SqliteDatabase.

    A lost connection is replaced at the next transaction.
    A text cannot contain U+0000: U+FFFD takes its place. A name that is longer than 63 bytes, or that PostgreSQL
    uses, has no column.
    """

    dialect: Dialect = "postgres"

    def __init__(self, url: StoreUrl, schema: str) -> None:
        if len(schema.encode()) > postgres.MOST_NAME_BYTES or schema.startswith("pg_") or not schema:
            raise ToolkitError(f"{schema!r} cannot name a schema of PostgreSQL: choose a shorter name for the group")
        self.place, self._url, self._schema = f"PostgreSQL at {url.place}, schema {schema}", url, schema
        self._connection: Connection[Any] | None = None
        self._has_page = self._has_changed = False
        self._outage = ""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.errors():
            connection = self._connected()
            connection.execute("BEGIN")
            try:
                yield
                connection.execute("COMMIT")
            finally:
                if connection.info.transaction_status:  # what went wrong is being raised
                    self._has_page = False
                    with suppress(postgres.library().Error):
                        connection.execute("ROLLBACK")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """The first reason of an outage is the reason until the database is there again: it is logged once."""
        try:
            with postgres.errors(self._url):
                yield
        except StoreUnavailable as error:
            if self._connection is not None and not self._connection.closed:
                raise
            self._connection, self._outage = None, self._outage or str(error)
            raise StoreUnavailable(self._outage) from None

    def _connected(self) -> "Connection[Any]":
        if self._connection is None or self._connection.closed:
            self._connection, self._has_page = None, False
            self._connection = postgres.connect(self._url, self._schema)
            self._outage = ""
        return self._connection

    def execute(self, statement: str, *values: Any) -> "Cursor[Any]":
        if not values:
            return self._connected().execute(statement.encode())
        return self._connected().execute(_with_marks(statement), tuple(map(_storable, values)))

    def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        with self._connected().cursor() as cursor:
            cursor.executemany(_with_marks(statement), [tuple(map(_storable, row)) for row in rows])

    def lock_tables(self) -> None:
        self.execute("SELECT pg_advisory_xact_lock(hashtext(current_schema()))")

    def columns(self, table: str) -> dict[str, str]:
        found = self.execute(_COLUMNS, table).fetchall()
        return dict(found)

    def takes(self, column: str) -> bool:
        return len(column.encode()) <= postgres.MOST_NAME_BYTES and column not in postgres.SYSTEM_COLUMNS

    def insert(self, table: StoreTable, rows: list[Row]) -> Sequence[int]:
        if any(type(value) is str and "\0" in value for row in rows for value in row):
            if not self._has_changed:
                logger.warning("{} cannot store U+0000: U+FFFD takes its place in texts", self.place)
            self._has_changed, rows = True, [tuple(map(_storable, row)) for row in rows]
        connection = self._connected()
        if not self._has_page:  # it lives as long as the connection
            connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS page (LIKE records) ON COMMIT DELETE ROWS")
            self._has_page = True
        with connection.cursor().copy(f"COPY page ({table.row}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)
        statement = f"INSERT INTO records ({table.row}) SELECT {table.row} FROM page ON CONFLICT DO NOTHING RETURNING "
        stored = connection.execute((statement + table.identity).encode()).fetchall()
        return range(len(rows)) if len(stored) == len(rows) else table.numbers_of(stored, rows)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _with_marks(statement: str) -> bytes:
    """psycopg's placeholders; names of a user's are not in a statement with values."""
    return statement.replace("%", "%%").replace("?", "%s").encode()


def _storable(value: Any) -> Any:
    return value.replace("\0", "\ufffd") if type(value) is str else value
