"""The DuckDB sink: one row per message in `streamed_messages`, written in short windows."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import msgspec
from loguru import logger

from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.clients import duck
from utils.emitters.base import check_same_file, file_id
from utils.records import table
from utils.records.record import Batch, timestamp_epoch_s, timestamp_text, without_ids

MAX_ROWS_PER_WINDOW = 20_000
PAUSE_S = 0.05
_UNSUITABLE = (duckdb.CatalogException, duckdb.BinderException, duckdb.DependencyException)


class DuckdbEmitter:
    """Opens, appends and closes per batch, so that others can query the file while a producer runs.

    Rows are first appended to a page in memory, while the readers have their turn; in the window that
    follows, DuckDB copies the page, which takes a quarter of the time that appending takes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{path.parent} cannot be used as a folder: {error.strerror}") from error
        self._closed_at_s = 0.0
        self._opened: tuple[int, int] | None = None
        self._memory: duckdb.DuckDBPyConnection | None = None
        try:
            columns = self._prepare()
        except Unavailable as error:
            if isinstance(error.__cause__, _UNSUITABLE):
                raise ToolkitError(f"{error}; its {table.TABLE} cannot be used, name another file") from error
            raise
        self._page = ", ".join(f"{name} {columns[name][0]}" for name in table.COLUMNS)
        # A buzzline table: its id has no default, and as a primary key it takes no NULL.
        self._id_needed = "id" in columns and columns["id"][1] is None
        self._opened = file_id(path)

    def _prepare(self) -> "dict[str, tuple[str, str | None]]":
        """Make the table, or bring it up to date; its columns."""
        with self._window() as sink:
            existing = _columns(sink)
            for statement in table.create("duckdb") if not existing else table.upgrade("duckdb", existing):
                sink.execute(statement)
            for name in table.COLUMNS:
                if existing.get(name, ("",))[0] == "FLOAT":
                    # 32 bits, in tables that others made: what comes back would not be what the other sinks hold.
                    widened = f"TYPE DOUBLE USING round({name}::DOUBLE, 6)"
                    sink.execute(f"ALTER TABLE {table.TABLE} ALTER {name} {widened}")
            return _columns(sink)

    @contextmanager
    def _window(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A transaction on the file, opened for it alone; readers get their turn before the next one."""
        self._memory = memory = self._memory or duckdb.connect(config=duck.CONFIG)
        time.sleep(max(0.0, self._closed_at_s + PAUSE_S - time.monotonic()))
        try:
            if self._opened is not None:
                check_same_file(self._path, self._opened)
            with duck.attached(memory, self._path):
                memory.execute("BEGIN")
                yield memory
                memory.execute("COMMIT")
        except (ToolkitError, duckdb.Error):
            self.close()
            raise
        finally:
            self._closed_at_s = time.monotonic()

    def last_sequence(self, producer_id: str) -> int:
        with self._window() as sink:
            rows = sink.execute(
                f"SELECT MAX(sequence) FROM {table.TABLE} WHERE producer_id = ?", [producer_id]
            ).fetchall()
        return int(rows[0][0] or 0)

    def emit(self, batch: Batch) -> None:
        rows = batch.rows
        for start in range(0, len(rows), MAX_ROWS_PER_WINDOW):
            part = rows[start : start + MAX_ROWS_PER_WINDOW]
            try:
                self.insert(part)
            except (duckdb.ConversionException, duckdb.ConstraintException):
                self._reject(batch.first + start, part)
        check_same_file(self._path, self._opened)

    def insert(self, rows: list[tuple[Any, ...]]) -> None:
        """Append rows in the order of table.COLUMNS in one window; raises DuckDB's error for a row it refuses."""
        self._memory = memory = self._memory or duckdb.connect(config=duck.CONFIG)
        try:
            with duck.errors(self._path):
                memory.execute(f"CREATE OR REPLACE TABLE page ({self._page})")
                appender = memory.appender("page")
                appender.append_rows(rows)
                appender.flush()
        except (ToolkitError, duckdb.Error):
            self.close()
            raise
        numbered = f"(SELECT COALESCE(MAX(id), 0) FROM {table.TABLE}) + row_number() OVER (), {table.ROW}"
        with self._window() as sink:
            if self._id_needed:
                sink.execute(f"INSERT INTO {table.TABLE} (id, {table.ROW}) SELECT {numbered} FROM memory.page")
            else:
                sink.execute(f"INSERT INTO {table.TABLE} ({table.ROW}) SELECT {table.ROW} FROM memory.page")

    def _reject(self, first: int, rows: list[tuple[Any, ...]]) -> NoReturn:
        """Store the rows before the refused one, in ever smaller halves, and name it."""
        while True:
            half = rows[: (len(rows) + 1) // 2]
            try:
                self.insert(half)
            except (duckdb.ConversionException, duckdb.ConstraintException) as error:
                if len(half) == 1:
                    raise Rejected(first, str(error).splitlines()[0]) from error
                rows = half
            else:
                first += len(half)
                rows = rows[len(half) :]
                if not rows:
                    raise Unavailable(f"{self._path}: a refused row was taken at the second attempt")

    def close(self) -> None:
        """The file is open in windows only; this frees the page."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _columns(sink: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, str | None]]:
    """Column -> its type and default."""
    found = sink.execute(
        "SELECT column_name, data_type, column_default FROM duckdb_columns() "
        "WHERE database_name = 'sink' AND table_name = ?",
        [table.TABLE],
    )
    return {name: (kind, default) for name, kind, default in found.fetchall()}


def emit_message(message: Mapping[str, Any], *, db_path: Path | str) -> bool:
    """Insert one message; True once it is stored, else False with the reason logged.

    Carries no ids, so it is outside the exactly-once promise. A timestamp that is none is stored as NULL.
    """
    try:
        plain, _ = without_ids(message)
        epoch_s = timestamp_epoch_s(plain.timestamp)
        row = list(msgspec.structs.astuple(plain))
        row[table.COLUMNS.index("timestamp")] = None if epoch_s is None else timestamp_text(epoch_s)
        with closing(DuckdbEmitter(Path(db_path))) as emitter:
            emitter.insert([tuple(row)])
    except (ValueError, ToolkitError, duckdb.Error) as error:
        logger.error("{}: message not stored: {}", db_path, error)
        return False
    return True
