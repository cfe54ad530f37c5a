"""Source of a stream's table in a DuckDB database that other processes write.

One process may write a DuckDB file, or many may read it. So the file is open only while a chunk of rows is fetched
(about 15 ms for 10,000 rows). Once the end is reached, it is opened at most every 200 ms, and only if it has changed.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import duckdb

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError
from utils.clients import duck
from utils.clients.files import file_id
from utils.records.codec import Field
from utils.records.stream import Stream
from utils.records.table import as_double, quoted
from utils.sources.base import Chunk, Resume
from utils.sources.table_source import Row, TableSource, fetch_page

POLL_S = 0.2
WAIT_S = 1.2
FEW_ROWS = 1_000  # of the first query, because DuckDB has all rows of a query in memory
_COARSE_S = 2.0  # the coarsest resolution of the times of files


class DuckdbSource(TableSource):
    """Source that attaches the file to a database in memory. Timestamps come as RFC 3339 text.

    Waits up to 1.2 s for a writer's window to end before it raises Unavailable. For one thread at a time.
    """

    name = "duckdb"
    _memory: duckdb.DuckDBPyConnection | None = None
    _end: object | None = None  # the state of the file when its end was reached
    _next_look_s = 0.0
    _limit = FEW_ROWS

    def poll(self, max_records: int) -> Chunk | None:
        """Return the next rows. See Source."""
        if self._end is not None and time.monotonic() < self._next_look_s:
            return None
        state = self._file_state()
        if state == self._end:
            return None
        chunk = super().poll(max_records)
        self._end, self._next_look_s = None if chunk else state, time.monotonic() + POLL_S
        return chunk

    def fetch(self, first: int | None, count: int) -> tuple[Sequence[Field], Sequence[Row]]:
        table = self._table.name
        with self._attached() as memory:
            existing = duck.columns(memory, table)
            if not existing:
                raise self._missing(_tables(memory))
            if "rowid" in map(str.lower, existing) or duck.is_view(memory, table):
                raise self._unnumbered()
            columns = self._columns(existing)
            known = {field.name for field in self._table.fields}
            selected = ", ".join(
                select_expression(name, existing[name], field.type if field.name in known else "")
                for name, field in columns
            )
            rows = f"sink.{quoted(table)}"
            last = f"(SELECT max(rowid) FROM {rows})" if first is None else first
            # DuckDB scans in the order of the row numbers, and skips to the first that the condition allows.
            count = min(count, self._limit)
            query = f"SELECT rowid, {selected} FROM {rows} WHERE rowid >= {last} LIMIT {count}"
            found = fetch_page(memory.execute(query).fetchmany, count)
            self._limit = max(FEW_ROWS, 2 * len(found))  # low while a few large rows fill a chunk
            return [field for _, field in columns], found

    def tables(self) -> list[str]:
        with self._attached() as memory:
            return _tables(memory)

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    @contextmanager
    def _attached(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Attach the file as `sink`, read-only, once no other process writes it, and yield the connection."""
        if file_id(self._path) is None:
            raise Absent(f"{self._path} does not exist yet")
        with duck.mapped_errors(self._path):  # no file can be opened if too many are open
            self._memory = memory = self._memory or duckdb.connect(config=duck.CONFIG)
        try:
            with duck.attached(memory, self._path, read_only=True, wait_s=WAIT_S):
                yield memory
        except (ToolkitError, duckdb.Error) as error:
            self.close()
            if isinstance(error, ToolkitError):
                raise
            raise ToolkitError(f"{self._path}: {str(error).splitlines()[0]}") from error

    def _file_state(self) -> object:
        """Return a value that changes with every write to the file or to its log.

        It is made of sizes and times. Opening and closing the file would drop other locks of this process on it.
        """
        log = self._path.with_name(self._path.name + ".wal")
        with suppress(OSError):
            found = [os.stat(self._path), *([os.stat(log)] if log.exists() else [])]
            if time.time() - max(each.st_mtime for each in found) > _COARSE_S:
                return [(each.st_ino, each.st_size, each.st_mtime_ns) for each in found]
        return object()  # unknown, or just written: differs from any other value


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> DuckdbSource:
    """Make the source of the sink `duckdb`. See Sink."""
    return DuckdbSource(settings.duckdb_path, stream, resume)


def _tables(memory: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names of the tables in the attached file."""
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'sink'"
    return [name for (name,) in memory.execute(query).fetchall()]


def select_expression(name: str, kind: str, field_type: str) -> str:
    """Return the SQL that reads a column: timestamps as RFC 3339 text, number fields as DOUBLE, json fields as text."""
    column = quoted(name)
    if kind.startswith("TIMESTAMP") and not kind.endswith("]"):
        if kind == "TIMESTAMPTZ_NS":  # of Parquet files by pandas; epoch_us does not take it
            column += "::TIMESTAMPTZ"
        instant, form = f"make_timestamp(epoch_us({column}))", "%Y-%m-%dT%H:%M:%S"
        milliseconds, microseconds = (f"strftime({instant}, '{form}.%{fraction}Z')" for fraction in "gf")
        text = f"CASE epoch_us({column}) % 1000 WHEN 0 THEN {milliseconds} ELSE {microseconds} END"
        return f"coalesce({text}, {column}::VARCHAR)"  # `text` is NULL for infinity
    if field_type == "number" or (not field_type and not kind.endswith(("INT", "INTEGER"))):
        return as_double(column, kind) or column
    if field_type == "json" and kind not in ("JSON", "VARCHAR"):
        return f"to_json({column})::VARCHAR"
    return column
