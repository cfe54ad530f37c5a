"""The producer's durable queue: what `append` returned from is acknowledged and reaches every subscribed sink.

One SQLite file per producer, one row per appended batch. Each process is a run with a producer_id of its own; the
sequence counts the journal's records over all runs, so a place in the journal is one integer.
"""

import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import lz4.block

from utils.app.errors import ToolkitError
from utils.delivery.journal_file import JournalFile
from utils.records.codec import instant_text
from utils.records.record import Batch
from utils.records.stream import Stream

MAX_BATCH_BYTES = 32 << 20
RECENT_RECORDS, RECENT_BYTES = 100_000, 40 << 20
VERSION = 3  # of the schema

_SCHEMA = (
    "runs (run INTEGER PRIMARY KEY, producer_id TEXT NOT NULL UNIQUE, first INTEGER NOT NULL, last INTEGER NOT NULL)",
    "batches (last INTEGER PRIMARY KEY, run INTEGER NOT NULL, count INTEGER NOT NULL, lines BLOB NOT NULL)",
    "subscriptions (sink TEXT PRIMARY KEY, since TEXT NOT NULL, after INTEGER NOT NULL, reached INTEGER NOT NULL, "
    "mark TEXT NOT NULL)",
    "positions (partition TEXT PRIMARY KEY, position TEXT NOT NULL)",
    "facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)

_NOTE = "UPDATE subscriptions SET reached = ?, mark = ? WHERE sink = ?"


class Subscription(NamedTuple):
    """A sink that gets every record behind `after`, since `since`; `reached` and `mark` are what it had last."""

    since: str
    after: int
    reached: int
    mark: str


class Journal:
    """The queue of one producer. One process appends at a time; any thread of it may call any method."""

    def __init__(self, path: Path, stream: Stream, *, max_bytes: int = 1 << 30) -> None:
        """Open or create the journal `path` (its stem names the producer) and begin a run.

        Raises ToolkitError if another process uses it (the PID is named), if it is another stream's or of another
        version, or if the folder cannot be used.
        """
        self.max_bytes = max_bytes
        self._codec = stream.codec
        self._recent = _Recent()
        self._file = JournalFile(path)
        try:
            self.producer_id, self.last = self._begin_run(stream.name)
        except ToolkitError:
            self.close()
            raise
        ((self.pending_bytes, oldest),) = self._file.query(
            "SELECT COALESCE(SUM(LENGTH(lines)), 0), MIN(last - count) FROM batches"
        )
        self.pruned: int = self.last if oldest is None else oldest
        """Everything up to here has left the journal."""

    @property
    def key(self) -> str:
        """`<name>-<journal>`, the same in all runs."""
        return self.producer_id.rpartition("-")[0]

    def _begin_run(self, stream: str) -> tuple[str, int]:
        """Commit a new run; its id and the last sequence assigned before it.

        The commit also makes durable what a killed process left, before any of it is delivered.
        """
        with self._file.transaction() as connection:
            execute = connection.execute
            ((version,),) = execute("PRAGMA user_version").fetchall()
            if version != VERSION:
                if version or execute("SELECT 1 FROM sqlite_master").fetchall():
                    raise ToolkitError(
                        f"{self._file.path} is no journal of this version: "
                        "deliver its rest with the version that wrote it, or move it away"
                    )
                for table in _SCHEMA:
                    execute(f"CREATE TABLE {table}")
                execute(f"PRAGMA user_version = {VERSION}")
            execute("INSERT INTO facts VALUES ('stream', ?) ON CONFLICT DO NOTHING", (stream,))
            ((known,),) = execute("SELECT value FROM facts WHERE name = 'stream'").fetchall()
            if known != stream:
                raise ToolkitError(f"{self._file.path} belongs to stream {known}, not {stream}: use another --data-dir")
            rows = execute("SELECT producer_id, last FROM runs ORDER BY run DESC LIMIT 1").fetchall()
            newest, last = rows[0] if rows else (f"{self._file.path.stem}-{secrets.token_hex(4)}-", 0)
            producer_id = f"{newest.rpartition('-')[0]}-{secrets.token_hex(4)}"
            execute("INSERT INTO runs (producer_id, first, last) VALUES (?, ?, ?)", (producer_id, last + 1, last))
        return producer_id, last

    def append(
        self,
        batch: Batch,
        *,
        reached: Mapping[str, tuple[int, str]] | None = None,
        positions: Mapping[str, str] | None = None,
    ) -> None:
        """Store the batch, whose sequences follow `last`; on return its records are acknowledged.

        An empty one brings positions only. In the same transaction go what each sink has `reached` (and its mark), the
        rows that all of them have, and the `positions` of the source that the records were read from. Raises
        Unavailable if the disk is full or the file locked (append the same batch again), ToolkitError if the file was
        taken away or another process has begun a run.
        """
        with self._file.transaction() as connection:
            advanced = connection.execute(
                "UPDATE runs SET last = ? WHERE producer_id = ? AND last = ? AND run = (SELECT MAX(run) FROM runs) "
                "RETURNING run",
                (batch.last, self.producer_id, batch.first - 1),
            ).fetchall()
            if not advanced:
                raise ToolkitError(f"another process writes to journal {self._file.path} by now; this one ends")
            # Compressed, because a fraction of the bytes is written and synced for less than that costs.
            stored = lz4.block.compress(batch.lines) if batch.count else b""
            if batch.count:
                row = (batch.last, advanced[0][0], batch.count, stored)
                connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", row)
            for position in (positions or {}).items():
                connection.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", position)
            pruned, removed = self._note(connection, reached or {})
        if batch.count:
            self._recent.add(batch)
        self.pruned = pruned
        self.pending_bytes += len(stored) - removed
        self.last = batch.last

    def note(self, sink: str, reached: int, mark: str) -> None:
        """Store what a sink has reached, and its mark, before anything more is delivered to it."""
        with self._file.transaction() as connection:
            connection.execute(_NOTE, (reached, mark, sink))

    def prune(self, reached: Mapping[str, tuple[int, str]]) -> None:
        """Store what each sink has reached, and delete the rows that every subscribed sink has."""
        with self._file.transaction() as connection:
            pruned, removed = self._note(connection, reached)
        self.pruned = pruned
        self.pending_bytes -= removed

    def _note(self, connection: sqlite3.Connection, reached: Mapping[str, tuple[int, str]]) -> tuple[int, int]:
        """The place that every subscribed sink has, and how many bytes went."""
        execute = connection.execute
        for sink, (place, mark) in reached.items():
            execute(_NOTE, (place, mark, sink))
        ((low,),) = execute("SELECT COALESCE(MIN(MAX(after, reached)), ?) FROM subscriptions", (self.last,)).fetchall()
        if low <= self.pruned:
            return self.pruned, 0
        rows = execute("SELECT COALESCE(SUM(LENGTH(lines)), 0) FROM batches WHERE last <= ?", (low,)).fetchall()
        execute("DELETE FROM batches WHERE last <= ?", (low,))
        return low, rows[0][0]

    def runs(self) -> dict[str, int]:
        """producer_id -> last sequence of all runs that appended anything, in order."""
        return dict(self._file.query("SELECT producer_id, last FROM runs WHERE last >= first ORDER BY run"))

    def read(self, after: int, max_count: int) -> Batch | None:
        """The records right behind `after`, at most `max_count`, of one run; None if there are none."""
        if after >= self.last:
            return None
        return _joined(self._recent.after(after) or self._stored(after), after, max_count)

    def _stored(self, after: int) -> Iterator[Batch]:
        """The stored batches behind `after`, each with its own query: other threads may append meanwhile."""
        query = (
            "SELECT producer_id, batches.last, count, lines FROM batches JOIN runs USING (run) "
            "WHERE batches.last > ? ORDER BY batches.last LIMIT 1"
        )
        while rows := self._file.query(query, after):
            ((producer_id, after, count, lines),) = rows
            yield Batch(producer_id, after, count, lz4.block.decompress(lines), self._codec)

    def subscriptions(self) -> dict[str, Subscription]:
        """All subscribed sinks, in the order in which they were subscribed."""
        rows = self._file.query("SELECT sink, since, after, reached, mark FROM subscriptions ORDER BY rowid")
        return {sink: Subscription(*rest) for sink, *rest in rows}

    def subscribe(self, sinks: Iterable[str]) -> None:
        """From now on these sinks get every record, in this run or another, until `drop`."""
        now = instant_text(time.time_ns() // 1_000_000 * 1_000)
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT INTO subscriptions VALUES (?, ?, ?, 0, '') ON CONFLICT DO NOTHING",
                [(sink, now, self.last) for sink in sinks],
            )

    def drop(self, sinks: Iterable[str]) -> None:
        """End subscriptions; what was pending for them alone is deleted with the next rows."""
        with self._file.transaction() as connection:
            connection.executemany("DELETE FROM subscriptions WHERE sink = ?", [(sink,) for sink in sinks])

    def position(self, partition: str) -> str:
        """The position of a source that was stored with its last records, "" if there is none."""
        rows = self._file.query("SELECT position FROM positions WHERE partition = ?", partition)
        return str(rows[0][0]) if rows else ""

    def trim_positions(self, prefix: str, keep: int) -> None:
        """Delete positions of partitions that begin with `prefix`, unless they are among the last `keep` of all."""
        with self._file.transaction() as connection:
            connection.execute(
                "DELETE FROM positions WHERE rowid <= (SELECT MAX(rowid) FROM positions) - ? "
                "AND substr(partition, 1, ?) = ?",
                (keep, len(prefix), prefix),
            )

    def close(self) -> None:
        """Release file and lock; may be called twice."""
        self._file.close()


def _joined(batches: Iterable[Batch], after: int, max_count: int) -> Batch | None:
    """One batch of what is behind `after` in batches of one run."""
    found: list[Batch] = []
    count = size = 0
    for batch in batches:
        if found and (batch.producer_id != found[0].producer_id or size + len(batch.lines) > MAX_BATCH_BYTES):
            break
        first = max(batch.first, after + 1)
        found.append(batch.between(first, first + max_count - count - 1))
        count += found[-1].count
        size += len(batch.lines)
        if count >= max_count:
            break
    return Batch.join(found) if found else None


class _Recent:
    """The latest batches, for workers that keep up to read from memory, whose columns so are made once."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._batches: deque[Batch] = deque()
        self._bytes = 0

    def add(self, batch: Batch) -> None:
        """Keep a batch and let go of the oldest ones that are too many."""
        with self._mutex:
            self._batches.append(batch)
            self._bytes += len(batch.lines)
            while self._batches and (
                batch.last - self._batches[0].first >= RECENT_RECORDS or self._bytes > RECENT_BYTES
            ):
                self._bytes -= len(self._batches.popleft().lines)

    def after(self, sequence: int) -> list[Batch]:
        """The batches with records behind a sequence if all of them are here, else none."""
        with self._mutex:
            if not self._batches or self._batches[0].first - 1 > sequence:
                return []
            return list(takewhile(lambda batch: batch.last > sequence, reversed(self._batches)))[::-1]
