"""What a consumer keeps: records and positions, in one database and one transaction.

A chunk is stored once or not at all, whatever is killed, started twice or fenced: `add` compares the chunk's `start`
with the stored position of its partition and sets `end` in the transaction that stores the records. The unique
indexes of `records` decide what is new; `partitions` has positions and totals, `runs` what the tracker knows.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from msgspec.structs import astuple

from utils.app.errors import PositionMoved
from utils.reading.database import Database, SqliteDatabase
from utils.reading.store_table import StoreTable
from utils.reading.store_tables import TOTALS, Memory, prepare, summarize, track
from utils.reading.tracker import Counts
from utils.records.stream import Stream
from utils.sources.base import Chunk

_ENTER = "INSERT INTO partitions (partition, position, memory) VALUES (?, '', '{}') ON CONFLICT DO NOTHING"
_LOCK = "UPDATE partitions SET position = position WHERE partition = ?"
_COMPARE_AND_SET = "UPDATE partitions SET position = ? WHERE partition = ? AND position = ?"
_FIND = "SELECT position, memory FROM partitions WHERE partition = ?"
_BEGIN_AGAIN = "UPDATE runs SET again = high WHERE partition = ?"


class Part(Protocol):
    """What else a store contains. Both methods are called in a transaction, and with the database only."""

    def prepare(self, database: Database, stream: Stream) -> None:
        """Make the tables where they are missing; the stream has the types of the store."""
        ...

    def add(self, database: Database, chunk: Chunk, new: Sequence[Any]) -> None:
        """Store what follows from the chunk, of whose records these are `new` to the store."""
        ...


class ProcessedStore:
    """One consumer's store; opening creates it. `stream` is the stream with the types that the store began with.

    `start` says where each partition begins when it is first resumed in this run. At its end only if nobody has
    advanced it since: what another copy then hands over is not passed over. A path stands for a SQLite file. Raises
    ToolkitError if another version wrote the store.
    """

    def __init__(
        self,
        database: Database | Path,
        stream: Stream,
        start: Literal["stored", "start", "end"] = "stored",
        parts: Sequence[Part] = (),
    ) -> None:
        self._database: Database = SqliteDatabase(database) if isinstance(database, Path) else database
        self._start, self._parts, self.run = start, parts, Counts()
        self._before: dict[str, str | None]  # the positions when this run began, None once a partition was resumed
        with ExitStack() as undo:
            undo.callback(self.close)
            with self._database.transaction():
                self.stream = prepare(self._database, stream)
                for part in parts:
                    part.prepare(self._database, self.stream)
                self._before = dict(self._execute("SELECT partition, position FROM partitions").fetchall())
            undo.pop_all()
        self._table = StoreTable(self.stream)

    def resume(self, partition: str) -> str:
        """The stored position of a partition, which `start` may change. See Resume."""
        with self._database.transaction():
            self._execute(_ENTER, partition)
            self._execute(_LOCK, partition)
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
        with self._database.transaction():
            self._execute(_ENTER, chunk.partition)
            if self._execute(_COMPARE_AND_SET, chunk.end, chunk.partition, chunk.start).rowcount != 1:
                raise PositionMoved(f"another copy of this consumer has advanced {chunk.partition}")
            _, memory = self._partition(chunk.partition)  # after the update, which keeps others away from it
            found = track(self._database, chunk, memory.open_ended)
            new = self._insert(chunk, memory, found)
            for part in self._parts:
                part.add(self._database, chunk, new)
            if chunk.begins_again:  # its records are the last ones of the file before
                memory.rotations, memory.jump, memory.ordinal, memory.open_ended = memory.rotations + 1, 0, 0, True
                self._execute(_BEGIN_AGAIN, chunk.partition)
            self._save(chunk.partition, chunk.end, memory, found)
        self.run = Counts(*map(sum, zip(astuple(self.run), astuple(found), strict=True)))
        return found.records

    def _insert(self, chunk: Chunk, memory: Memory, found: Counts) -> Sequence[Any]:
        """Insert what is not there yet, and correct what the tracker has `found`; the new records."""
        rows = list(memory.rows(chunk, self.stream))
        numbers, without_ids, new = self._database.insert(self._table, rows), found.external, chunk.records
        if len(numbers) < len(rows):
            new = [chunk.records[number] for number in numbers]
            found.external = sum(record.producer_id is None for record in new)
        known = len(rows) - without_ids - (len(new) - found.external)  # the index knows all, the tracker is bounded
        found.again = min(found.again, known)
        found.duplicate = known - found.again
        found.again += without_ids - found.external
        found.records, found.invalid = len(new), len(chunk.invalid)
        return new

    def _execute(self, statement: str, *values: Any) -> Any:
        return self._database.execute(statement, *values)

    def _partition(self, partition: str) -> tuple[str, Memory]:
        """Position and memory of a partition, in a transaction."""
        ((position, memory),) = self._execute(_FIND, partition).fetchall()
        return position, msgspec.json.decode(memory, type=Memory)

    def _save(self, partition: str, position: str, memory: Memory, found: Counts) -> None:
        added = ", ".join(f"{name} = {name} + ?" for name in TOTALS)
        update = f"UPDATE partitions SET position = ?, memory = ?, {added} WHERE partition = ?"
        self._execute(update, position, msgspec.json.encode(memory).decode(), *astuple(found), partition)

    def check(self) -> None:
        """Raise StoreUnavailable or another ToolkitError if nothing could be stored now."""
        with self._database.transaction():
            self._execute("SELECT 1")

    def counts(self) -> Counts:
        """The totals since the store began; `run` holds those of this run."""
        with self._database.errors():
            sums = ", ".join(map("CAST(COALESCE(SUM({}), 0) AS BIGINT)".format, TOTALS))
            ((*totals,),) = self._execute(f"SELECT {sums} FROM partitions").fetchall()
            return Counts(*totals)

    def summary(self, limit: int = 5) -> dict[str, list[tuple[Any, ...]]]:
        """Rows (name, count, mean of `value`, newest event time) by the stream's `by` and by minute."""
        with self._database.errors():
            return summarize(self._database, self.stream, limit)

    def close(self) -> None:
        """Release the database."""
        self._database.close()
