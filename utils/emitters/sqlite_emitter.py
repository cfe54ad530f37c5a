"""The SQLite sink: one row per message in `streamed_messages`."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from loguru import logger

from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.clients import sqlite
from utils.emitters.base import check_same_file, file_id
from utils.records import table
from utils.records.record import Batch, without_ids

# Many rows per statement: each statement gives the interpreter lock away, and getting it back from a
# busy producer thread costs more than inserting hundreds of rows (measured: 60 times the rate).
ROWS_PER_STATEMENT = 500


class SqliteEmitter:
    """Inserts under a partial UNIQUE (producer_id, sequence), so that a double can never pass unseen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite.connect(path)
        try:
            with sqlite.errors(path), sqlite.transaction(self._connection):
                for statement in table.create("sqlite"):
                    self._connection.execute(statement)
                existing = [row[1] for row in self._connection.execute(f"PRAGMA table_info({table.TABLE})")]
                for statement in table.upgrade("sqlite", existing):
                    self._connection.execute(statement)
        except sqlite3.IntegrityError as error:
            self._connection.close()
            raise ToolkitError(f"{path} holds some messages twice: {error}") from error
        except ToolkitError:
            self._connection.close()
            raise
        self._opened = file_id(path)

    def last_sequence(self, producer_id: str) -> int:
        with sqlite.errors(self._path):
            (found,) = self._connection.execute(
                f"SELECT MAX(sequence) FROM {table.TABLE} WHERE producer_id = ?", (producer_id,)
            ).fetchone()
        return int(found or 0)

    def emit(self, batch: Batch) -> None:
        check_same_file(self._path, self._opened)
        with sqlite.errors(self._path):
            try:
                self.insert(batch.rows)
            except sqlite3.IntegrityError:
                self._reject(batch)
        check_same_file(self._path, self._opened)

    def insert(self, rows: list[tuple[Any, ...]]) -> None:
        """Insert rows in the order of table.COLUMNS in one transaction; raises SQLite's own errors."""
        with sqlite.transaction(self._connection):
            for start in range(0, len(rows), ROWS_PER_STATEMENT):
                part = rows[start : start + ROWS_PER_STATEMENT]
                self._connection.execute(table.insert(len(part)), list(chain.from_iterable(part)))

    def _reject(self, batch: Batch) -> NoReturn:
        """Name the row that the table refused. A message that is there already is no row to skip but an alarm."""
        with sqlite.transaction(self._connection):  # each way out of it is an error, so nothing of it stays
            for offset, row in enumerate(batch.rows):
                try:
                    self._connection.execute(table.insert(), row)
                except sqlite3.IntegrityError as error:
                    sequence = batch.first + offset
                    if error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE" and "sequence" in str(error):
                        raise ToolkitError(
                            f"{self._path} already holds sequence {sequence} of {batch.producer_id}: "
                            "is a copy of this producer running elsewhere?"
                        ) from error
                    raise Rejected(sequence, str(error)) from error
            raise Unavailable(f"{self._path}: a conflict came and went")

    def close(self) -> None:
        self._connection.close()


def emit_message(message: Mapping[str, Any], *, db_path: Path | str) -> bool:
    """Insert one message; True once it is stored, else False with the reason logged.

    Carries no ids, so it is outside the exactly-once promise.
    """
    try:
        plain, _ = without_ids(message)
        with closing(SqliteEmitter(Path(db_path))) as emitter, sqlite.errors(Path(db_path)):
            emitter.insert([msgspec.structs.astuple(plain)])
    except (ValueError, ToolkitError, sqlite3.IntegrityError) as error:
        logger.error("{}: message not stored: {}", db_path, error)
        return False
    return True
