"""The SQLite sink: one row per record in the stream's table."""

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from utils.app.config import Settings
from utils.app.errors import SinkReplaced, ToolkitError, Unavailable
from utils.clients import sqlite
from utils.emitters.base import ROW_GROUP_RECORDS, delivered_by_another, emit_one, store_in_halves
from utils.records.record import Batch, Columns
from utils.records.stream import BUZZ, Stream
from utils.records.table import Table, quoted

ROWS_PER_STATEMENT = 500  # each statement releases the interpreter lock, so smaller ones wait for it more often

_UNSUITABLE = ("SQLITE_ERROR", "SQLITE_CONSTRAINT_UNIQUE")


class SqliteEmitter:
    """Emitter that inserts each batch in one durable transaction."""

    mark = ""
    max_records = ROW_GROUP_RECORDS

    def __init__(self, path: Path, stream: Stream) -> None:
        self._path, self._table = path, Table(stream)
        self._database = sqlite.Database(path, replaced=SinkReplaced)
        max_values = self._database.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        self._rows_per_statement = max(1, min(ROWS_PER_STATEMENT, max_values // len(self._table.columns)))
        try:
            self._prepare()
        except (ToolkitError, sqlite3.Error):
            self.close()
            raise

    def _prepare(self) -> None:
        """Create or upgrade the table, in a commit that also makes durable what a killed process left."""
        table, execute = self._table, self._database.connection.execute
        try:
            with self._database.transaction() as connection:
                ((version,),) = execute("PRAGMA user_version").fetchall()
                execute(f"PRAGMA user_version = {version}")  # because an empty commit would sync nothing
                existing = sqlite.columns(connection, table.name)
                for statement in table.upgrade("sqlite", existing) if existing else table.create("sqlite"):
                    execute(statement)
                execute(table.identity_index())
        except (Unavailable, sqlite3.IntegrityError) as error:  # IntegrityError: the table contains a record twice
            if getattr(error.__cause__ or error, "sqlite_errorname", "") in _UNSUITABLE:  # waiting would not help
                remedy = f"its table {table.name} cannot be used, name another file"
                raise ToolkitError(f"{self._path}: {error.__cause__ or error}; {remedy}") from error
            raise

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        """Ask the index for each run, the newest first. See Emitter."""
        query = f"SELECT MAX(sequence) FROM {quoted(self._table.name)} WHERE producer_id = ?"
        for producer_id in reversed(producer_ids):
            ((sequence,),) = self._database.query(query, producer_id)
            if sequence is not None:
                return producer_id, sequence
        return None

    def emit(self, batch: Batch) -> None:
        """Insert the batch in one transaction, or in several if the table rejects a record. See Emitter."""
        store_in_halves(self._insert, batch.columns, batch.first, (sqlite3.IntegrityError,))
        self._database.check()

    def _insert(self, columns: Columns) -> None:
        """Insert rows of one run in one transaction. `columns` are in the order of the table."""
        *fields, extra, producer_ids, sequences = columns
        with_extra = any(extra)
        varying = [*fields, sequences, extra] if with_extra else [*fields, sequences]
        values = chain.from_iterable(zip(*varying, strict=True))
        left = len(sequences)
        try:
            with self._database.transaction() as connection:
                while left:
                    rows = min(left, self._rows_per_statement)
                    left -= rows
                    statement = self._table.insert(rows, with_extra=with_extra)
                    stored = connection.execute(statement, [producer_ids[0], *islice(values, rows * len(varying))])
                    if stored.rowcount < rows:  # a trigger's RAISE(IGNORE) is no error to SQLite
                        raise sqlite3.IntegrityError("a trigger of the table leaves the row out")
        except sqlite3.IntegrityError as error:
            if str(error).lower().endswith(f"{self._table.name}.producer_id, {self._table.name}.sequence"):
                raise delivered_by_another(self._path, producer_ids[0]) from error
            raise

    def close(self) -> None:
        """Close the database. See Emitter."""
        self._database.close()


def open_emitter(settings: Settings, stream: Stream, key: str, mark: str) -> SqliteEmitter:
    """Open the emitter of the sink `sqlite`. See Sink."""
    return SqliteEmitter(settings.sqlite_path, stream)


def emit_message(message: Mapping[str, Any], db_path: Path | str) -> bool:
    """Insert one record. Return True once it is stored, otherwise log the reason and return False.

    The record carries no ids, so it is outside the exactly-once promise.
    """
    path = Path(db_path)
    return emit_one(message, path, lambda: SqliteEmitter(path, BUZZ))
