"""The producer's durable queue: what `append` returned from is acknowledged and will reach every owed sink.

One SQLite file per producer, one row per appended batch. Rows are counted by `number`, which
never starts again; a message's sequence is its number less the number at which its producer_id
began, so that a journal can go on under a new id without mixing up what still waits.
"""

import os
import secrets
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import portalocker
from loguru import logger

from utils.app.errors import ToolkitError
from utils.clients import sqlite
from utils.records.record import Batch, Message, timestamp_epoch_s, timestamp_text

# What workers that keep up read from memory instead of from disk.
RECENT_MESSAGES = 50_000
RECENT_BYTES = 32 << 20
MAX_BATCH_BYTES = 16 << 20

_SCHEMA = (
    "batches (last INTEGER PRIMARY KEY, count INTEGER NOT NULL, lines BLOB NOT NULL)",
    "identities (producer_id TEXT PRIMARY KEY, base INTEGER NOT NULL)",
    "owed (sink TEXT PRIMARY KEY, since TEXT NOT NULL, after INTEGER NOT NULL)",
    "bounds (sink TEXT PRIMARY KEY, last INTEGER NOT NULL)",
    "state (inode TEXT NOT NULL, last INTEGER NOT NULL)",
)


@dataclass(frozen=True)
class Identity:
    """A producer_id and the number after which its sequences 1, 2, 3 ... began."""

    producer_id: str
    base: int


@dataclass(frozen=True)
class Owed:
    """A sink that gets every message numbered above `after`, enabled at `since` (RFC 3339)."""

    sink: str
    since: str
    after: int


