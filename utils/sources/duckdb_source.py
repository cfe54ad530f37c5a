"""Reads a stream's table in a DuckDB database that others write.

DuckDB lets one process write or many read, so the file is open only while a page of rows is copied
into memory (about 20 ms for 100,000 rows), at most every 200 ms, and only if the file has changed.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import duckdb

from utils.app.config import Settings
from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients import duck
from utils.records.stream import Stream
from utils.records.table import as_double, quoted
from utils.sources.base import Resume
from utils.sources.table_source import Row, Selection, TableSource

PAGE_ROWS = 100_000
PAGE_CELLS = 2_000_000
PAGE_BYTES = 32 * 1024 * 1024  # where records are wide or large, a page has fewer rows
_FEW_ROWS = 64
POLL_S = 0.2
WAIT_S = 1.2
_COARSE_S = 2.0  # the times of files have steps up to this


@dataclass(frozen=True)
class Page:
    """Rows that were copied: all with numbers from `first` to `last`.

    `end` is None, or the state of the file if there was nothing behind; `end_rows` is then row `last`.
    """

    first: int = 0
    last: int = -1
    end: object | None = None
    end_rows: Sequence[Row] = ()


class DuckdbSource(TableSource):
    """Copies pages of the table into memory; instants come back as microseconds since 1970.

    Waits up to 1.2 s for a writer's window to end before it raises Unavailable. After the end was
    reached, polls within 200 ms return None without a look at the file. One thread at a time.
    """

    name = "duckdb"
    _memory: duckdb.DuckDBPyConnection | None = None
    _page = Page()
    _next_look_s = 0.0

    def fetch(self, first: int, count: int) -> Sequence[Row]:
        first = max(first, 0)
        if not self._page.first <= first < self._page.last:
            self._look(first)
            if self._page.end is not None and self._page.last == first:
                return self._page.end_rows
        assert self._memory is not None
        return self._memory.execute(f"SELECT * FROM temp.page WHERE number >= {first} LIMIT {count}").fetchall()

    def fetch_last(self) -> Sequence[Row]:
        with self._attached() as memory:
            last = f"WHERE rowid = (SELECT max(rowid) FROM {self._name})"
            select, _ = self._select(memory)
            return memory.execute(f"{select} {last}").fetchall()

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory, self._page = None, Page()

    def _look(self, first: int) -> None:
        """Copy the rows from `first` on into memory, unless the file is as it was when its end was reached."""
        pause_s = self._next_look_s - time.monotonic()
        at_end = self._page.end is not None and self._page.last == first
        if at_end and pause_s > 0:
            return
        state = self._file_state()
        if at_end and state == self._page.end:
            return
        time.sleep(max(0.0, pause_s))
        with self._attached() as memory:
            last = self._copy(memory, first, first)
            later = self._later(memory, last)
            if last == first and later is not None:
                last = self._copy(memory, first, later)  # deleted rows left a gap that is wider than a page
                later = self._later(memory, last)
            self._page = Page(first, last)
            if later is None:
                rows = memory.execute(f"SELECT * FROM temp.page WHERE number >= {last}").fetchall()
                self._page = Page(first, last, state, rows)

    def _copy(self, memory: duckdb.DuckDBPyConnection, first: int, start: int) -> int:
        """Copy row `first`, which tells whether the table is still the same, and a page from `start` on.

        The highest row number that was copied, at least `first`.
        """
        select, columns = self._select(memory)
        page = f"rowid = {first} OR rowid BETWEEN {start} AND {start + self._page_rows(memory, start, columns)}"
        memory.execute(f"CREATE OR REPLACE TEMP TABLE page AS {select} WHERE {page}")
        ((last,),) = memory.execute("SELECT max(number) FROM temp.page").fetchall()
        return first if last is None else int(last)

    def _page_rows(self, memory: duckdb.DuckDBPyConnection, start: int, columns: Mapping[str, str]) -> int:
        """How many rows from `start` on make a page: twice as many as long as their texts are small enough."""
        most = min(PAGE_ROWS, max(_FEW_ROWS, PAGE_CELLS // len(columns)))
        rows, counted, size = _FEW_ROWS, 0, 0
        texts = [quoted(name) for name, kind in columns.items() if kind in ("VARCHAR", "JSON", "BLOB")]
        length = " + ".join(f"coalesce(strlen({name}::VARCHAR), 0)" for name in texts) or "0"
        while rows < most:
            among = f"rowid BETWEEN {start + counted} AND {start + 2 * rows - 1}"
            query = f"SELECT sum({length}) FROM {self._name} WHERE {among}"
            ((more,),) = memory.execute(query).fetchall()
            size += more or 0
            if size > PAGE_BYTES:
                break
            counted = rows = 2 * rows
        return min(rows, most)

    def _later(self, memory: duckdb.DuckDBPyConnection, last: int) -> int | None:
        ((later,),) = memory.execute(f"SELECT min(rowid) FROM {self._name} WHERE rowid > {last}").fetchall()
        return None if later is None else int(later)

    @property
    def _name(self) -> str:
        return f"sink.{quoted(self._table.name)}"

    def _select(self, memory: duckdb.DuckDBPyConnection) -> tuple[str, Mapping[str, str]]:
        """The query without its condition, and the table's columns with their types."""
        table = self._table.name
        existing = duck.columns(memory, table)
        if not existing:
            raise Absent(f"{self._path} has no table {table} yet")
        if "rowid" in map(str.lower, existing) or duck.is_view(memory, table):
            raise ToolkitError(f"{table} in {self._path} has no row numbers to follow; name another file")
        selection = Selection(self._table, existing, readable)
        self.others = selection.others
        return f"SELECT rowid AS number, {selection.sql} FROM {self._name}", existing

    @contextmanager
    def _attached(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Memory with the file attached as `sink`, read-only, once no other process writes."""
        try:
            if not self._path.exists():
                raise Absent(f"{self._path} does not exist yet")
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be read: {error.strerror}") from error
        if self._memory is None:
            self._memory = duckdb.connect(config=duck.CONFIG)
        try:
            with duck.attached(self._memory, self._path, read_only=True, wait_s=WAIT_S):
                yield self._memory
        except ToolkitError:
            self.close()
            raise
        except duckdb.Error as error:
            self.close()
            raise ToolkitError(f"{self._path}: {str(error).splitlines()[0]}") from error
        finally:
            self._next_look_s = time.monotonic() + POLL_S

    def _file_state(self) -> object:
        """Changes with every write to the file and to the log beside it.

        Their times tell: to open and close the file would drop the locks that this process may have on it elsewhere.
        """
        log = self._path.with_name(self._path.name + ".wal")
        with suppress(OSError):
            found = [os.stat(self._path), *([os.stat(log)] if log.exists() else [])]
            if time.time() - max(each.st_mtime for each in found) > _COARSE_S:
                return [(each.st_ino, each.st_size, each.st_mtime_ns) for each in found]
        return object()  # unknown: differs from any other


def open_source(settings: Settings, stream: Stream, resume: Resume, finished: bool, shared: bool) -> DuckdbSource:
    """The source of the sink `duckdb`. See Sink."""
    return DuckdbSource(settings.duckdb_path, stream, resume)


def readable(name: str, kind: str, field_type: str) -> str:
    """The expression of a column: an instant as RFC 3339 text, a number as the emitter would widen its column."""
    column = quoted(name)
    if kind.startswith("TIMESTAMP"):
        instant, form = f"make_timestamp(epoch_us({column}))", "%Y-%m-%dT%H:%M:%S"
        milliseconds, microseconds = (f"strftime({instant}, '{form}.%{fraction}Z')" for fraction in "gf")
        text = f"CASE epoch_us({column}) % 1000 WHEN 0 THEN {milliseconds} ELSE {microseconds} END"
        return f"coalesce({text}, {column}::VARCHAR)"  # infinity
    if field_type == "number" or (not field_type and not kind.endswith(("INT", "INTEGER"))):
        return as_double(column, kind) or column
    if field_type == "json" and kind not in ("JSON", "VARCHAR"):
        return f"to_json({column})::VARCHAR"
    return column
