"""The producer's durable queue, a SQLite file: what `append` returned from is acknowledged and reaches every sink.

Each process is a run with a producer_id of its own. The sequence counts the records of all runs: a place is an integer.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

import lz4.block
import portalocker

from utils.app.errors import ToolkitError, Unavailable
from utils.clients import sqlite
from utils.records.instants import present
from utils.records.record import Batch
from utils.records.stream import Stream

MAX_BATCH_BYTES = 32 << 20
RECENT_BATCHES, RECENT_RECORDS, RECENT_BYTES = 500, 100_000, 40 << 20
VERSION = 4  # of the schema, and of the emitters' marks

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
    """A sink that gets every record behind `after`, since `since`; it had all up to `reached`, where its mark was."""

    since: str
    after: int
    reached: int
    mark: str


class Journal:
    """The queue of one producer. One thread at a time appends; any thread may call the other methods."""

    def __init__(self, path: Path, stream: Stream) -> None:
        """Open or create the journal `path`, whose stem names the producer, and begin a run.

        Raises ToolkitError if it cannot be used, or if another process uses it (the PID is named).
        """
        self.stream = stream
        self._recent: list[Batch] = []  # replaced and never changed, so that reading it takes no lock
        with ExitStack() as opened:
            opened.callback(_locked(path).release)
            try:
                self._file = opened.enter_context(closing(sqlite.Database(path, wait_s=5.0)))
            except Unavailable as error:
                raise ToolkitError(str(error)) from error
            self.producer_id, self.last = self._begin_run()
            ((self.pending_bytes,),) = self._file.query("SELECT COALESCE(SUM(LENGTH(lines)), 0) FROM batches")
            self.subscribe(())
            self._opened = opened.pop_all()

    def _begin_run(self) -> tuple[str, int]:
        """Commit a new run, and so what a killed process left; its id and the last sequence assigned before it."""
        path, stream = self._file.path, self.stream.name
        with self._file.transaction() as connection:
            execute = connection.execute
            ((version,),) = execute("PRAGMA user_version").fetchall()
            if version != VERSION:
                if version or execute("SELECT 1 FROM sqlite_master").fetchall():
                    remedy = "deliver its rest with the version that wrote it, or move it away"
                    raise ToolkitError(f"{path} is no journal of this version: {remedy}")
                for table in _SCHEMA:
                    execute(f"CREATE TABLE {table}")
                execute(f"PRAGMA user_version = {VERSION}")
            execute("INSERT INTO facts VALUES ('stream', ?) ON CONFLICT DO NOTHING", (stream,))
            ((known,),) = execute("SELECT value FROM facts WHERE name = 'stream'").fetchall()
            if known != stream:
                other = "give the producer, or SOURCE or stream of the feed, another name, or use another --data-dir"
                raise ToolkitError(f"{path} belongs to stream {known}, not {stream}: {other}")
            rows = execute("SELECT producer_id, last FROM runs ORDER BY run DESC LIMIT 1").fetchall()
            newest, last = rows[0] if rows else (f"{path.stem}-{secrets.token_hex(4)}-", 0)
            producer_id = f"{newest.rpartition('-')[0]}-{secrets.token_hex(4)}"
            execute("INSERT INTO runs (producer_id, first, last) VALUES (?, ?, ?)", (producer_id, last + 1, last))
        return producer_id, last

    @property
    def key(self) -> str:
        """`<name>-<journal>`, the same in all runs."""
        return self.producer_id.rpartition("-")[0]

    def append(self, batch: Batch, positions: Mapping[str, str] | None = None) -> None:
        """Store the batch, whose sequences follow `last`; on return its records are acknowledged.

        In the same transaction go the `positions` of the source that they were read from (an empty batch brings only
        these), what each sink has reached, and the rows that all of them have. Raises Unavailable if the disk is full
        or the file locked (append it again), ToolkitError if the file or the journal is another process's by now.
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
            removed = self._remove_delivered(connection)
        if batch.count:
            self._remember(batch)
        self.pending_bytes += len(stored) - removed
        self.last = batch.last

    def prune(self) -> None:
        """Store what each sink has reached, and delete the rows that every subscribed sink has."""
        with self._file.transaction() as connection:
            removed = self._remove_delivered(connection)
        self.pending_bytes -= removed

    def _remove_delivered(self, connection: sqlite3.Connection) -> int:
        """Delete the rows up to the place that every subscribed sink has reached; how many bytes that were."""
        noted = [(each.reached, each.mark, sink) for sink, each in self.subscriptions.items()]
        connection.executemany(_NOTE, noted)
        rows = connection.execute(
            "DELETE FROM batches WHERE last <= (SELECT MIN(reached) FROM subscriptions) RETURNING LENGTH(lines)"
        )
        return sum(size for (size,) in rows.fetchall())

    def note(self, sink: str, reached: int, mark: str, *, durable: bool = False) -> None:
        """Note what a sink has reached, and its emitter's mark; stored with the next append, unless `durable` now."""
        self.subscriptions[sink] = self.subscriptions[sink]._replace(reached=reached, mark=mark)
        if durable:  # comes second: an append between the two would store again what was noted before
            with self._file.transaction() as connection:
                connection.execute(_NOTE, (reached, mark, sink))

    def pending(self) -> dict[str, int]:
        """Subscribed sink -> how many records are pending for it, at most."""
        return {sink: self.last - each.reached for sink, each in self.subscriptions.items()}

    @property
    def pruned(self) -> int:
        """Everything up to here has left the journal."""
        # One statement: another thread may append meanwhile.
        oldest = "SELECT COALESCE(MIN(last - count), (SELECT MAX(last) FROM runs)) FROM batches"
        return int(self._file.query(oldest)[0][0])

    def subscribe(self, sinks: Iterable[str], *, drop: Iterable[str] = ()) -> None:
        """From now on these sinks get every record, in any run, until one is to `drop` with what is pending for it."""
        with self._file.transaction() as connection:
            connection.executemany("DELETE FROM subscriptions WHERE sink = ?", [(sink,) for sink in drop])
            connection.executemany(
                "INSERT INTO subscriptions VALUES (?, ?, ?, ?, '') ON CONFLICT DO NOTHING",
                [(sink, present(), self.last, self.last) for sink in sinks],
            )
        rows = self._file.query("SELECT sink, since, after, reached, mark FROM subscriptions ORDER BY rowid")
        self.subscriptions = {sink: Subscription(*rest) for sink, *rest in rows}

    def runs(self) -> dict[str, int]:
        """producer_id -> last sequence of all runs that appended anything, in order."""
        return dict(self._file.query("SELECT producer_id, last FROM runs WHERE last >= first ORDER BY run"))

    def read(self, after: int, max_count: int) -> Batch | None:
        """The records right behind `after`, at most `max_count`, of one run; None if there are none."""
        found: list[Batch] = []
        count = size = 0
        for batch in self._behind(after):
            if found and (batch.producer_id != found[0].producer_id or size + len(batch.lines) > MAX_BATCH_BYTES):
                break
            first = max(batch.first, after + 1)
            found.append(batch.between(first, first + max_count - count - 1))
            count += found[-1].count
            size += len(batch.lines)
            if count >= max_count:
                break
        return Batch.join(found) if found else None

    def _behind(self, after: int) -> Iterator[Batch]:
        """The batches with records behind a place: from memory if all are there, so that columns are made once."""
        recent = self._recent
        if recent and recent[0].first <= after + 1:
            yield from (batch for batch in recent if batch.last > after)
            return
        query = (  # one for each batch, as other threads may append meanwhile
            "SELECT producer_id, batches.last, count, lines FROM batches JOIN runs USING (run) "
            "WHERE batches.last > ? ORDER BY batches.last LIMIT 1"
        )
        while rows := self._file.query(query, after):
            ((producer_id, after, count, lines),) = rows
            yield Batch(producer_id, after, count, lz4.block.decompress(lines), self.stream.codec)

    def _remember(self, batch: Batch) -> None:
        """Keep a batch in memory, for workers that keep up, and let go of the oldest ones that are too many."""
        recent = [*self._recent[1 - RECENT_BATCHES :], batch]
        size = sum(len(each.lines) for each in recent)
        while recent and (batch.last - recent[0].first >= RECENT_RECORDS or size > RECENT_BYTES):
            size -= len(recent.pop(0).lines)
        self._recent = recent

    def position(self, partition: str) -> str:
        """The position of a source that was stored with its last records, "" if there is none."""
        rows = self._file.query("SELECT position FROM positions WHERE partition = ?", partition)
        return str(rows[0][0]) if rows else ""

    def trim_positions(self, prefix: str, keep: int) -> None:
        """Delete positions of partitions that begin with `prefix`, unless they are among the last `keep` of all."""
        older = "rowid <= (SELECT MAX(rowid) FROM positions) - ? AND substr(partition, 1, ?) = ?"
        with self._file.transaction() as connection:
            connection.execute(f"DELETE FROM positions WHERE {older}", (keep, len(prefix), prefix))

    def close(self) -> None:
        """Release file and lock, and the space that an outage took; may be called twice."""
        with suppress(ToolkitError):
            ((pages,),), ((free,),) = (self._file.query(f"PRAGMA {each}_count") for each in ("page", "freelist"))
            if free > max(1000, pages // 2):
                self._file.query("VACUUM")
        self._opened.close()


def _locked(path: Path) -> portalocker.PidFileLock:
    """The lock of a journal. Raises ToolkitError naming the process that has it."""
    lock = portalocker.PidFileLock(path.with_suffix(".pid"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except portalocker.AlreadyLocked as error:
        user = f"process {lock.read_pid() or 'unknown'}: stop it first, or use another --data-dir"
        raise ToolkitError(f"journal {path} is in use by {user}") from error
    except OSError as error:
        raise ToolkitError(f"data folder cannot be used: {path.parent}: {error.strerror or error}") from error
    return lock
