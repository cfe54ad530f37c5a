"""Reads a stream's table in a SQLite database that others write."""

import os
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Literal

import msgspec

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients import sqlite
from utils.clients.sqlite import errors
from utils.records.stream import Stream
from utils.records.table import quoted
from utils.sources.base import Resume
from utils.sources.table_source import Row, Selection, TableSource

WAIT_S = 0.25
CHUNK_BYTES = 8 * 1024 * 1024  # where records are large, fewer than were asked for
_STEP_ROWS = 64
_UNNUMBERED = (
    "SELECT 1 FROM sqlite_master WHERE name = ? COLLATE NOCASE AND (type = 'view' OR sql LIKE '%WITHOUT ROWID%')"
)


class SqliteSource(TableSource):
    """Reads in single statements on a read-only connection, so that nobody is held up.

    The connection is renewed when the path names another file. Rows are read in the order of their
    rowid: one inserted below the position is not seen.
    """

    name = "sqlite"
    booleans = Literal[0, 1] | None
    _connection: sqlite3.Connection | None = None
    _opened = (0, 0)

    def fetch(self, first: int, count: int) -> Sequence[Row]:
        return self._query("WHERE {0} >= ? ORDER BY {0} LIMIT ?", (first, count))

    def fetch_last(self) -> Sequence[Row]:
        return self._query("ORDER BY {0} DESC LIMIT 1", ())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _query(self, clause: str, values: tuple[int, ...]) -> Sequence[Row]:
        table = self._table.name
        with errors(self._path):
            connection = self._connect()
            existing = sqlite.columns(connection, table)
            if not existing:
                raise Absent(f"{self._path} has no table {table} yet")
            taken = set(map(str.lower, existing))
            number = next((name for name in ("_rowid_", "rowid", "oid") if name not in taken), None)
            if number is None or connection.execute(_UNNUMBERED, (table,)).fetchall():
                raise ToolkitError(f"{table} in {self._path} has no row numbers to follow; name another file")
            selection = Selection(self._table, existing)
            self.others = selection.others
            query = f"SELECT {number}, {selection.sql} FROM {quoted(table)} {clause.format(number)}"
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
            self._connection, follows = open_read_only(self._path)
            self._opened = (status.st_dev, status.st_ino) if follows else (0, 0)
        return self._connection


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> SqliteSource:
    """The source of the sink `sqlite`. See Sink."""
    return SqliteSource(settings.sqlite_path, stream, resume)


def database_uri(path: PurePath) -> str:
    """The absolute path as SQLite takes it: a Windows share is part of the path there and no host."""
    uri = path.as_uri()
    return uri if uri.startswith("file:///") else uri.replace("file://", "file:////", 1)


def open_read_only(path: Path) -> tuple[sqlite3.Connection, bool]:
    """A connection that never writes, and whether it sees what is added later.

    A database in WAL mode needs files beside it. Where this user may not write them it is read as it is now.
    Raises sqlite3.Error, or Unavailable if a log would have to be read as well.
    """
    uri = database_uri(path.resolve())
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=WAIT_S, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        return connection, True
    except sqlite3.Error as error:
        connection.close()
        kind = getattr(error, "sqlite_errorname", "")
        if not kind.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")) or os.access(path.parent, os.W_OK):
            raise
    with suppress(FileNotFoundError):
        if path.with_name(f"{path.name}-wal").stat().st_size:
            raise Unavailable(f"{path} has a log that cannot be read where nobody may write: copy both files elsewhere")
    return sqlite3.connect(f"{uri}?immutable=1", uri=True, timeout=WAIT_S, check_same_thread=False), False


def _fetched(cursor: sqlite3.Cursor) -> list[Row]:
    """The rows, or as many of the first as make a chunk."""
    rows: list[Row] = []
    size = 0
    while size < CHUNK_BYTES and (step := cursor.fetchmany(_STEP_ROWS)):
        rows += step
        size += len(msgspec.msgpack.encode(step))  # a twentieth of the time that a sum over all values takes
    cursor.close()
    return rows


def _text_or_bytes(data: bytes) -> str | bytes:
    """Text that is no UTF-8 stays bytes, which makes its row invalid instead of failing the page."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
