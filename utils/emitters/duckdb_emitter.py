"""The DuckDB sink: one row per record in the stream's table, written in short windows."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import duck, files
from utils.emitters.base import ROW_GROUP_RECORDS, delivered_by_another, emit_one, store_in_halves
from utils.records.instants import is_usual, microseconds
from utils.records.record import Batch, Columns
from utils.records.stream import BUZZ, Stream
from utils.records.table import Table, quoted

PAUSE_S = 0.05  # between two windows, for readers
MAX_ROWS, MAX_CELLS = 4 * ROW_GROUP_RECORDS, 2_000_000  # of a window, so that it takes less than a second
_UNSUITABLE = (duckdb.CatalogException, duckdb.BinderException, duckdb.DependencyException)
_ROW_ERRORS = (duckdb.ConversionException, duckdb.ConstraintException)


class DuckdbEmitter:
    """Emitter that opens the file only in windows, one per insert, so that it can be queried while a producer runs.

    DuckDB gets the columns as NumPy arrays. They are made before the file is opened.
    """

    mark = ""

    def __init__(self, path: Path, stream: Stream) -> None:
        self._path, self._table = path, Table(stream)
        self.max_records = max(1, min(MAX_ROWS, MAX_CELLS // len(self._table.columns)))
        self._closed_at_s = 0.0
        self._opened: tuple[int, int] | None = None
        self._memory: duckdb.DuckDBPyConnection | None = None
        files.check_one_name(path)
        with files.mapped_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for each in (path.with_name(f"{path.name}.wal"), path, path.parent):
                files.sync_path(each)  # a killed process may have left data that is not synced
            try:
                self._types = self._prepare()
            except Unavailable as error:
                if isinstance(error.__cause__, _UNSUITABLE):
                    remedy = f"its table {self._table.name} cannot be used, name another file"
                    raise ToolkitError(f"{error}; {remedy}") from error
                raise
            files.sync_path(path.parent)  # the name of a new file, which DuckDB does not sync
        self._opened = files.file_id(path)
        self._closed_at_s = 0.0  # no pause before `last`

    def _prepare(self) -> dict[str, str]:
        """Create or upgrade the table. Return the types of its columns by their names in lower case."""
        table = self._table
        with self._window() as sink:
            existing = duck.columns(sink, table.name)  # of a table or a view; for a view `create` raises
            statements = [*table.create("duckdb"), *(table.upgrade("duckdb", existing) if existing else ())]
            for statement in ("USE sink", *statements, "USE memory"):
                sink.execute(statement)
            self._id_needed = table.has_id and duck.is_without_default(sink, table.name, "id")
            return {name.lower(): kind for name, kind in duck.columns(sink, table.name).items()}

    @contextmanager
    def _window(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file for one transaction, after a pause in which readers can open it."""
        self._memory = memory = self._memory or _in_memory()
        time.sleep(max(0.0, self._closed_at_s + PAUSE_S - time.monotonic()))
        try:
            if self._opened is not None:
                files.check_same_file(self._path, self._opened)
            with duck.attached(memory, self._path):
                memory.execute("BEGIN")
                yield memory
                memory.execute("COMMIT")
        except (ToolkitError, duckdb.Error):
            self.close()
            raise
        finally:
            self._closed_at_s = time.monotonic()

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """Ask the table for all runs at once. See Emitter."""
        with self._window() as sink:
            rows = sink.execute(
                f"SELECT producer_id, MAX(sequence) FROM sink.{quoted(self._table.name)} "
                "WHERE producer_id IN (SELECT unnest(?)) GROUP BY producer_id",
                [list(producer_ids)],
            ).fetchall()
        found = dict(rows)
        return next(((each, found[each]) for each in reversed(producer_ids) if each in found), None)

    def emit(self, batch: Batch) -> None:
        """Insert the batch in one window, or in several if the table rejects a record. See Emitter."""
        store_in_halves(self._insert, batch.columns, batch.first, _ROW_ERRORS)
        files.check_same_file(self._path, self._opened)

    def _insert(self, page: Columns) -> None:
        """Insert rows of one run in one window, unless another process has stored some of them."""
        columns, values, table = self._table.row, "*", f"sink.{quoted(self._table.name)}"
        if self._id_needed:  # a table of buzzline-05, whose primary key has no default
            columns, values = f"id, {columns}", f"(SELECT COALESCE(MAX(id), 0) FROM {table}) + row_number() OVER (), *"
        arrays = self._arrays(page)  # noqa: F841  (the statement below names this variable)
        with self._window() as sink:
            stored = f"SELECT 1 FROM {table} WHERE producer_id = ? AND sequence >= ? LIMIT 1"
            producer_id, first = page[-2][0], page[-1][0]
            if sink.execute(stored, (producer_id, first)).fetchall():
                raise delivered_by_another(self._path, producer_id)
            sink.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM arrays")

    def _arrays(self, page: Columns) -> dict[str, np.ndarray[Any, Any]]:
        """Return the columns as arrays, named c0, c1 and so on."""
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for number, field in enumerate(self._table.fields):
            column: Any = page[number]
            kind: Any = object
            if field.type == "timestamp" and self._types[field.name.lower()] == "TIMESTAMP":
                texts = set(column)
                if 2 * len(texts) > len(column) and None not in texts and all(map(is_usual, texts)):
                    column = np.array(column, "S23")  # without the Z, which NumPy does not read
                else:
                    instants = {text: None if text is None else microseconds(text) for text in texts}
                    column = [instants[text] for text in column]
                kind = "M8[us]"
            elif field.type == "number":
                kind = float  # None becomes NaN, which DuckDB stores as NULL
            elif field.type in ("integer", "boolean"):
                kind = np.int64 if field.type == "integer" else np.bool_
                if None in column:
                    mask = [value is None for value in column]
                    column = np.ma.masked_array([value or 0 for value in column], mask, dtype=kind)
            arrays[f"c{number}"] = np.asanyarray(column, dtype=kind)
        return arrays

    def close(self) -> None:
        """Close the connection to memory. The file is open only in a window. See Emitter."""
        if self._memory is not None:
            with suppress(duckdb.Error):
                self._memory.close()
            self._memory = None


def _in_memory() -> duckdb.DuckDBPyConnection:
    """Return a connection to memory that scans arrays, and needs half the time to compress a window of few rows."""
    memory = duckdb.connect(config=duck.CONFIG | {"python_enable_replacements": True})
    memory.execute("SET disabled_compression_methods = 'fsst'")  # `config` ignores this option
    return memory


def open_emitter(settings: Settings, stream: Stream, key: str, mark: str) -> DuckdbEmitter:
    """Open the emitter of the sink `duckdb`. See Sink."""
    return DuckdbEmitter(settings.duckdb_path, stream)


def emit_message(message: Mapping[str, Any], db_path: Path | str) -> bool:
    """Insert one record. Return True once it is stored, otherwise log the reason and return False.

    The record carries no ids, so it is outside the exactly-once promise.
    """
    path = Path(db_path)
    return emit_one(message, path, lambda: DuckdbEmitter(path, BUZZ))
