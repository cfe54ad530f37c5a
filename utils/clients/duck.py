"""Opening DuckDB files for short windows, and telling errors that heal from errors that do not.

DuckDB lets one process write or many read, so whoever opens a file closes it again soon.

Files are attached with their type named. Without it, and in `duckdb.connect(path)`, DuckDB 2.0.1 reads the
headers to find the type before it locks the file, and then believes them: if another process checkpoints
in between, its rows are overwritten. Four to eight busy writers lost about one window in a thousand so.

A checkpoint writes blocks of metadata again in place: the parts that the last checkpoint needs stay as they are, only
the checksum in front changes. A kill or a power cut stops such a write between two pages, and DuckDB 2.0.1 rejects the
block, with all rows of the file, until its checksum is right again. Nor does it read a log in which a power cut left a
hole, though only the commits behind the last sync can have one. `_repaired` helps with both.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
from loguru import logger

from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients import files
from utils.clients.line_file import HOLE

_HEADER_BYTES = 3 * 4096
_RETRY_S = 0.01
# Closing the file writes the last row group again, whole: DuckDB's own 122,880 rows take 20 ms longer.
_ROW_GROUP_SIZE = 20_480
_STORAGE_VERSION = "v1.0.0"  # of new files: tools with any DuckDB 1.x open them
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    # A file of another kind must not make DuckDB fetch an extension from the internet.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # A table must not be taken for a variable of this program that has its name.
    "python_enable_replacements": False,
}
# DuckDB's own words, in English on every system.
_LOCKED = "Could not set lock"
_FATAL = ("not a valid DuckDB database", "version number")
_TORN = re.compile(
    r"(?:entry at byte position (\d+) )?"
    r"computed checksum (\d+) does not match stored checksum (\d+)(?: in block at location (\d+))?"
)


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
        text = str(error).splitlines()[0]
        if path.is_dir() or any(words in text for words in _FATAL):
            remedy = "move it away or name another file"
            raise ToolkitError(f"{path} cannot be opened as a DuckDB database ({text}); {remedy}") from error
        is_torn = _has_log(path) and _torn(text)
        hint = "; after a kill or a power cut the next producer repairs it" if is_torn else ""
        raise Unavailable(f"{path}: {text}{hint}") from error


_TABLES = """SELECT format('sink."{}"."{}"', replace(schema_name, '"', '""'), replace(table_name, '"', '""'))
FROM duckdb_tables() WHERE database_name = 'sink'"""
_HERE = "database_name = 'sink' AND schema_name = 'main' AND lower({}_name) = lower(?)"


def columns(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Column -> type of a table or view of the attached file, nothing if there is none."""
    query = f"SELECT column_name, data_type FROM duckdb_columns() WHERE {_HERE.format('table')}"
    return dict(connection.execute(query, [table]).fetchall())


def is_view(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether the attached file has a view of this name."""
    return bool(connection.execute(f"SELECT 1 FROM duckdb_views() WHERE {_HERE.format('view')}", [name]).fetchall())


def is_without_default(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> bool:
    """Whether a table of the attached file has a column of this name, in lower case, that does not fill itself."""
    query = f"SELECT 1 FROM duckdb_columns() WHERE {_HERE.format('table')}"
    query += " AND lower(column_name) = ? AND column_default IS NULL"
    return bool(connection.execute(query, [table, column]).fetchall())


def _half_created(path: Path) -> bool:
    """Whether the file is being created, or its creator was killed: it has no data and is no database yet.

    DuckDB syncs the three pages of headers before it writes more; until then a power cut may leave zeros for any.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES + 1)
    except OSError:
        return False
    first, *others = (start[page : page + 4096].strip(b"\0") for page in range(0, _HEADER_BYTES, 4096))
    is_whole = len(start) == _HEADER_BYTES and first and all(others)
    return len(start) <= _HEADER_BYTES and not is_whole and (not first or start[8:12] == b"DUCK")


