"""Reads a stream's table in a DuckDB database that others write.

DuckDB lets one process write or many read, so the file is open only while a page of rows is copied
into memory (about 20 ms for 100,000 rows), at most every 200 ms, and only if the file has changed.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from zlib import crc32

import duckdb

from utils.app.errors import Absent, ToolkitError, Unavailable
from utils.clients import duck
from utils.records.table import quoted
from utils.sources.table_source import Row, Selection, TableSource

PAGE_ROWS = 100_000
PAGE_BYTES = 32 * 1024 * 1024  # where records are large, a page has fewer rows
_FEW_ROWS = 64
POLL_S = 0.2
WAIT_S = 1.2
_HEADER_BYTES = 12_288  # DuckDB numbers its checkpoints here


class DuckdbSource(TableSource):
    """Copies pages of the table into memory; instants come back as microseconds since 1970.

    Waits up to 1.2 s for a writer's window to end before it raises Unavailable. After the end was
    reached, polls within 200 ms return None without a look at the file. One thread at a time.
    """

    name = "duckdb"
    _memory: duckdb.DuckDBPyConnection | None = None
    _first, _last = 0, -1  # the row numbers that were copied
    _next_look_s = 0.0
    _end: tuple[int, object] | None = None  # the row and the state of the file when the end was reached
    _end_rows: Sequence[Row] = ()

    def fetch(self, first: int, count: int) -> Sequence[Row]:
        first = max(first, 0)
        if not self._first <= first < self._last:
            self._look(first)
            if self._end is not None and self._end[0] == first:
                return self._end_rows
        assert self._memory is not None
        return self._memory.execute(f"SELECT * FROM page WHERE number >= {first} LIMIT {count}").fetchall()

    def fetch_last(self) -> Sequence[Row]:
        with self._attached() as memory:
            last = f"WHERE rowid = (SELECT max(rowid) FROM {self._name})"
            select, _ = self._select(memory)
            return memory.execute(f"{select} {last}").fetchall()

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory, self._last, self._end = None, -1, None

    def _look(self, first: int) -> None:
        """Copy the rows from `first` on into memory, unless the file is as it was when its end was reached."""
        pause_s = self._next_look_s - time.monotonic()
        if pause_s > 0 and self._end is not None and self._end[0] == first:
            return
        end = first, self._file_state()
        if end == self._end:
            return
        time.sleep(max(0.0, pause_s))
        with self._attached() as memory:
            last = self._copy(memory, first, first)
            later = self._later(memory, last)
            if last == first and later is not None:
                last = self._copy(memory, first, later)  # deleted rows left a gap that is wider than a page
                later = self._later(memory, last)
            self._first, self._last, self._end = first, last, None
            if later is None:
                self._end = last, end[1]
                self._end_rows = memory.execute(f"SELECT * FROM page WHERE number >= {last}").fetchall()

    def _copy(self, memory: duckdb.DuckDBPyConnection, first: int, start: int) -> int:
        """Copy row `first`, which tells whether the table is still the same, and a page from `start` on.

        The highest row number that was copied, at least `first`.
        """
        select, texts = self._select(memory)
        page = f"rowid = {first} OR rowid BETWEEN {start} AND {start + self._page_rows(memory, start, texts)}"
        memory.execute(f"CREATE OR REPLACE TEMP TABLE page AS {select} WHERE {page}")
        ((last,),) = memory.execute("SELECT max(number) FROM page").fetchall()
        return first if last is None else int(last)

    def _page_rows(self, memory: duckdb.DuckDBPyConnection, start: int, texts: Sequence[str]) -> int:
        """How many rows from `start` on make a page: twice as many as long as their texts are small enough."""
        rows, counted, size = _FEW_ROWS, 0, 0
        length = " + ".join(f"coalesce(strlen({name}::VARCHAR), 0)" for name in texts) or "0"
        while rows < PAGE_ROWS:
            among = f"rowid BETWEEN {start + counted} AND {start + 2 * rows - 1}"
            query = f"SELECT sum({length}) FROM {self._name} WHERE {among}"
            ((more,),) = memory.execute(query).fetchall()
            size += more or 0
            if size > PAGE_BYTES:
                break
            counted = rows = 2 * rows
        return min(rows, PAGE_ROWS)

    def _later(self, memory: duckdb.DuckDBPyConnection, last: int) -> int | None:
        ((later,),) = memory.execute(f"SELECT min(rowid) FROM {self._name} WHERE rowid > {last}").fetchall()
        return None if later is None else int(later)

    @property
    def _name(self) -> str:
        return f"sink.{quoted(self._table.name)}"

    def _select(self, memory: duckdb.DuckDBPyConnection) -> tuple[str, Sequence[str]]:
        """The query without its condition, and the columns that hold texts."""
        table = self._table.name
        existing = duck.columns(memory, table)
        query = "SELECT 1 FROM duckdb_views() WHERE database_name = 'sink' AND view_name = ?"
        if "rowid" in map(str.lower, existing) or memory.execute(query, [table]).fetchall():
            raise ToolkitError(f"{table} in {self._path} has no row numbers to follow; name another file")
        if not existing:
            raise Absent(f"{self._path} has no table {table} yet")
        selection = Selection(self._table, existing)
        self.others = selection.others
        return f"SELECT rowid AS number, {selection.sql} FROM {self._name}", selection.texts

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
        except Absent:
            raise
        except (ToolkitError, duckdb.Error):
            self.close()
            raise
        finally:
            self._next_look_s = time.monotonic() + POLL_S

    def _file_state(self) -> object:
        """Changes with every checkpoint and every write to the log beside the file."""
        with suppress(OSError):
            with self._path.open("rb") as stream:
                header = crc32(stream.read(_HEADER_BYTES))
            log = self._path.with_name(self._path.name + ".wal")
            return header, os.stat(self._path).st_ino, log.stat().st_size if log.exists() else 0
        return object()  # unknown: differs from any other
