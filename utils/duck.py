"""Opening DuckDB files for short windows, and telling errors that heal from errors that do not.

DuckDB lets one process write or many read, so whoever opens a file closes it again soon.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from utils.errors import ToolkitError, Unavailable

_HEADER_BYTES = 3 * 4096
# A file of another kind must not make DuckDB fetch an extension from the internet.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_FATAL = ("sqlite_scanner", "not a valid DuckDB database", "Is a directory", "version number")


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


def _half_created(path: Path) -> bool:
    """Whether the file is being created, or its creator was killed: it holds no data, but DuckDB refuses it."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError:
        return False
    return not start or (start[8:12] == b"DUCK" and len(start) < _HEADER_BYTES)


def connect(path: Path, *, read_only: bool = False, wait_s: float = 1.0) -> duckdb.DuckDBPyConnection:
    """Open connection; waits up to `wait_s` for other processes to close the file. Raises like `errors`."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            return duckdb.connect(str(path), read_only=read_only, config=CONFIG)
        except duckdb.IOException as error:
            locked = "lock" in str(error)
            half_created = not locked and _half_created(path)
            if not (locked or half_created) or (locked and time.monotonic() >= deadline_s):
                raise _mapped(path, error) from error
            if half_created and time.monotonic() >= deadline_s:
                if read_only:
                    raise Unavailable(f"{path} is being created") from error
                path.unlink(missing_ok=True)
        except duckdb.Error as error:
            raise _mapped(path, error) from error
        time.sleep(0.02)
