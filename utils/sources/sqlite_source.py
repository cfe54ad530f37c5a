"""Reads the table `streamed_messages` of a SQLite database that others write."""

import os
import sqlite3
import stat
import sys
from collections.abc import Sequence

from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients.sqlite import errors
from utils.records.table import TABLE
from utils.sources.table_source import Row, TableSource, selected

WAIT_S = 0.25
CHUNK_BYTES = 8 * 1024 * 1024  # where messages are large, fewer than were asked for
_STEP_ROWS = 64
_UNNUMBERED = f"SELECT 1 FROM sqlite_master WHERE name = '{TABLE}' AND (type = 'view' OR sql LIKE '%WITHOUT ROWID%')"


class SqliteSource(TableSource):
    """Reads in single statements on a read-only connection, so that nobody is held up.

    The connection is renewed when the path names another file. Rows are read in the order of their
    rowid: one inserted below the position is not seen. It is called `_rowid_` here because others may
    have a column `rowid`.
    """

    name = "sqlite"
    _connection: sqlite3.Connection | None = None
    _opened = (0, 0)

    def fetch(self, first: int, count: int) -> Sequence[Row]:
        return self._query("WHERE _rowid_ >= ? ORDER BY _rowid_ LIMIT ?", (first, count))

    def fetch_last(self) -> Sequence[Row]:
        return self._query("ORDER BY _rowid_ DESC LIMIT 1", ())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _query(self, clause: str, values: tuple[int, ...]) -> Sequence[Row]:
        with errors(self._path):
            connection = self._connect()
            columns = {name: "" for _, name, *_ in connection.execute(f"PRAGMA table_info({TABLE})")}
            query = f"SELECT _rowid_, {selected(columns, self._path)} FROM {TABLE} {clause}"
            if connection.execute(_UNNUMBERED).fetchall():
                raise ToolkitError(f"{TABLE} in {self._path} has no row numbers to follow; name another file")
            try:
                return _fetched(connection.execute(query, values))
            except sqlite3.OperationalError as error:
                if "UTF-8" not in str(error):
                    self.close()
                    raise
            connection.text_factory = _text_or_bytes
            try:
                return _fetched(connection.execute(query, values))
            finally:
                connection.text_factory = str

    def _connect(self) -> sqlite3.Connection:
        """The connection to the file that the path names now."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError as error:
            self.close()
            raise Absent(f"{self._path} does not exist yet") from error
        except OSError as error:
            self.close()
            raise Unavailable(f"{self._path} cannot be read: {error.strerror}") from error
        if stat.S_ISDIR(status.st_mode):
            raise ToolkitError(f"{self._path} is a folder; give the path of a SQLite database")
        if self._connection is None or self._opened != (status.st_dev, status.st_ino):
            self.close()
            uri = f"{self._path.resolve().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=WAIT_S, check_same_thread=False)
            self._opened = status.st_dev, status.st_ino
        return self._connection


def _fetched(cursor: sqlite3.Cursor) -> list[Row]:
    """The rows, or as many of the first as make a chunk."""
    rows: list[Row] = []
    size = 0
    while size < CHUNK_BYTES and (step := cursor.fetchmany(_STEP_ROWS)):
        rows += step
        size += sum(sys.getsizeof(row[1]) for row in step)
    cursor.close()
    return rows


def _text_or_bytes(data: bytes) -> str | bytes:
    """Text that is no UTF-8 stays bytes, which makes its row invalid instead of failing the page."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