def _attach(memory: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool, wait_s: float) -> None:
    """Attach the file as `sink`, once no other process (or this one, with another connection) has it."""
    name = str(path.absolute()).replace("'", "''")  # `:memory:` would be no file
    if name != name.encode(errors="replace").decode():
        raise ToolkitError(f"{name!r}: DuckDB takes names in UTF-8 only; use another one")
    if "?" in name and not read_only and os.name != "nt":  # it would look for its log elsewhere
        raise ToolkitError(f"{path}: DuckDB cannot write where a name has a ? in it; use another name")
    deadline_s = time.monotonic() + wait_s
    while True:
        how = "READ_ONLY" if read_only else f"ROW_GROUP_SIZE {_ROW_GROUP_SIZE}"
        if not read_only and not path.exists():
            how += f", STORAGE_VERSION '{_STORAGE_VERSION}'"
        is_late = time.monotonic() >= deadline_s
        is_left = not read_only and _has_log(path)  # by a writer that was killed, unless one is at work
        try:
            with errors(path):
                if is_left:
                    _read_metadata(memory, name)
                memory.execute(f"ATTACH '{name}' AS sink (TYPE duckdb, {how})")
            return
        except ToolkitError as error:
            if is_left and _repaired(path, str(error)):
                continue
            is_in_use = isinstance(error.__cause__, duckdb.ResourceInUseException) or _LOCKED in str(error)
            is_half_created = not is_in_use and _half_created(path)
            if is_half_created and is_late and read_only:
                raise Absent(f"{path} is empty, its database perhaps being created") from error
            if is_half_created and is_late:
                path.unlink(missing_ok=True)
            elif not is_half_created and (is_late or not isinstance(error, Unavailable)):
                raise
        time.sleep(_RETRY_S)


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _has_log(path: Path) -> bool:
    """Whether there are commits behind the last checkpoint, which closing the file makes."""
    with suppress(OSError):  # no log, or no longer
        return path.exists() and _log(path).stat().st_size > 0
    return False


def _read_metadata(memory: duckdb.DuckDBPyConnection, name: str) -> None:
    """Read all that a checkpoint may write in place, as attaching reads a part of it only."""
    memory.execute(f"ATTACH '{name}' AS sink (TYPE duckdb, READ_ONLY)")
    try:
        for table in memory.execute(_TABLES).fetchall():
            memory.execute("SELECT COUNT(*) FROM pragma_storage_info(?)", table).fetchall()
    finally:
        memory.execute("DETACH sink")


def _torn(error: str) -> list[int] | None:
    """Place in the log or 0, computed and stored checksum, place in the file or 0; None for what no kill leaves.

    A header is one page, which no kill leaves half written.
    """
    if not (found := _TORN.search(error)):
        return None
    entry, computed, stored, location = (int(number or 0) for number in found.groups())
    return [entry, computed, stored, location] if entry or location >= _HEADER_BYTES else None


def _repaired(path: Path, error: str) -> bool:
    """Whether `error` names a block that a killed writer left half written, or a hole in its log, which was repaired.

    The block gets the checksum of what it contains; the log ends before the hole. Only for a file with a log: without a
    kill a wrong checksum means damage.
    """
    if not (found := _torn(error)):
        return False
    entry, computed, stored, location = found
    name, place = (_log(path), entry - 8) if entry else (path, location)
    with files.errors(path), path.open("r+b") as file:
        if sys.platform != "win32":  # there nobody else has the file now that it is open for writing
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock that DuckDB takes
        if not _has_log(path):
            return False
        with name.open("r+b") as torn:
            torn.seek(place)
            # Else another process was faster; without a log it has written that very block to its end.
            is_torn = torn.read(8) == stored.to_bytes(8, "little")
            if not is_torn or (entry and not HOLE.search(torn.read())):
                return False
            if entry:
                torn.truncate(entry)
            else:
                torn.seek(place)
                torn.write(computed.to_bytes(8, "little"))
            torn.flush()
            files.sync(torn.fileno())
    logger.info("{}: repaired at {} what a kill or a power cut left half written", name, place)
    return True


@contextmanager
def attached(
    memory: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool = False, wait_s: float = 1.0
) -> Iterator[None]:
    """The file as database `sink` of a connection to memory while the block lasts. Raises like `errors`.

    Opens in 0.5 ms where a connection of its own takes 12. After any error close `memory`: its state is unknown.
    """
    _attach(memory, path, read_only=read_only, wait_s=wait_s)
    with errors(path):
        yield
        memory.execute("DETACH sink")
