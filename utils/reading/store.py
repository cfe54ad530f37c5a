"""The processed store of a consumer: records and positions in one database, updated in one transaction.

A chunk is stored once or not at all, even if consumers are killed, started twice or fenced. `add` is a compare-and-set:
the chunk's `start` must be the stored position of its partition, and `end` replaces it in the transaction that stores
the records. The unique index of `records` decides which are new. `partitions` has positions and trackers. A record is
one JSON object; its columns are event time and the values of the roles `by` (column `name`) and `value`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from utils.app.errors import PositionMoved, ToolkitError
from utils.reading.database import Database, Row, make_tables, upsert
from utils.reading.tracker import Counts, Tracker, journal_of
from utils.records.infer import event_time_getter, text_getter
from utils.records.instants import instant_text
from utils.records.stream import Stream
from utils.sources.base import Chunk

VERSION, LATE_AFTER_US = "5", 60_000_000
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS partitions (partition TEXT PRIMARY KEY, position TEXT NOT NULL, newest_us BIGINT, "
    "tracker TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    f"INSERT INTO facts (name, value) VALUES ('version', '{VERSION}') ON CONFLICT DO NOTHING",
    "CREATE TABLE IF NOT EXISTS records (producer_id TEXT, sequence BIGINT, event_us BIGINT, late BOOLEAN NOT NULL, "
    "name TEXT NOT NULL, value DOUBLE PRECISION, record TEXT NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS records_identity ON records (producer_id, sequence) "
    "WHERE producer_id IS NOT NULL",
)
_ENTER = "INSERT INTO partitions (partition, position, tracker) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_POSITION = "SELECT position FROM partitions WHERE partition = ?"
# The compare-and-set. It also locks the row of the partition until the transaction ends.
_ADVANCE = "UPDATE partitions SET position = ? WHERE partition = ? AND position = ? RETURNING newest_us, tracker"
_SAVE = "UPDATE partitions SET newest_us = ?, tracker = ? WHERE partition = ?"
_SUMMARY = """SELECT name, COUNT(*), AVG(value), MAX(event_us) FROM records WHERE name <> '' GROUP BY name
    ORDER BY 2 DESC, 1 LIMIT ?"""


Arrival = tuple[Any, int | None, int | None, str, float | None, str]
"""A new record of a store, its event time, the newest one in its partition before it, its name, value and JSON."""


class Stored(NamedTuple):
    """The new records of a chunk, and the newest event time of its partition before and after it."""

    partition: str
    before_us: int | None
    newest_us: int | None
    new: Sequence[Arrival]


OnStored = Callable[[Stored], None]
"""Callback of a consumer that adds its own rows for the new records, in the same transaction."""

_tracker = msgspec.json.Decoder(Tracker)


class ProcessedStore:
    """The store of one consumer, created if it is missing.

    `start` is for partitions without a stored position. Raises ToolkitError if another version wrote the store.
    """

    def __init__(self, database: Database, stream: Stream, start: Literal["start", "end"] = "start") -> None:
        self.database, self.stream, self.run, from_end = database, stream, Counts(), start == "end"
        self._initial = ("end" if from_end else ""), msgspec.json.encode(Tracker(from_end=from_end)).decode()
        self._event_us, self._name = event_time_getter(stream), text_getter(stream, stream.by)
        with database.transaction():
            make_tables(database, *_SCHEMA)
            ((version,),) = database.execute("SELECT value FROM facts WHERE name = 'version'").fetchall()
            if version != VERSION:
                found = f"another version ({version}, this one is {VERSION})"
                raise ToolkitError(f"{database.place} was written by {found}: move it away")
            self._take_roles()

    def _take_roles(self) -> None:
        """Set name and value of all stored records again if the stream had other roles `by` and `value` before.

        The roles of a stream without a schema file are inferred, and differ once a short log has grown.
        """
        roles, value = msgspec.json.encode([self.stream.by, self.stream.value]).decode(), self.stream.codec.value
        if self.database.execute("SELECT value FROM facts WHERE name = 'roles'").fetchall() == [(roles,)]:
            return
        for page in self.database.pages():
            found = ((self.stream.codec.decode_incomplete(line.encode()), key) for key, line in page)
            self.database.rename([(self._name(each), value(each, self.stream.value or ""), key) for each, key in found])
        self.database.execute_many(upsert("facts", "name", "value"), [("roles", roles)])

    def resume(self, partition: str) -> str:
        """Return the stored position of a partition. See Resume."""
        with self.database.transaction():
            self.database.execute(_ENTER, partition, *self._initial)
            ((position,),) = self.database.execute(_POSITION, partition).fetchall()
        return str(position)

    def add(self, chunk: Chunk, on_stored: OnStored | None = None) -> Stored:
        """Store the new records of a chunk, its position and the rows of `on_stored`, in one transaction.

        Raises PositionMoved if another copy of this consumer has advanced the partition.
        """
        with self.database.transaction():
            self.database.execute(_ENTER, chunk.partition, *self._initial)
            known = self.database.execute(_ADVANCE, chunk.end, chunk.partition, chunk.start).fetchall()
            if not known:
                raise PositionMoved(f"another copy of this consumer has advanced {chunk.partition}")
            ((before_us, text),) = known
            tracker = _tracker.decode(text)
            stored = self._insert(chunk, before_us)
            self._learn(tracker, chunk)
            added = _counted(tracker, chunk, len(stored.new))
            if on_stored:
                on_stored(stored)
            self.database.execute(_SAVE, stored.newest_us, msgspec.json.encode(tracker).decode(), chunk.partition)
        self.run += added
        return stored

    def _insert(self, chunk: Chunk, before_us: int | None) -> Stored:
        """Insert the records that the store does not contain, and return them."""
        rows, arrivals, newest_us, value = list[Row](), list[Arrival](), before_us, self.stream.codec.value
        for record, line in zip(chunk.records, self.stream.codec.lines(chunk.records), strict=True):
            at_us, name, measured = self._event_us(record), self._name(record), value(record, self.stream.value or "")
            late = at_us is not None and newest_us is not None and at_us < newest_us - LATE_AFTER_US
            producer_id = record.producer_id and record.producer_id.replace("\0", "\ufffd")
            rows.append((producer_id, record.sequence, at_us, late, name, measured, line))
            arrivals.append((record, at_us, newest_us, name, measured, line))
            if at_us is not None and (newest_us is None or at_us > newest_us):
                newest_us = at_us
        inserted = self.database.insert(rows)
        if inserted is not None:
            # Of records with equal ids the first was inserted. The dict keeps the last it is given, so it is reversed.
            first = {row[:2]: place for place, row in reversed(list(enumerate(rows)))}
            new = set(map(first.__getitem__, inserted))
            arrivals = [each for place, each in enumerate(arrivals) if place in new or rows[place][0] is None]  # no ids
        return Stored(chunk.partition, before_us, newest_us, arrivals)

    def _learn(self, tracker: Tracker, chunk: Chunk) -> None:
        """Give a tracker the tracks of other partitions for journals that are new to it: they may continue here."""
        met = {each.producer_id for each in chunk.records} - {None, *tracker.tracks}
        if unknown := set(map(journal_of, met)) - set(map(journal_of, tracker.tracks)):
            others = self.database.execute("SELECT tracker FROM partitions WHERE partition <> ?", chunk.partition)
            for (text,) in others.fetchall():
                tracker.learn(_tracker.decode(text), unknown)

    def counts(self) -> Counts:
        """Return the totals since the store was created; `run` has those of this run."""
        found = self.database.query("SELECT tracker FROM partitions")
        return sum((_tracker.decode(text).counts for (text,) in found), Counts())

    def summary(self, limit: int = 5) -> list[Row]:
        """Return rows (value of `by`, number of records, mean of `value`, newest event time), most frequent first."""
        rows = self.database.query(_SUMMARY, limit)
        return [(*row, None if last is None else instant_text(last)) for *row, last in rows]

    def close(self) -> None:
        """Release the database."""
        self.database.close()


def _counted(tracker: Tracker, chunk: Chunk, new: int) -> Counts:
    """Count a chunk in its tracker and return what was added. `new` is from the index: the tracker is bounded."""
    before, tracker.counts = tracker.counts, Counts()
    tracker.admit_chunk(chunk)
    seen = tracker.counts
    known = len(chunk.records) - new
    again = min(seen.again, known)
    added = Counts(new, seen.external, seen.invalid, seen.lost, known - again, again)
    tracker.counts = before + added
    return added