class Journal:
    """One process appends at a time; any thread of it may call any method."""

    def __init__(self, path: Path, *, max_bytes: int = 1 << 30, adopt: bool = False) -> None:
        """Open or create the journal `path` (its stem names the producer).

        Raises ToolkitError if another process holds it (the PID is named), if it is not the file it was
        created as and `adopt` is not set, or if the folder cannot be used.
        """
        self.path = path
        self.max_bytes = max_bytes
        self._mutex = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._hold()
        except OSError as error:
            raise ToolkitError(f"data folder cannot be used: {path.parent}: {error.strerror or error}") from error
        try:
            self._connection = sqlite.connect(path, wait_s=5.0)
        except ToolkitError as error:
            self._lock.release()
            raise ToolkitError(f"journal cannot be opened: {error}") from error
        try:
            with sqlite.errors(path):
                self._load(adopt)
        except ToolkitError as error:
            self.close()
            raise ToolkitError(f"journal cannot be opened: {error}") from error
        self._recent: deque[tuple[int, Batch]] = deque()
        self._recent_messages = self._recent_bytes = self._deleted = 0

    def _hold(self) -> None:
        self._lock = portalocker.PidFileLock(self.path.with_suffix(".pid"))
        try:
            self._lock.acquire()
        except portalocker.AlreadyLocked as error:
            holder = self._lock.read_pid()
            raise ToolkitError(
                f"journal {self.path} is in use by process {holder}: stop it first, or use another --data-dir"
            ) from error

    def _load(self, adopt: bool) -> None:
        connection = self._connection
        inode = str(os.stat(self.path).st_ino)  # text: some file systems have more than 64 bits
        with sqlite.transaction(connection):
            for table in _SCHEMA:
                connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            if not connection.execute("SELECT inode FROM state").fetchall():
                connection.execute("INSERT INTO state VALUES (?, 0)", (inode,))
                connection.execute("INSERT INTO identities VALUES (?, 0)", (self._new_id(),))
        ((created_inode, last),) = connection.execute("SELECT inode, last FROM state").fetchall()
        self.last: int = last
        self.identities = [
            Identity(*row) for row in connection.execute("SELECT producer_id, base FROM identities ORDER BY base")
        ]
        self.waiting_bytes = connection.execute("SELECT COALESCE(SUM(LENGTH(lines)), 0) FROM batches").fetchone()[0]
        if created_inode != inode:
            if not adopt:
                raise ToolkitError(
                    f"{self.path} is a copy (or was restored); go on with --adopt, which begins a new producer_id, "
                    "or use the original"
                )
            self.begin_identity(adopting=inode)
        self._inode = inode

    def _new_id(self) -> str:
        return f"{self.path.stem}-{secrets.token_hex(4)}"

    @property
    def producer_id(self) -> str:
        return self.identities[-1].producer_id

    def begin_identity(self, *, adopting: str = "") -> None:
        """Go on under a new producer_id, as a file with the inode `adopting`; what waits keeps the old id."""
        with self._mutex, sqlite.errors(self.path):
            identity = Identity(self._new_id(), self.last)
            with sqlite.transaction(self._connection):
                if adopting:
                    self._connection.execute("UPDATE state SET inode = ?", (adopting,))
                self._connection.execute("INSERT INTO identities VALUES (?, ?)", (identity.producer_id, identity.base))
            self.identities.append(identity)

    def retire(self, identity: Identity) -> int:
        """Make sure that `identity` gives out no more sequences; the last number that it gave out."""
        with self._mutex:
            if self.identities[-1] == identity:
                self.begin_identity()
            return self.identities[self.identities.index(identity) + 1].base

    def spans(self) -> list[tuple[Identity, int | None]]:
        """Each identity and the last number it gave out; None for the one in use."""
        identities = list(self.identities)
        ends: list[int | None] = [after.base for after in identities[1:]]
        return list(zip(identities, [*ends, None], strict=True))

    def number(self, producer_id: str, sequence: int) -> int:
        """The journal number of a message."""
        return sequence + next(each.base for each in self.identities if each.producer_id == producer_id)

    def describe(self, first: int, last: int) -> str:
        """Journal numbers as people know them: sequences and producer_id."""
        identity = self.identity_of(last)
        return f"sequences {max(1, first - identity.base)}-{last - identity.base} of {identity.producer_id}"

    def append(self, messages: list[Message], *, delivered: int = 0) -> Batch:
        """Give the messages the next sequences and store them; on return they are acknowledged.

        `delivered` is the number up to which every owed sink holds everything: those rows go in the same
        transaction. Raises ValueError for a message no sink could hold, Unavailable if the disk is full or
        the file locked (append the same messages again), ToolkitError if the journal was taken away.
        """
        with self._mutex:
            identity = self.identities[-1]
            for sequence, message in enumerate(messages, start=self.last - identity.base + 1):
                message.producer_id = identity.producer_id
                message.sequence = sequence
            batch = Batch.of(messages)
            last = self.last + batch.count
            self._check_present()
            with sqlite.errors(self.path), sqlite.transaction(self._connection):
                self._connection.execute("INSERT INTO batches VALUES (?, ?, ?)", (last, batch.count, batch.lines))
                self._connection.execute("UPDATE state SET last = ?", (last,))
                removed = self._delete(delivered)
            self.last = last
            self._deleted = max(self._deleted, delivered)
            self.waiting_bytes += len(batch.lines) - removed
            self._remember(last, batch)
        return batch

    def _check_present(self) -> None:
        try:
            present = str(os.stat(self.path).st_ino) == self._inode
        except OSError:
            present = False
        if not present:
            raise ToolkitError(f"journal {self.path} was deleted or replaced while in use; start again")

    def _delete(self, delivered: int) -> int:
        """Delete rows up to number `delivered`, inside a transaction; bytes removed."""
        removed = 0
        if delivered > self._deleted:
            rows = self._connection.execute("SELECT LENGTH(lines) FROM batches WHERE last <= ?", (delivered,))
            removed = sum(size for (size,) in rows)
            self._connection.execute("DELETE FROM batches WHERE last <= ?", (delivered,))
        return removed

    def prune(self, delivered: int) -> None:
        """Delete the rows that every owed sink holds, up to number `delivered`."""
        with self._mutex, sqlite.errors(self.path):
            with sqlite.transaction(self._connection):
                removed = self._delete(delivered)
            self._deleted = max(self._deleted, delivered)
            self.waiting_bytes -= removed

    def _remember(self, last: int, batch: Batch) -> None:
        self._recent.append((last, batch))
        self._recent_messages += batch.count
        self._recent_bytes += len(batch.lines)
        while self._recent_messages > RECENT_MESSAGES or self._recent_bytes > RECENT_BYTES:
            _, oldest = self._recent.popleft()
            self._recent_messages -= oldest.count
            self._recent_bytes -= len(oldest.lines)

    def first_waiting(self) -> int:
        """Number of the oldest message still held; `last + 1` if none."""
        with self._mutex, sqlite.errors(self.path):
            row = self._connection.execute("SELECT last - count + 1 FROM batches ORDER BY last LIMIT 1").fetchone()
        return int(row[0]) if row else self.last + 1

    def read(self, after: int, max_count: int) -> Batch | None:
        """The messages numbered `after + 1` on, at most `max_count`, of one producer_id; None if there are none."""
        with self._mutex, sqlite.errors(self.path):
            if after >= self.last:
                return None
            return self._joined(self._remembered(after) or self._stored(after), after, max_count)

    def _remembered(self, after: int) -> list[tuple[int, Batch]]:
        """The batches from number `after + 1` on if all of them are in memory, else none."""
        if not self._recent or self._recent[0][0] - self._recent[0][1].count > after:
            return []
        return list(takewhile(lambda entry: entry[0] > after, reversed(self._recent)))[::-1]

    def _stored(self, after: int) -> Iterable[tuple[int, Batch]]:
        rows = self._connection.execute("SELECT last, count, lines FROM batches WHERE last > ? ORDER BY last", (after,))
        for last, count, lines in rows:
            identity = self.identity_of(last)
            yield last, Batch(identity.producer_id, last - identity.base, count, lines)

    def _joined(self, batches: Iterable[tuple[int, Batch]], after: int, max_count: int) -> Batch | None:
        parts: list[Batch] = []
        count = size = 0
        for last, batch in batches:
            if parts and (batch.producer_id != parts[0].producer_id or size + len(batch.lines) > MAX_BATCH_BYTES):
                break
            skip = max(0, after + 1 - (last - batch.count + 1))
            part = batch.between(batch.first + skip, batch.first + skip + max_count - count - 1)
            parts.append(part)
            count += part.count
            size += len(part.lines)
            if count >= max_count:
                break
        return Batch.join(parts) if parts else None

    def identity_of(self, number: int) -> Identity:
        """The identity under which the message `number` was given out."""
        return next(identity for identity in reversed(self.identities) if identity.base < number)

    def owe(self, sinks: Iterable[str]) -> None:
        """From now on these sinks are owed every message, in this run or another, until `forget`.

        No owed sink has been offered anything that is given out from now on, until `offer`.
        """
        now = timestamp_text(time.time())
        with self._mutex, sqlite.errors(self.path), sqlite.transaction(self._connection):
            self._connection.executemany(
                "INSERT OR IGNORE INTO owed VALUES (?, ?, ?)", [(sink, now, self.last) for sink in sinks]
            )
            self._connection.execute("INSERT OR IGNORE INTO bounds SELECT sink, ? FROM owed", (self.last,))

    def bound(self, sink: str) -> int | None:
        """The number above which this sink was never offered anything; None if it may have been offered all.

        A sink that holds more proves that the journal was rolled back, and gave out those numbers twice.
        """
        with self._mutex, sqlite.errors(self.path):
            row = self._connection.execute("SELECT last FROM bounds WHERE sink = ?", (sink,)).fetchone()
        return None if row is None else int(row[0])

    def offer(self, sink: str) -> None:
        """From now on this sink may be offered whatever the journal holds."""
        now = timestamp_text(time.time())
        with self._mutex, sqlite.errors(self.path), sqlite.transaction(self._connection):
            self._connection.execute("DELETE FROM bounds WHERE sink = ?", (sink,))
            # The clock was set back meanwhile: what the sink gets will be older than `since`.
            self._connection.execute("UPDATE owed SET since = ? WHERE sink = ? AND since > ?", (now, sink, now))

    def forget(self, sinks: Iterable[str]) -> None:
        """Owe these sinks nothing more; their share of what waits is dropped at the next prune."""
        with self._mutex, sqlite.errors(self.path), sqlite.transaction(self._connection):
            for sink in sinks:
                self._connection.execute("DELETE FROM owed WHERE sink = ?", (sink,))
                self._connection.execute("DELETE FROM bounds WHERE sink = ?", (sink,))

    def owed(self) -> dict[str, Owed]:
        """Sink -> since when and from which message on it is owed."""
        with self._mutex, sqlite.errors(self.path):
            rows = self._connection.execute("SELECT sink, since, after FROM owed ORDER BY rowid").fetchall()
        return {row[0]: Owed(*row) for row in rows}

    def owed_since(self, sink: str) -> float | None:
        """Epoch seconds since when a sink is owed: before that it got nothing that counts. None if it is not owed.

        Not after now, nor after the oldest of its messages that waits: else the clock was set back.
        """
        owed = self.owed().get(sink)
        if owed is None:
            return None
        oldest = self.read(max(owed.after, self.first_waiting() - 1), 1)
        stamps = [owed.since, *(message.timestamp for message in (oldest.messages if oldest else []))]
        return min([time.time(), *filter(None, map(timestamp_epoch_s, stamps))])

    def close(self) -> None:
        """Release file and lock; may be called twice."""
        with self._mutex:
            try:
                self._give_back_space(self._connection)
            except sqlite3.Error as error:
                logger.debug("{}: space not given back: {}", self.path, error)
            self._connection.close()
            self._lock.release()

    @staticmethod
    def _give_back_space(connection: sqlite3.Connection) -> None:
        """Shrink the file after an outage has made it large and all of it was delivered."""
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        ((free,),) = connection.execute("PRAGMA freelist_count").fetchall()
        if free > max(1000, pages // 2):
            connection.execute("VACUUM")
