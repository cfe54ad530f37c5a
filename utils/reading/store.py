"""What consumers keep: messages, running figures and positions, in one SQLite file and one transaction.

    store = ProcessedStore(path)
    store.start_from("stored")          # or "start", "end"
    source = sources.source(..., resume=store.resume)
    new = store.add(chunk)              # raises PositionMoved, Unavailable, ToolkitError

`add` compares the chunk's `start` with the stored position of its partition and sets `end` in the
transaction that stores the messages (rule 16), so whatever is killed, started twice or fenced, a
chunk is stored once or not at all. It is generic over partitions: files, tables, partitions.
After PositionMoved or Unavailable nothing was stored: open a new source, which resumes from here.

Figures are sums of integers (sentiment in millionths), so that they do not depend on how the stream
was cut into chunks. Tables: `messages`, `sums`, `positions`, `producers`, `counts`; the view
`figures` has count, means and last seen per author, category, keyword and minute.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from utils.app.errors import PositionMoved, ToolkitError
from utils.clients import sqlite
from utils.reading.tracker import COUNTS, Seen, Tally
from utils.records.record import Message, timestamp_epoch_s
from utils.records.sentiment import label
from utils.records.table import COLUMNS, column_types
from utils.sources.base import Chunk

VERSION = 1
WAIT_S = 5.0
LATE_AFTER_MS = 60_000
MAX_LENGTH = 2**40  # what foreign records claim must not overflow a sum
_EPOCH, _YEAR_10000_S = datetime(1970, 1, 1), 253_402_300_800
KINDS = ("author", "category", "keyword", "minute")

_SCHEMA = (
    f"""CREATE TABLE messages (
        id INTEGER PRIMARY KEY, {", ".join(f"{name} {kind}" for name, kind in column_types("sqlite").items())},
        label TEXT NOT NULL, words INTEGER NOT NULL, minute TEXT NOT NULL, late INTEGER NOT NULL)""",
    "CREATE UNIQUE INDEX messages_identity ON messages (producer_id, sequence) WHERE sequence IS NOT NULL",
    """CREATE TABLE sums (
        kind TEXT, name TEXT, count INTEGER, sentiment_millionths INTEGER, length INTEGER, last_seen_ms INTEGER,
        PRIMARY KEY (kind, name)) WITHOUT ROWID""",
    """CREATE VIEW figures AS SELECT kind, name, count, sentiment_millionths / 1e6 / count AS mean_sentiment,
        length * 1.0 / count AS mean_length,
        strftime('%Y-%m-%dT%H:%M:%SZ', NULLIF(last_seen_ms, 0) / 1000, 'unixepoch') AS last_seen FROM sums""",
    "CREATE TABLE positions (partition TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE producers (producer_id TEXT PRIMARY KEY, seen TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
)
_COLUMNS = (*COLUMNS, "label", "words", "minute", "late")
_INSERT = f"INSERT INTO messages ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_ADD_SUMS = """INSERT INTO sums VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (kind, name) DO UPDATE SET
    count = count + excluded.count, sentiment_millionths = sentiment_millionths + excluded.sentiment_millionths,
    length = length + excluded.length, last_seen_ms = max(last_seen_ms, excluded.last_seen_ms)"""
_ADD_COUNT = "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"


class ProcessedStore:
    """One consumer's store. Opening creates it; raises ToolkitError if a newer version wrote it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start: Literal["stored", "start", "end"] = "stored"
        self._begun: set[str] = set()
        self._before: dict[str, str] = {}
        self.run: Counter[str] = Counter()
        self._connection = sqlite.connect(path, wait_s=WAIT_S)
        self._inode = self._present()
        try:
            self._create()
        except (ToolkitError, sqlite3.Error):
            self._connection.close()
            raise

    def _create(self) -> None:
        with self._transaction():
            ((version,),) = self._connection.execute("PRAGMA user_version").fetchall()
            if version > VERSION:
                raise ToolkitError(
                    f"{self._path} was written by a newer version ({version}, this one knows {VERSION}); "
                    "update this program or move the file away"
                )
            if version == 0:
                for statement in _SCHEMA:
                    self._connection.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with sqlite.errors(self._path), sqlite.transaction(self._connection):
            if self._present() != self._inode:  # what is stored now would be gone with the file
                raise ToolkitError(f"processed store {self._path} was deleted or replaced while in use; start again")
            yield

    def _present(self) -> int:
        """The inode of the file that the path names now, 0 if there is none."""
        try:
            return os.stat(self._path).st_ino
        except OSError:
            return 0

    def start_from(self, start: Literal["stored", "start", "end"]) -> None:
        """Where each partition begins when it is first resumed in this run.

        At its end only if nobody has advanced it since: what another copy then hands over is not passed over.
        """
        self._start = start
        with sqlite.errors(self._path):
            self._before = dict(self._connection.execute("SELECT partition, position FROM positions").fetchall())

    def resume(self, partition: str) -> str:
        """The stored position of a partition, which `start_from` may have changed. See Resume."""
        with self._transaction():
            handed_over = self._start == "end" and self._position(partition) != self._before.get(partition, "")
            if self._start != "stored" and partition not in self._begun and not handed_over:
                position = "end" if self._start == "end" else ""
                self._set_position(partition, position)
                tally = Tally(self._producers())
                if self._start == "end":
                    tally.expect_jump()
                else:
                    tally.expect_again()
                self._save_producers(tally)
            position = self._position(partition)
        self._begun.add(partition)
        return position

    def add(self, chunk: Chunk) -> list[Message]:
        """Store what is new in the chunk, with figures and position; the messages that were new.

        Raises PositionMoved if another copy of this consumer has advanced the partition.
        """
        with self._transaction():
            if self._position(chunk.partition) != chunk.start:
                raise PositionMoved(f"another copy of this consumer has advanced {chunk.partition}")
            ids = {message.producer_id for message in chunk.records}
            tally = Tally(self._producers() if chunk.begins_again else self._producers(ids), self._is_stored)
            new = tally.admit(chunk)
            if new:
                self._store(new)
            self._save_producers(tally)
            self._connection.executemany(_ADD_COUNT, tally.counts().items())
            self._set_position(chunk.partition, chunk.end)
        self.run.update(tally.counts())
        return new

    def counts(self) -> dict[str, int]:
        """The counts of Tally since the store began; `run` holds those of this run."""
        with sqlite.errors(self._path):
            found = dict(self._connection.execute("SELECT name, value FROM counts").fetchall())
        return {name: found.get(name, 0) for name in COUNTS}

    def figures(self, kind: str, limit: int = -1) -> list[tuple[Any, ...]]:
        """Rows (name, count, mean sentiment, mean length, last seen) of a kind: most frequent or latest first."""
        order = "name DESC" if kind == "minute" else "count DESC, name"
        with sqlite.errors(self._path):
            return self._connection.execute(
                "SELECT name, count, mean_sentiment, mean_length, last_seen FROM figures WHERE kind = ? "
                f"ORDER BY {order} LIMIT ?",
                (kind, limit),
            ).fetchall()

    def close(self) -> None:
        self._connection.close()

    def _is_stored(self, producer_id: str, sequence: int) -> bool:
        query = "SELECT 1 FROM messages WHERE producer_id = ? AND sequence = ?"
        return bool(self._connection.execute(query, (producer_id, sequence)).fetchall())

    def _position(self, partition: str) -> str:
        row = self._connection.execute("SELECT position FROM positions WHERE partition = ?", (partition,)).fetchall()
        return row[0][0] if row else ""

    def _set_position(self, partition: str, position: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", (partition, position))

    def _producers(self, ids: set[str | None] | None = None) -> dict[str, Seen]:
        """What was seen of all producers, or of those in `ids`."""
        if ids is None:
            rows = self._connection.execute("SELECT producer_id, seen FROM producers").fetchall()
        else:
            query = "SELECT producer_id, seen FROM producers WHERE producer_id = ?"
            rows = [row for producer_id in ids for row in self._connection.execute(query, (producer_id,))]
        return {producer_id: msgspec.json.decode(seen, type=Seen) for producer_id, seen in rows}

    def _save_producers(self, tally: Tally) -> None:
        rows = [(producer_id, msgspec.json.encode(seen).decode()) for producer_id, seen in tally.producers.items()]
        self._connection.executemany("INSERT OR REPLACE INTO producers VALUES (?, ?)", rows)

    def _store(self, messages: list[Message]) -> None:
        newest = self._connection.execute("SELECT value FROM counts WHERE name = 'newest_ms'").fetchall()
        newest_ms = before_ms = newest[0][0] if newest else 0
        minutes: dict[int, str] = {}
        rows, facts = [], []
        for message in messages:
            epoch_s = timestamp_epoch_s(message.timestamp)
            seen_ms = round(epoch_s * 1000) if epoch_s is not None and 0 < epoch_s < _YEAR_10000_S else 0
            number = seen_ms // 60_000
            if number not in minutes:
                # Not by time.gmtime, which knows no years after 3000 on Windows.
                minute = (_EPOCH + timedelta(minutes=number)).isoformat(timespec="minutes") + "Z"
                minutes[number] = minute if number else ""
            minute = minutes[number]
            late = 0 < seen_ms < newest_ms - LATE_AFTER_MS
            newest_ms = max(newest_ms, seen_ms)
            added = label(message.sentiment), len(message.message.split()), minute, late
            rows.append(msgspec.structs.astuple(message) + added)
            facts.append(
                (
                    message.author,
                    message.category,
                    message.keyword_mentioned,
                    minute,
                    round(message.sentiment * 1_000_000),
                    min(message.message_length, MAX_LENGTH),
                    seen_ms,
                )
            )
        self._connection.executemany(_INSERT, rows)
        self._connection.executemany(_ADD_SUMS, _grouped(facts))
        if newest_ms > before_ms:
            self._connection.execute(_ADD_COUNT, ("newest_ms", newest_ms - before_ms))


def _grouped(facts: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows for `sums`: the figures of these messages per author, category, keyword and minute."""
    import pandas as pd

    frame = pd.DataFrame(facts, columns=[*KINDS, "sentiment", "length", "seen"])
    frame.insert(len(KINDS), "count", 1)
    for kind in KINDS:
        groups = frame.groupby(kind, sort=False)
        sums, last = groups[["count", "sentiment", "length"]].sum(), groups["seen"].max()
        for name, figures, seen in zip(sums.index, sums.to_numpy().tolist(), last.tolist(), strict=True):
            yield kind, name, *figures, seen
