"""What consumers keep: records and positions, in one SQLite file and one transaction.

A chunk is stored once or not at all, whatever is killed, started twice or fenced: `add` compares the chunk's `start`
with the stored position of its partition and sets `end` in the transaction that stores the records. Table `records`
has the stream's columns; `partitions` has position, totals and the tracker's state. Everything
else is a view.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from utils.app.errors import PositionMoved, ToolkitError
from utils.clients import sqlite
from utils.clients.files import check_one_name, file_id
from utils.reading.tracker import Counts, State, Tracker
from utils.records.codec import microseconds
from utils.records.stream import Stream
from utils.records.table import Table, quoted
from utils.sources.base import Chunk

VERSION = 2
WAIT_S = 5.0
LATE_AFTER_US = 60_000_000
MAX_VALUES = 32_766
_INT64 = 2**63 - 1
_TOTALS = ", ".join(f"{name} BIGINT NOT NULL DEFAULT 0" for name in Counts.__struct_fields__)
_SET_TOTALS = ", ".join(f"{name} = ?" for name in Counts.__struct_fields__)


class Memory(msgspec.Struct):
    """What is known of a partition beside its position: the tracker, and where records without ids stand."""

    tracker: State = msgspec.field(default_factory=State)
    newest_us: int | None = None
    generation: int = 0
    ordinal: int = 0


class ProcessedStore:
    """One consumer's store. Opening creates it; raises ToolkitError if another version wrote it."""

    def __init__(self, path: Path, stream: Stream) -> None:
        self._path, self._stream, self._table = path, stream, Table(stream)
        self._start: Literal["stored", "start", "end"] = "stored"
        self._before: dict[str, str] = {}  # the positions when this run began
        self._resumed: set[str] = set()
        self.run = Counts()
        check_one_name(path)
        self._connection = sqlite.connect(path, wait_s=WAIT_S)
        self._opened = file_id(path)
        try:
            with self._transaction():
                self._create()
        except (ToolkitError, sqlite3.Error):
            self.close()
            raise

    def _create(self) -> None:
        execute = self._connection.execute
        ((version,),) = execute("PRAGMA user_version").fetchall()
        if version not in (0, VERSION):
            raise ToolkitError(f"{self._path} was written by another version ({version}); move the file away")
        fields = self._table.typed("sqlite")
        existing = sqlite.columns(self._connection, "records")
        if not existing:
            columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in fields)
            execute(f"CREATE TABLE records ({columns}, store_late BIGINT NOT NULL, store_place TEXT UNIQUE)")
            execute("CREATE UNIQUE INDEX records_identity ON records (producer_id, sequence)")
            execute(
                "CREATE TABLE partitions (partition TEXT PRIMARY KEY, position TEXT NOT NULL, memory TEXT NOT NULL, "
                f"{_TOTALS})"
            )
            execute(f"PRAGMA user_version = {VERSION}")
        known = {name.lower() for name in existing}
        for name, kind in fields if existing else ():
            if name.lower() not in known:
                execute(f"ALTER TABLE records ADD COLUMN {quoted(name)} {kind}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with sqlite.errors(self._path), sqlite.transaction(self._connection):
            if file_id(self._path) != self._opened:  # what is stored now would be gone with the file
                raise ToolkitError(f"processed store {self._path} was deleted, moved or replaced in use; start again")
            yield

    def start_from(self, start: Literal["stored", "start", "end"]) -> None:
        """Where each partition begins when it is first resumed in this run.

        At its end only if nobody has advanced it since: what another copy then hands over is not passed over.
        """
        self._start = start
        with sqlite.errors(self._path):
            self._before = dict(self._connection.execute("SELECT partition, position FROM partitions").fetchall())

    def resume(self, partition: str) -> str:
        """The stored position of a partition, which `start_from` may have changed. See Resume."""
        with self._transaction():
            position, memory, counts = self._partition(partition)
            handed_over = self._start == "end" and position != self._before.get(partition, "")
            if self._start != "stored" and partition not in self._resumed and not handed_over:
                tracker = Tracker()
                tracker.restore(memory.tracker, counts)
                if self._start == "end":
                    position, memory.generation, memory.ordinal = "end", memory.generation + 1, 0
                    tracker.jump_to_end()
                else:
                    position, memory.generation, memory.ordinal = "", 0, 0
                    tracker.begin_again()
                memory.tracker = tracker.state()
                self._save(partition, position, memory, counts)
        self._resumed.add(partition)
        return position

    def add(self, chunk: Chunk) -> list[Any]:
        """Store what is new in the chunk, with its position; the records that were new.

        Raises PositionMoved if another copy of this consumer has advanced the partition.
        """
        with self._transaction():
            position, memory, counts = self._partition(chunk.partition)
            if position != chunk.start:
                raise PositionMoved(f"another copy of this consumer has advanced {chunk.partition}")
            before = msgspec.structs.replace(counts)
            tracker = Tracker()
            tracker.restore(memory.tracker, counts)
            if chunk.begins_again:
                tracker.begin_again()
                memory.generation, memory.ordinal = memory.generation + 1, 0
            new = tracker.admit(chunk.records)
            counts.invalid += len(chunk.invalid)
            surplus = len(new) - self._insert(chunk.partition, new, memory)
            counts.new, counts.duplicate = counts.new - surplus, counts.duplicate + surplus  # of an evicted run
            memory.tracker = tracker.state()
            self._save(chunk.partition, chunk.end, memory, counts)
        for name in Counts.__struct_fields__:
            setattr(self.run, name, getattr(self.run, name) + getattr(counts, name) - getattr(before, name))
        return new

    def _insert(self, partition: str, records: Sequence[Any], memory: Memory) -> int:
        """Insert what is not there yet; how many rows that were."""
        rows = []
        for record, row in zip(records, self._stream.codec.rows(records), strict=True):
            at_us = microseconds(record.timestamp) if record.timestamp else None
            late = at_us is not None and memory.newest_us is not None and at_us < memory.newest_us - LATE_AFTER_US
            if at_us is not None:
                memory.newest_us = max(at_us, memory.newest_us or at_us)
            place = None
            if record.sequence is None:
                memory.ordinal += 1
                place = f"{partition}:{memory.generation}:{memory.ordinal}"
            rows.append((*row, late, place))
        columns = f"{self._table.row}, store_late, store_place"
        width, inserted = len(self._table.columns) + 2, 0
        step = max(1, min(500, MAX_VALUES // width))
        for start in range(0, len(rows), step):
            page = rows[start : start + step]
            values = ", ".join([f"({', '.join('?' * width)})"] * len(page))
            statement = f"INSERT INTO records ({columns}) VALUES {values} ON CONFLICT DO NOTHING"
            inserted += self._connection.execute(statement, [value for row in page for value in row]).rowcount
        return inserted

    def _partition(self, partition: str) -> tuple[str, Memory, Counts]:
        """Position, memory and totals of a partition, within a transaction."""
        totals = ", ".join(Counts.__struct_fields__)
        query = f"SELECT position, memory, {totals} FROM partitions WHERE partition = ?"
        for position, memory, *counts in self._connection.execute(query, (partition,)).fetchall():
            return position, msgspec.json.decode(memory, type=Memory), Counts(*counts)
        return "", Memory(), Counts()

    def _save(self, partition: str, position: str, memory: Memory, counts: Counts) -> None:
        totals = (min(each, _INT64) for each in msgspec.structs.astuple(counts))
        values = (position, msgspec.json.encode(memory).decode(), *totals)
        insert = "INSERT INTO partitions (partition, position, memory) VALUES (?, '', '{}') ON CONFLICT DO NOTHING"
        self._connection.execute(insert, (partition,))
        update = f"UPDATE partitions SET position = ?, memory = ?, {_SET_TOTALS} WHERE partition = ?"
        self._connection.execute(update, (*values, partition))

    def counts(self) -> Counts:
        """The totals since the store began; `run` holds those of this run."""
        sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in Counts.__struct_fields__)
        with sqlite.errors(self._path):
            ((*found,),) = self._connection.execute(f"SELECT {sums} FROM partitions").fetchall()
        return Counts(*(min(each, _INT64) for each in found))

    def summary(self, limit: int = 5) -> dict[str, list[tuple[Any, ...]]]:
        """Rows (name, count, mean of `value`, last timestamp) by the stream's `by` and by minute, the most first."""
        value = f"AVG({quoted(self._stream.value)})" if self._stream.value else "NULL"
        groups = {"minute": "SUBSTR(timestamp, 1, 16)"}
        if self._stream.by:
            groups = {self._stream.by: quoted(self._stream.by), **groups}
        found = {}
        with sqlite.errors(self._path):
            for name, group in groups.items():
                order = "1 DESC" if name == "minute" else "2 DESC, 1"
                query = (
                    f"SELECT {group}, COUNT(*), {value}, MAX(timestamp) FROM records WHERE {group} IS NOT NULL "
                    f"GROUP BY 1 ORDER BY {order} LIMIT ?"
                )
                found[name] = self._connection.execute(query, (limit,)).fetchall()
        return found

    def close(self) -> None:
        """Release the file; one that was moved gets everything first, as its log stays at the old name."""
        sqlite.close(self._connection, self._path, self._opened)
