"""SQLite files for durable writing, and telling errors that heal from errors that do not."""

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
        can_heal = isinstance(error, sqlite3.OperationalError)
        remedy = " (it and its folder must be writable)" if code.startswith("SQLITE_CANTOPEN") else ""
        raise (Unavailable if can_heal else ToolkitError)(f"{path}: {error}{remedy}") from error


def columns(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """Column -> declared type of a table, nothing if there is none."""
    return dict(connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall())


class Database:
    """A file in WAL mode that this process writes: one connection, which threads share, and durable transactions."""

    def __init__(self, path: Path, *, wait_s: float = 1.0, replaced: type[ToolkitError] = ToolkitError) -> None:
        """Open the file, which is created with its folder; statements wait up to `wait_s` for another writer.

        `replaced` is raised if the path names another file later. Raises like `errors`.
        """
        self.path, self._replaced = path, replaced
        self._mutex = threading.RLock()
        files.check_one_name(path)
        with errors(path), files.errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
            try:
                self.connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
                self._use_wal(time.monotonic() + wait_s)
                self.connection.execute("PRAGMA synchronous=FULL")
                if sys.platform == "darwin":
                    self.connection.execute("PRAGMA fullfsync=ON")
                files.sync_path(path.parent)  # the names of new files
                self._opened = files.file_id(path)
            except (sqlite3.Error, OSError, ToolkitError):
                self.connection.close()
                raise

    def _use_wal(self, deadline_s: float) -> None:
        """SQLite itself does not wait here for whoever writes, as when several processes open a new file at once."""
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline_s:
                    raise
            time.sleep(0.01)

    def query(self, statement: str, *values: object) -> list[Any]:
        """All rows of a statement. Raises like `errors`."""
        with self._mutex, errors(self.path):
            return self.connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction on the file that the path names. Raises like `errors`, and like `check`."""
        with self._mutex, errors(self.path):
            self.check()
            # IMMEDIATE: a deferred one fails at once, whatever the timeout, when it turns into a write.
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")

    def check(self) -> None:
        """Raise `replaced` if the path names another file by now; the one that was moved then has everything.

        SQLite leaves the log at the name that the file was opened by.
        """
        if files.file_id(self.path) != self._opened:
            with suppress(sqlite3.Error):  # of a file that was deleted
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            remedy = "" if issubclass(self._replaced, Unavailable) else ": start again"
            raise self._replaced(f"{self.path} was deleted, moved or replaced while in use{remedy}")

    def close(self) -> None:
        """Release the file, once no other thread is in a statement. May be called twice."""
        with self._mutex:
            with suppress(ToolkitError):
                self.check()
            self.connection.close()
