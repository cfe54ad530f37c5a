"""Opening DuckDB files for short windows, and telling errors that heal from errors that do not.

DuckDB lets one process write or many read, so whoever opens a file closes it again soon.

Files are attached with their type named. Without it, and in `duckdb.connect(path)`, DuckDB 2.0.1 reads the
headers to find the type before it locks the file, and then believes them: if another process checkpoints
in between, its rows are overwritten. Four to eight busy writers lost about one window in a thousand so.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from utils.app.errors import Absent, ToolkitError, Unavailable

_HEADER_BYTES = 3 * 4096
_RETRY_S = 0.01
# Closing the file writes the last row group again, whole: DuckDB's own 122,880 rows take 20 ms longer.
_ROW_GROUP_SIZE = 40_960
_STORAGE_VERSION = "v1.0.0"  # of new files: tools with any DuckDB 1.x open them, and it costs nothing
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    # A file of another kind must not make DuckDB fetch an extension from the internet.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
# Another process, on Windows another process, this process.
_BUSY = ("Could not set lock", "being used by another process", "file handle conflict")
_FATAL = ("not a valid DuckDB database", "Is a directory", "version number")


def _mapped(path: Path, error: duckdb.Error) -> ToolkitError:
    text = str(error).splitlines()[0]
    if any(words in text for words in _FATAL):
        return ToolkitError(f"{path} cannot be opened as a DuckDB database ({text}); move it away or name another file")
    return Unavailable(f"{path}: {text}")


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Map DuckDB's errors: ToolkitError for what is no database, else Unavailable (locked, full, unwritable).

    ConversionException and ConstraintException pass through: only the caller knows which row they mean.
    """
    try:
        yield
    except (duckdb.ConversionException, duckdb.ConstraintException):
        raise
    except duckdb.Error as error:
        raise _mapped(path, error) from error


def columns(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Column -> type of a table of the attached file, nothing if there is none."""
    query = "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = 'sink' AND table_name = ?"
    return dict(connection.execute(query, [table]).fetchall())


def has_default(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> bool:
    """Whether a column of the attached file fills itself."""
    query = (
        "SELECT column_default IS NOT NULL FROM duckdb_columns() "
        "WHERE database_name = 'sink' AND table_name = ? AND column_name = ?"
    )
    return connection.execute(query, [table, column]).fetchall() == [(True,)]


def _half_created(path: Path) -> bool:
    """Whether the file is being created, or its creator was killed: it holds no data, but DuckDB refuses it."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError:
        return False
    return not start or (start[8:12] == b"DUCK" and len(start) < _HEADER_BYTES)


def _once_free(attempt: Callable[[], object], path: Path, *, read_only: bool, wait_s: float) -> None:
    """Make the `attempt` until no other process (or this one, with another connection) has the file."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            attempt()
            return
        except duckdb.Error as error:
            busy = any(words in str(error) for words in _BUSY)
            half_created = not busy and isinstance(error, duckdb.IOException) and _half_created(path)
            late = time.monotonic() >= deadline_s
            if not (busy or half_created) or (busy and late):
                raise _mapped(path, error) from error
            if half_created and late:
                if read_only:
                    raise Absent(f"{path} is empty, its database perhaps being created") from error
                path.unlink(missing_ok=True)
        time.sleep(_RETRY_S)


def _attach(memory: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool, wait_s: float) -> None:
    if "?" in str(path.parent) and not read_only and os.name != "nt":  # it would look for its log elsewhere
        raise ToolkitError(f"{path}: DuckDB cannot write in a folder with a ? in its name; use another --data-dir")
    quoted = str(path).replace("'", "''")
    how = "READ_ONLY" if read_only else f"ROW_GROUP_SIZE {_ROW_GROUP_SIZE}"
    if not read_only and not path.exists():
        how += f", STORAGE_VERSION '{_STORAGE_VERSION}'"
    attach = f"ATTACH '{quoted}' AS sink (TYPE duckdb, {how})"
    _once_free(lambda: memory.execute(attach), path, read_only=read_only, wait_s=wait_s)
    with errors(path):
        memory.execute("USE sink")


def connect(path: Path, *, read_only: bool = False, wait_s: float = 1.0) -> duckdb.DuckDBPyConnection:
    """Connection with the file as its default database; waits up to `wait_s` for other processes to close it.

    Raises like `errors`.
    """
    connection = duckdb.connect(config=CONFIG)
    try:
        _attach(connection, path, read_only=read_only, wait_s=wait_s)
    except ToolkitError:
        connection.close()
        raise
    return connection


@contextmanager
def attached(
    memory: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool = False, wait_s: float = 1.0
) -> Iterator[None]:
    """The file as database `sink`, and the default one, of a connection to memory while the block lasts.

    Opens in 0.5 ms where a connection of its own takes 12. After an error of DuckDB close `memory`: nobody
    knows what state it is in. Raises like `errors`.
    """
    _attach(memory, path, read_only=read_only, wait_s=wait_s)
    with errors(path):
        try:
            yield
        except ToolkitError:  # ours, so the connection is as it should be
            _detach(memory)
            raise
        _detach(memory)


def _detach(memory: duckdb.DuckDBPyConnection) -> None:
    memory.execute("USE memory")
    memory.execute("DETACH sink")
