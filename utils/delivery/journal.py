"""The journal: the durable queue of a producer, in a SQLite file. A record is acknowledged once `append` returns.

Each process is a run with its own producer_id. Sequences count the records of all runs, so a place is one integer.
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

MAX_BATCH_BYTES = 32 << 20  # of a batch that `read` joins
RECENT_BATCHES, RECENT_RECORDS, RECENT_BYTES = 500, 100_000, 40 << 20  # limits of what is kept in memory
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
    """A sink's subscription to the records of all runs, until it is dropped."""

    since: str  # the time when it began
    after: int  # the sink gets the records after this sequence
    reached: int  # the sink has stored all records up to this sequence
    mark: str  # the emitter's mark at that time, see Emitter


class Journal:
    """The queue of one producer. Only one thread at a time may append; any thread may call the other methods."""

    def __init__(self, path: Path, stream: Stream) -> None:
        """Open or create the journal at `path`, whose stem is the producer's name, and begin a run.

        Raises ToolkitError if the file cannot be used, or if another process uses it (the error names its PID).
        """
        self.stream = stream
        self._recent: list[Batch] = []  # each append makes a new list, so that reading needs no lock
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
        """Insert a run. Return its id and the last sequence before it. The commit syncs what a killed run left."""
        path, stream = self._file.path, self.stream.name
        with self._file.transaction() as connection:
            execute = connection.execute
            ((version,),) = execute("PRAGMA user_version").fetchall()
            if version != VERSION:
                if version or execute("SELECT 1 FROM sqlite_master").fetchall():
                    remedy = "deliver what is pending with the version that wrote it, or move the file away"
                    raise ToolkitError(f"{path} is not a journal of this version: {remedy}")
                for table in _SCHEMA:
                    execute(f"CREATE TABLE {table}")
                execute(f"PRAGMA user_version = {VERSION}")
            execute("INSERT INTO facts VALUES ('stream', ?) ON CONFLICT DO NOTHING", (stream,))
            ((known,),) = execute("SELECT value FROM facts WHERE name = 'stream'").fetchall()
            if known != stream:
                remedy = "rename the producer (for a feed: its SOURCE or its stream), or use another --data-dir"
                raise ToolkitError(f"{path} belongs to stream {known}, not {stream}: {remedy}")
            rows = execute("SELECT producer_id, last FROM runs ORDER BY run DESC LIMIT 1").fetchall()
            newest, last = rows[0] if rows else (f"{path.stem}-{secrets.token_hex(4)}-", 0)
            producer_id = f"{newest.rpartition('-')[0]}-{secrets.token_hex(4)}"
            execute("INSERT INTO runs (producer_id, first, last) VALUES (?, ?, ?)", (producer_id, last + 1, last))
        return producer_id, last

    @property
    def key(self) -> str:
        """The part `<name>-<journal>` of the producer_id, which is the same in all runs."""
        return self.producer_id.rpartition("-")[0]

    def append(self, batch: Batch, positions: Mapping[str, str] | None = None) -> None:
        """Store a batch that begins right after sequence `last`. Once this returns, its records are acknowledged.

        The same transaction stores the `positions` of the source (an empty batch has only these), stores how far each
        sink is, and deletes delivered batches. Raises Unavailable if the disk is full or the file is locked (then
        append again), ToolkitError if the file was replaced or another process has begun a newer run.
        """
        with self._file.transaction() as connection:
            advanced = connection.execute(
                "UPDATE runs SET last = ? WHERE producer_id = ? AND last = ? AND run = (SELECT MAX(run) FROM runs) "
                "RETURNING run",
                (batch.last, self.producer_id, batch.first - 1),
            ).fetchall()
            if not advanced:
                raise ToolkitError(f"another process writes to journal {self._file.path} now; this one ends")
            stored = b""
            if batch.count:
                stored = lz4.block.compress(batch.lines)  # takes less time than it saves in writing and syncing
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
        """Store how far each sink is, and delete the batches that every subscribed sink has stored."""
        with self._file.transaction() as connection:
            removed = self._remove_delivered(connection)
        self.pending_bytes -= removed

    def _remove_delivered(self, connection: sqlite3.Connection) -> int:
        """Do the work of `prune` within a transaction. Return the number of deleted bytes."""
        reached = [(each.reached, each.mark, sink) for sink, each in self.subscriptions.items()]
        connection.executemany(_NOTE, reached)
        rows = connection.execute(
            "DELETE FROM batches WHERE last <= (SELECT MIN(reached) FROM subscriptions) RETURNING LENGTH(lines)"
        )
        return sum(size for (size,) in rows.fetchall())

    def note_reached(self, sink: str, reached: int, mark: str, *, durable: bool = False) -> None:
        """Note how far a sink is, and its emitter's mark. The next append stores both, or this call if `durable`."""
        self.subscriptions[sink] = self.subscriptions[sink]._replace(reached=reached, mark=mark)
        if durable:  # after the line above, or an append in between would put the old values back
            with self._file.transaction() as connection:
                connection.execute(_NOTE, (reached, mark, sink))

    def pending(self) -> dict[str, int]:
        """Return the number of pending records per subscribed sink. A sink may be ahead of what is noted."""
        return {sink: self.last - each.reached for sink, each in self.subscriptions.items()}

    @property
    def pruned(self) -> int:
        """The sequence up to which all records have left the journal."""
        # One statement, because another thread may append at the same time.
        oldest = "SELECT COALESCE(MIN(last - count), (SELECT MAX(last) FROM runs)) FROM batches"
        return int(self._file.query(oldest)[0][0])

    def subscribe(self, sinks: Iterable[str], *, drop: Iterable[str] = ()) -> None:
        """End the subscriptions of the sinks to `drop`. Subscribe `sinks` to all records of this and later runs."""
        since = present()
        with self._file.transaction() as connection:
            connection.executemany("DELETE FROM subscriptions WHERE sink = ?", [(sink,) for sink in drop])
            connection.executemany(
                "INSERT INTO subscriptions VALUES (?, ?, ?, ?, '') ON CONFLICT DO NOTHING",
                [(sink, since, self.last, self.last) for sink in sinks],
            )
        rows = self._file.query("SELECT sink, since, after, reached, mark FROM subscriptions ORDER BY rowid")
        self.subscriptions = {sink: Subscription(*rest) for sink, *rest in rows}

    def runs(self) -> dict[str, int]:
        """Return producer_id and last sequence of the runs that have appended records, the oldest run first."""
        return dict(self._file.query("SELECT producer_id, last FROM runs WHERE last >= first ORDER BY run"))

    def read(self, after: int, max_count: int) -> Batch | None:
        """Return the next records after sequence `after`: at most `max_count`, of one run; None if there are none."""
        found: list[Batch] = []
        count = size = 0
        for batch in self._batches_after(after):
            if found and (batch.producer_id != found[0].producer_id or size + len(batch.lines) > MAX_BATCH_BYTES):
                break
            first = max(batch.first, after + 1)
            found.append(batch.between(first, first + max_count - count - 1))
            count += found[-1].count
            size += len(batch.lines)
            if count >= max_count:
                break
        return Batch.join(found) if found else None

    def _batches_after(self, after: int) -> Iterator[Batch]:
        """Yield the batches after a sequence: from memory, where they have their columns already, or from the file."""
        recent = self._recent
        if recent and recent[0].first <= after + 1:
            yield from (batch for batch in recent if batch.last > after)
            return
        query = (  # run once per batch, because other threads may append between two batches
            "SELECT producer_id, batches.last, count, lines FROM batches JOIN runs USING (run) "
            "WHERE batches.last > ? ORDER BY batches.last LIMIT 1"
        )
        while rows := self._file.query(query, after):
            ((producer_id, after, count, lines),) = rows
            yield Batch(producer_id, after, count, lz4.block.decompress(lines), self.stream.codec)

    def _remember(self, batch: Batch) -> None:
        """Keep a batch in memory for workers that keep up, and remove the oldest batches beyond the limits."""
        recent = [*self._recent[1 - RECENT_BATCHES :], batch]
        size = sum(len(each.lines) for each in recent)
        while recent and (batch.last - recent[0].first >= RECENT_RECORDS or size > RECENT_BYTES):
            size -= len(recent.pop(0).lines)
        self._recent = recent

    def position(self, partition: str) -> str:
        """Return the position of a source's partition as the last `append` stored it, "" if there is none."""
        rows = self._file.query("SELECT position FROM positions WHERE partition = ?", partition)
        return str(rows[0][0]) if rows else ""

    def trim_positions(self, prefix: str, keep: int) -> None:
        """Delete the positions of partitions whose names begin with `prefix`, except the newest `keep` of all."""
        older = "rowid <= (SELECT MAX(rowid) FROM positions) - ? AND substr(partition, 1, ?) = ?"
        with self._file.transaction() as connection:
            connection.execute(f"DELETE FROM positions WHERE {older}", (keep, len(prefix), prefix))

    def close(self) -> None:
        """Shrink the file if an outage has filled it, close it, and release the lock. May be called twice."""
        with suppress(ToolkitError):
            ((pages,),), ((free,),) = (self._file.query(f"PRAGMA {each}_count") for each in ("page", "freelist"))
            if free > max(1000, pages // 2):
                self._file.query("VACUUM")
        self._opened.close()


def _locked(path: Path) -> portalocker.PidFileLock:
    """Acquire and return the lock of a journal. Raises ToolkitError, which names the process that has it."""
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
