"""Opening SQLite files for durable writing, and telling errors that heal from errors that do not."""

import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils.app.errors import ToolkitError, Unavailable
from utils.clients import files

# For new files. Batches and rows in bulk go in 0.7 of the time that pages of 4 KiB take.
PAGE_BYTES = 16_384

_FATAL = {"SQLITE_NOTADB": "is not a SQLite database", "SQLITE_CORRUPT": "is damaged"}


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Map SQLite's errors: Unavailable for what can heal (locked, full, unwritable), else ToolkitError.

    IntegrityError passes through: only the caller knows what a conflict means.
    """
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "").removesuffix("_VTAB")
        if code in _FATAL:
            raise ToolkitError(f"{path} {_FATAL[code]}; move it away or name another file") from error
        if isinstance(error, sqlite3.OperationalError):
            raise Unavailable(f"{path}: {error}") from error
        raise ToolkitError(f"{path}: {error}") from error


def connect(path: Path, *, wait_s: float = 1.0) -> sqlite3.Connection:
    """Connection in autocommit mode to a WAL database whose commits are durable; creates file and folder.

    `wait_s` is how long a statement waits for another writer. Raises like `errors`.
    """
    with errors(path), files.errors(path.parent):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{path.parent} cannot be used as a folder: {error.strerror}") from error
        connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
            _use_wal(connection, wait_s)
            connection.execute("PRAGMA synchronous=FULL")
            if sys.platform == "darwin":
                connection.execute("PRAGMA fullfsync=ON")
            files.sync_path(path.parent)  # the names of new files
        except (sqlite3.Error, OSError):
            connection.close()
            raise
    return connection


def _use_wal(connection: sqlite3.Connection, wait_s: float) -> None:
    """Turn on WAL; SQLite itself does not wait here when several processes open a new file at once."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline_s:
                raise
        time.sleep(0.01)


def columns(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """Column -> declared type of a table, nothing if there is none."""
    rows = connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,))
    return dict(rows.fetchall())


def is_lasting(error: BaseException | None) -> bool:
    """Whether an error tells that a table is not what it should be: no waiting heals that."""
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname == "SQLITE_ERROR"


def checkpoint(connection: sqlite3.Connection) -> None:
    """Bring everything into the database file itself, before a file that was moved is closed.

    SQLite leaves the log at the name that the file was opened by. A file that was deleted is of no interest.
    """
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def close(connection: sqlite3.Connection, path: Path, opened: tuple[int, int] | None) -> None:
    """Close a connection; a file that was moved since it was `opened` gets everything first."""
    with suppress(Unavailable, sqlite3.Error):
        if files.file_id(path) != opened:
            checkpoint(connection)
    connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One IMMEDIATE transaction: a deferred one fails at once, whatever the timeout, when it turns into a write."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class Database:
    """A SQLite file that this process writes: one connection, which its threads share."""

    def __init__(self, path: Path, *, wait_s: float = 1.0) -> None:
        """Open or create it. Raises like `errors`, and ToolkitError if the file has several names."""
        files.check_one_name(path)
        self.path = path
        self._mutex = threading.RLock()
        self._connection = connect(path, wait_s=wait_s)
        self._opened = files.file_id(path)

    def query(self, statement: str, *values: object) -> list[Any]:
        """All rows of a statement. Raises like `errors`."""
        with self._mutex, errors(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction. Raises like `errors`, and ToolkitError if the path names another file by now."""
        with self._mutex, errors(self.path):
            if files.file_id(self.path) != self._opened:
                checkpoint(self._connection)
                raise ToolkitError(f"{self.path} was deleted, moved or replaced while in use; start again")
            with transaction(self._connection):
                yield self._connection

    def close(self) -> None:
        """Release the file; one that was moved gets everything first. May be called twice."""
        close(self._connection, self.path, self._opened)
