"""Source of a stream's table in a SQLite database that other processes write."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients import sqlite
from utils.clients.files import file_id
from utils.clients.sqlite import mapped_errors
from utils.records.codec import Field
from utils.records.stream import Stream
from utils.records.table import quoted
from utils.sources.base import Resume
from utils.sources.table_source import NotUtf8, Row, TableSource, fetch_page

WAIT_S = 0.25
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
_UNNUMBERED = (
    "SELECT 1 FROM sqlite_master WHERE name = ? COLLATE NOCASE AND (type = 'view' OR sql LIKE '%WITHOUT ROWID%')"
)


class SqliteSource(TableSource):
    """Source that reads in single statements on a read-only connection, so that writers never wait.

    It connects again if the path names another file, or another log, because a copy was written over the file. Rows are
    read in the order of their rowid, so a row that is inserted before the position is not seen.
    """

    name = "sqlite"
    _connection: sqlite3.Connection | None = None
    _opened: list[tuple[int, int] | None] | None = None  # ids of the file and of its log's index (-shm)

    def fetch(self, first: int | None, count: int) -> tuple[Sequence[Field], Sequence[Row]]:
        table = self._table.name
        with mapped_errors(self._path):
            connection = self._connect()
            existing = sqlite.columns(connection, table)
            if not existing:
                raise self._missing(self.tables())
            taken = set(map(str.lower, existing))
            number = next((name for name in ("_rowid_", "rowid", "oid") if name not in taken), None)
            if number is None or connection.execute(_UNNUMBERED, (table,)).fetchall():
                raise self._unnumbered()
            columns, fields = zip(*self._columns(existing), strict=True)
            where = f"ORDER BY {number} DESC" if first is None else f"WHERE {number} >= {first} ORDER BY {number}"
            query = f"SELECT {number}, {', '.join(map(quoted, columns))} FROM {quoted(table)} {where} LIMIT {count}"
            for as_text in (str, _with_surrogates):
                connection.text_factory = as_text
                try:
                    return fields, fetch_page(connection.execute(query).fetchmany, count)
                except sqlite3.OperationalError as error:
                    if "UTF-8" not in str(error):
                        self.close()  # its state is unknown
                        raise
            raise AssertionError

    def tables(self) -> list[str]:
        with mapped_errors(self._path):
            return [name for (name,) in self._connect().execute(_TABLES)]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        """Return a connection to the file that the path names now."""
        found = [file_id(self._path), file_id(self._path.with_name(f"{self._path.name}-shm"))]
        if found != self._opened:
            self.close()
        if found[0] is None:
            raise Absent(f"{self._path} does not exist yet")
        if self._path.is_dir():
            raise ToolkitError(f"{self._path} is a folder; give the path of a SQLite database")
        if self._connection is None:
            self._connection, sees_changes = open_read_only(self._path)
            self._opened = found if sees_changes else None
        return self._connection


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> SqliteSource:
    """Make the source of the sink `sqlite`. See Sink."""
    return SqliteSource(settings.sqlite_path, stream, resume)


def database_uri(path: PurePath) -> str:
    """Return an absolute path as a URI for SQLite, which takes a Windows share for a part of the path, not a host."""
    uri = path.as_uri()
    return uri if uri.startswith("file:///") else uri.replace("file://", "file:////", 1)


def open_read_only(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open a connection that never writes. Return it, and whether it sees rows that are added later.

    A database in WAL mode needs files beside it. If this user may not write them, the database is read as it is now.
    Raises sqlite3.Error, or Unavailable if in this case there is a log to be read as well.
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
            raise Unavailable(f"{path} has a log, and its folder cannot be written: copy both to another folder")
    return sqlite3.connect(f"{uri}?immutable=1", uri=True, timeout=WAIT_S, check_same_thread=False), False


def _with_surrogates(data: bytes) -> str:
    """Decode a text. One that is not UTF-8 makes its row invalid, but does not fail the query."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return NotUtf8(data.decode("utf-8", "surrogateescape"))
