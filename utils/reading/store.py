"""What a consumer keeps: records and positions, in one SQLite file and one transaction.

A chunk is stored once or not at all, whatever is killed, started twice or fenced: `add` compares the chunk's `start`
with the stored position of its partition and sets `end` in the transaction that stores the records. The unique
indexes of `records` decide what is new; `partitions` has positions and totals, `runs` what the tracker knows.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import astuple

from utils.app.errors import PositionMoved, ToolkitError
from utils.clients import sqlite
from utils.clients.files import check_one_name, file_id
from utils.reading.store_tables import TOTALS, Memory, StoreTable, prepare, summarize, track
from utils.reading.tracker import Counts
from utils.records.stream import Stream
from utils.sources.base import Chunk

WAIT_S = 5.0
ROWS_PER_STATEMENT, MAX_VALUES = 500, 32_766
_ENTER = "INSERT INTO partitions (partition, position, memory) VALUES (?, '', '{}') ON CONFLICT DO NOTHING"
_FIND = "SELECT position, memory FROM partitions WHERE partition = ?"
_COMPARE_AND_SET = "UPDATE partitions SET position = ? WHERE partition = ? AND position = ?"
_BEGIN_AGAIN = "UPDATE runs SET again = high WHERE partition = ?"


class ProcessedStore:
    """One consumer's store; opening creates it. `stream` is the stream with the types that the store began with.

    `start` says where each partition begins when it is first resumed in this run. At its end only if nobody has
    advanced it since: what another copy then hands over is not passed over. Raises ToolkitError if another version
    wrote the store.
    """

    def __init__(self, path: Path, stream: Stream, start: Literal["stored", "start", "end"] = "stored") -> None:
        check_one_name(path)
        self._path, self._start, self.run = path, start, Counts()
        self._before: dict[str, str | None]  # the positions when this run began, None once a partition was resumed
        self._connection = sqlite.connect(path, wait_s=WAIT_S)
        self._opened = file_id(path)
        try:
            with self._transaction():
                self.stream = prepare(self._connection, path, stream)
                self._before = dict(self._execute("SELECT partition, position FROM partitions").fetchall())
        except (ToolkitError, sqlite3.Error):
            self.close()
            raise
        self._table = StoreTable(self.stream)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with sqlite.errors(self._path), sqlite.transaction(self._connection):
            if file_id(self._path) != self._opened:  # what is stored now would be gone with the file
                raise ToolkitError(f"processed store {self._path} was deleted, moved or replaced in use; start again")
            yield

    def resume(self, partition: str) -> str:
        """The stored position of a partition, which `start` may change. See Resume."""
        with self._transaction():
            position, memory = self._partition(partition)
            before = self._before.get(partition, "")
            if self._start == "start" and before is not None:
                position, memory.jump, memory.ordinal = "", 0, 0
                self._execute(_BEGIN_AGAIN, partition)
            elif self._start == "end" and before == position:
                memory.jumps += 1
                position, memory.jump, memory.ordinal, memory.open_ended = "end", memory.jumps, 0, True
                self._execute("UPDATE runs SET jumped = TRUE WHERE partition = ?", partition)
            self._save(partition, position, memory, Counts())
        self._before[partition] = None
        return position

    def add(self, chunk: Chunk) -> int:
        """Store what is new in the chunk, with its position; how many records that were.

        Raises PositionMoved if another copy of this consumer has advanced the partition.
        """
        with self._transaction():
            _, memory = self._partition(chunk.partition)
            if self._execute(_COMPARE_AND_SET, chunk.end, chunk.partition, chunk.start).rowcount != 1:
                raise PositionMoved(f"another copy of this consumer has advanced {chunk.partition}")
            found = track(self._connection, chunk, memory.open_ended)
            without_ids = found.external
            stored, found.external = self._insert(chunk, memory)
            if chunk.begins_again:  # its records are the last ones of the file before
                memory.rotations, memory.jump, memory.ordinal, memory.open_ended = memory.rotations + 1, 0, 0, True
                self._execute(_BEGIN_AGAIN, chunk.partition)
            known = len(chunk.records) - without_ids - stored  # the index knows all, the tracker is bounded
            found.again = min(found.again, known)
            found.duplicate = known - found.again
            found.again += without_ids - found.external
            found.records, found.invalid = stored + found.external, len(chunk.invalid)
            self._save(chunk.partition, chunk.end, memory, found)
        self.run = Counts(*map(sum, zip(astuple(self.run), astuple(found), strict=True)))
        return found.records

    def _insert(self, chunk: Chunk, memory: Memory) -> tuple[int, int]:
        """Insert what is not there yet; how many records with ids, and how many without."""
        inserted, step = [0, 0], max(1, min(ROWS_PER_STATEMENT, MAX_VALUES // len(self._table.columns)))
        for without_ids, group in groupby(memory.rows(chunk, self.stream), lambda row: row[-1] is not None):
            rows = list(group)
            for start in range(0, len(rows), step):
                page = rows[start : start + step]
                statement = f"{self._table.insert(len(page))} ON CONFLICT DO NOTHING"
                inserted[without_ids] += self._execute(statement, *chain.from_iterable(page)).rowcount
        return inserted[0], inserted[1]

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def _partition(self, partition: str) -> tuple[str, Memory]:
        """Position and memory of a partition, in a transaction."""
        self._execute(_ENTER, partition)
        ((position, memory),) = self._execute(_FIND, partition).fetchall()
        return position, msgspec.json.decode(memory, type=Memory)

    def _save(self, partition: str, position: str, memory: Memory, found: Counts) -> None:
        added = ", ".join(f"{name} = {name} + ?" for name in TOTALS)
        update = f"UPDATE partitions SET position = ?, memory = ?, {added} WHERE partition = ?"
        self._execute(update, position, msgspec.json.encode(memory).decode(), *astuple(found), partition)

    def counts(self) -> Counts:
        """The totals since the store began; `run` holds those of this run."""
        with sqlite.errors(self._path):
            totals = self._execute(f"SELECT {', '.join(map('COALESCE(SUM({}), 0)'.format, TOTALS))} FROM partitions")
            return Counts(*totals.fetchone())

    def summary(self, limit: int = 5) -> dict[str, list[tuple[Any, ...]]]:
        """Rows (name, count, mean of `value`, newest event time) by the stream's `by` and by minute."""
        with sqlite.errors(self._path):
            return summarize(self._connection, self.stream, limit)

    def close(self) -> None:
        """Release the file; one that was moved gets everything first, as its log stays at the old name."""
        sqlite.close(self._connection, self._path, self._opened)
