"""DuckDB files: opening them for short windows, mapping errors, and repairing what a killed writer left.

One process may write a DuckDB file, or many may read it. So a file is opened only for a moment.

ATTACH names the type `duckdb`. Without it, and in `duckdb.connect(path)`, DuckDB 2.0.1 reads the headers to detect
the type before it locks the file, and relies on them afterwards. If another process makes a checkpoint in between, its
rows are overwritten: four to eight busy writers lost about one window in a thousand.

A checkpoint rewrites metadata blocks in place. What the previous checkpoint needs in them stays the same; only the
checksum at the front changes. If a kill or a power cut stops the write between two pages, DuckDB 2.0.1 rejects the
block, and with it the file, until the checksum is corrected. It also rejects a log with a hole, which a power cut can
leave in commits after the last sync. `_repaired` corrects both.
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
# Closing the file rewrites its last row group. With DuckDB's default of 122,880 rows that takes 20 ms longer.
_ROW_GROUP_SIZE = 20_480
_STORAGE_VERSION = "v1.0.0"  # of new files: tools with any DuckDB 1.x open them
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    # A file of another kind must not make DuckDB fetch an extension from the internet.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # A name in a statement must mean a table, and never a Python variable.
    "python_enable_replacements": False,
}
# Parts of DuckDB's messages, which are in English on every system.
_LOCKED = "Could not set lock"
_FATAL = ("not a valid DuckDB database", "version number")
_TORN = re.compile(
    r"(?:entry at byte position (\d+) )?"
    r"computed checksum (\d+) does not match stored checksum (\d+)(?: in block at location (\d+))?"
)


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Map DuckDB's errors: ToolkitError if the file is no database, else Unavailable (locked, full, unwritable).

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
    """Return the types of a table or view by column, empty if the attached file does not have it."""
    query = f"SELECT column_name, data_type FROM duckdb_columns() WHERE {_HERE.format('table')}"
    return dict(connection.execute(query, [table]).fetchall())


def is_view(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Return whether the attached file has a view of this name."""
    return bool(connection.execute(f"SELECT 1 FROM duckdb_views() WHERE {_HERE.format('view')}", [name]).fetchall())


def is_without_default(connection: duckdb.DuckDBPyConnection, table: str, column: str) -> bool:
    """Return whether a table of the attached file has the column (in lower case), and it has no default."""
    query = f"SELECT 1 FROM duckdb_columns() WHERE {_HERE.format('table')}"
    query += " AND lower(column_name) = ? AND column_default IS NULL"
    return bool(connection.execute(query, [table, column]).fetchall())


def _half_created(path: Path) -> bool:
    """Return whether the file is being created, or its creator was killed: it contains no data yet.

    DuckDB syncs three header pages before it writes more. Until then a power cut may leave zeros in any of them.
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
    """Attach the file as `sink`, once no other connection has it open, of another process or of this one."""
    name = str(path.absolute()).replace("'", "''")  # absolute, because `:memory:` would not be a file
    if name != name.encode(errors="replace").decode():
        raise ToolkitError(f"{name!r}: DuckDB takes file names in UTF-8 only; use another name")
    if "\\" in name and os.name != "nt":
        raise ToolkitError(f"{path}: DuckDB takes each \\ in a path for a /; use another name")
    if "?" in name and not read_only and os.name != "nt":  # DuckDB would look for its log elsewhere
        raise ToolkitError(f"{path}: DuckDB cannot write to a path with a ? in it; use another name")
    deadline_s = time.monotonic() + wait_s
    while True:
        how = "READ_ONLY" if read_only else f"ROW_GROUP_SIZE {_ROW_GROUP_SIZE}"
        if not path.exists():
            how += f", STORAGE_VERSION '{_STORAGE_VERSION}'"
        is_late = time.monotonic() >= deadline_s
        may_be_torn = not read_only and _has_log(path)  # of a writer that was killed, or is at work
        try:
            with mapped_errors(path):
                if may_be_torn:
                    _read_metadata(memory, name)
                memory.execute(f"ATTACH '{name}' AS sink (TYPE duckdb, {how})")
            return
        except ToolkitError as error:
            if may_be_torn and _repaired(path, str(error)):
                continue
            is_in_use = isinstance(error.__cause__, duckdb.ResourceInUseException) or _LOCKED in str(error)
            if not is_in_use and _half_created(path):
                if is_late and read_only:
                    raise Absent(f"{path} is empty; its database is perhaps being created") from error
                if is_late:
                    path.unlink(missing_ok=True)
            elif is_late or not isinstance(error, Unavailable):
                raise
        time.sleep(_RETRY_S)


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _has_log(path: Path) -> bool:
    """Return whether there are commits after the last checkpoint. Closing the file normally makes a checkpoint."""
    with suppress(OSError):  # there is no log, or it was removed meanwhile
        return path.exists() and _log(path).stat().st_size > 0
    return False


def _read_metadata(memory: duckdb.DuckDBPyConnection, name: str) -> None:
    """Read all metadata that a checkpoint may have written in place. Attaching alone reads only a part of it."""
    memory.execute(f"ATTACH '{name}' AS sink (TYPE duckdb, READ_ONLY)")
    try:
        for table in memory.execute(_TABLES).fetchall():
            memory.execute("SELECT COUNT(*) FROM pragma_storage_info(?)", table).fetchall()
    finally:
        memory.execute("DETACH sink")


def _torn(error: str) -> list[int] | None:
    """Parse a checksum error: offset in the log or 0, computed and stored checksum, offset in the file or 0.

    Return None for any other error, and for a header: it is one page, which a kill cannot leave half written.
    """
    if not (found := _TORN.search(error)):
        return None
    entry, computed, stored, location = (int(number or 0) for number in found.groups())
    return [entry, computed, stored, location] if entry or location >= _HEADER_BYTES else None


def _repaired(path: Path, error: str) -> bool:
    """Repair the half-written block or the log with a hole that `error` names. Return whether that was done.

    The block gets the checksum of its contents; the log is truncated before the hole. Only a file with a log is
    repaired: the others were closed normally, and a wrong checksum means damage.
    """
    if not (found := _torn(error)):
        return False
    entry, computed, stored, location = found
    name, place = (_log(path), entry - 8) if entry else (path, location)
    with files.mapped_errors(path), path.open("r+b") as file:
        if sys.platform != "win32":  # on Windows, opening it for writing has shut out other processes
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # DuckDB uses the same lock
        if not _has_log(path):
            return False
        with name.open("r+b") as torn:
            torn.seek(place)
            is_torn = torn.read(8) == stored.to_bytes(8, "little")  # else another process has repaired it meanwhile
            if not is_torn or (entry and not HOLE.search(torn.read())):
                return False
            if entry:
                torn.truncate(entry)
            else:
                torn.seek(place)
                torn.write(computed.to_bytes(8, "little"))
    logger.info("{}: repaired what a kill or a power cut left half written at byte {}", name, place)
    return True


@contextmanager
def attached(
    memory: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool = False, wait_s: float = 1.0
) -> Iterator[None]:
    """Attach the file to a connection to memory, as database `sink`, for a `with` block. Raises like `mapped_errors`.

    This takes 0.5 ms; a connection of its own takes 12 ms. After any error close `memory`, whose state is unknown.
    """
    _attach(memory, path, read_only=read_only, wait_s=wait_s)
    with mapped_errors(path):
        yield
        memory.execute("DETACH sink")
