"""The SQLite file behind a journal: one process at a time, durable transactions, and whole when it is moved."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import portalocker

from utils.app.errors import ToolkitError
from utils.clients import sqlite
from utils.clients.files import check_one_name, file_id


class JournalFile:
    """The file, its lock, and one connection that the threads of a process share."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises ToolkitError if another process uses it or it cannot be used."""
        self.path = path
        self._mutex = threading.RLock()
        self._lock = _locked(path)
        try:
            check_one_name(path)
            self._connection = sqlite.connect(path, wait_s=5.0)
            self._opened = file_id(path)
        except ToolkitError as error:
            self._lock.release()
            raise ToolkitError(f"journal cannot be opened: {error}") from error

    def query(self, statement: str, *values: object) -> list[Any]:
        """All rows of a statement."""
        with self._mutex, sqlite.errors(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction. Raises ToolkitError if the path names another file by now."""
        with self._mutex, sqlite.errors(self.path):
            if file_id(self.path) != self._opened:
                # The log stays at the old name when the file is closed: without this the moved file would miss it.
                sqlite.checkpoint(self._connection)
                raise ToolkitError(f"journal {self.path} was deleted, moved or replaced while in use; start again")
            with sqlite.transaction(self._connection):
                yield self._connection

    def close(self) -> None:
        """Release file and lock; may be called twice."""
        with self._mutex:
            with suppress(sqlite3.Error):
                # Shrink the file after an outage has made it large and all of it was delivered.
                ((pages,),) = self._connection.execute("PRAGMA page_count").fetchall()
                ((free,),) = self._connection.execute("PRAGMA freelist_count").fetchall()
                if free > max(1000, pages // 2):
                    self._connection.execute("VACUUM")
            sqlite.close(self._connection, self.path, self._opened)
            self._lock.release()


def _locked(path: Path) -> portalocker.PidFileLock:
    """The lock of a journal. Raises ToolkitError naming the process that has it."""
    lock = portalocker.PidFileLock(path.with_suffix(".pid"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except portalocker.AlreadyLocked as error:
        user = lock.read_pid() or "unknown"
        in_use = f"journal {path} is in use by process {user}"
        raise ToolkitError(f"{in_use}: stop it first, or use another --data-dir") from error
    except OSError as error:
        raise ToolkitError(f"data folder cannot be used: {path.parent}: {error.strerror or error}") from error
    return lock
