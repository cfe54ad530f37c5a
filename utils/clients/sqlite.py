"""SQLite databases that are written durably, and the mapping of SQLite's errors."""

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

# For new files. Large batches take 0.7 of the time that they take with pages of 4 KiB.
PAGE_BYTES = 16_384
# Kept of the log beside a file. While another program reads in one transaction, it grows with every commit.
MAX_LOG_BYTES = 64 << 20

_FATAL = {"SQLITE_NOTADB": "is not a SQLite database", "SQLITE_CORRUPT": "is damaged"}


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Map SQLite's errors: Unavailable if the error can heal (locked, full, unwritable), else ToolkitError.

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
        can_heal = isinstance(error, sqlite3.OperationalError)
        is_denied = code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))
        remedy = " (it, the files beside it and its folder must be writable)" if is_denied else ""
        raise (Unavailable if can_heal else ToolkitError)(f"{path}: {error}{remedy}") from error


def columns(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """Return the declared types of a table by column, empty if there is no such table."""
    return dict(connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall())


class Database:
    """A database in WAL mode with durable transactions, on one connection that threads share."""

    def __init__(self, path: Path, *, wait_s: float = 1.0, replaced: type[ToolkitError] = ToolkitError) -> None:
        """Open the file; create it and its folder if missing. Statements wait up to `wait_s` for another writer.

        `replaced` is the error that `check` raises. Raises like `mapped_errors`.
        """
        self.path, self._replaced = path, replaced
        self._mutex = threading.RLock()
        files.check_one_name(path)
        with mapped_errors(path), files.mapped_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch()  # SQLite makes files that a group cannot write, whatever the umask
            self.connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
            try:
                self.connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
                self._use_wal(time.monotonic() + wait_s)
                self.connection.execute("PRAGMA synchronous=FULL")
                self.connection.execute(f"PRAGMA journal_size_limit={MAX_LOG_BYTES}")
                if sys.platform == "darwin":
                    self.connection.execute("PRAGMA fullfsync=ON")
                self._opened = files.file_id(path)
            except (sqlite3.Error, OSError, ToolkitError):
                self.connection.close()
                raise

    def _use_wal(self, deadline_s: float) -> None:
        """Switch to WAL mode. SQLite itself does not wait here for other processes that open the same new file."""
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline_s:
                    raise
            time.sleep(0.01)

    def query(self, statement: str, *values: object) -> list[Any]:
        """Run a statement and return all its rows. Raises like `mapped_errors`."""
        with self._mutex, mapped_errors(self.path):
            return self.connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run one durable transaction, if the path still names this file. Raises like `mapped_errors` and `check`."""
        with self._mutex, mapped_errors(self.path):
            self.check()
            # IMMEDIATE: a deferred transaction may fail at its first write, without waiting for another writer.
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")

    def check(self) -> None:
        """Raise `replaced` if the path now names another file; first write the log into the file that was moved.

        SQLite's log stays under the old name, so without it the moved file would miss the last commits.
        """
        if files.file_id(self.path) != self._opened:
            with suppress(sqlite3.Error):  # the file may be deleted
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            remedy = "" if issubclass(self._replaced, Unavailable) else ": start again"
            raise self._replaced(f"{self.path} was deleted, moved or replaced while in use{remedy}")

    def close(self) -> None:
        """Close the connection, once no other thread runs a statement. May be called twice."""
        with self._mutex:
            with suppress(ToolkitError):
                self.check()
            self.connection.close()
