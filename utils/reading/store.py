"""What a consumer keeps: records and positions, in one database and one transaction.

A chunk is stored once or not at all, whatever is killed, started twice or fenced: `add` compares the chunk's `start`
with the stored position of its partition and sets `end` in the transaction that stores the records. The unique
indexes of `records` decide what is new; `partitions` has positions and what the tracker knows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import msgspec

from utils.app.errors import PositionMoved, ToolkitError
from utils.reading.database import Database, Row, make_tables, upsert
from utils.reading.tracker import Counts, Tracker, journal_of
from utils.records.codec import Field
from utils.records.infer import event_time
from utils.records.instants import instant_text
from utils.records.stream import Stream
from utils.records.table import Table, quoted
from utils.sources.base import Chunk

VERSION, LATE_AFTER_US = "5", 60_000_000
_OWN = (Field("_event_us", "integer"), Field("_late", "boolean"))
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS partitions (partition TEXT PRIMARY KEY, position TEXT NOT NULL, newest_us BIGINT, "
    "tracker TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
_ENTER = "INSERT INTO partitions (partition, position, tracker) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_POSITION = "SELECT position FROM partitions WHERE partition = ?"
# It locks the partition and gives what is known of it, as whoever had it before left it.
_ADVANCE = "UPDATE partitions SET position = ? WHERE partition = ? AND position = ? RETURNING newest_us, tracker"
_SAVE = "UPDATE partitions SET newest_us = ?, tracker = ? WHERE partition = ?"
_SAVE_FACT = upsert("facts", "name", "value")


Arrival = tuple[Any, int | None, int | None]
"""A record that is new to a store, its event time, and the newest one in its partition before it came."""


class Stored(NamedTuple):
    """What a chunk brought: the newest event time before and after it, and what was new."""

    partition: str
    before_us: int | None
    newest_us: int | None
    new: Sequence[Arrival]


Part = Callable[[Stored], None]
"""What a consumer makes of what it has stored, in the same transaction."""

_tracker = msgspec.json.Decoder(Tracker)


class StoreTable(Table):
    """The stream's columns, then event time in microseconds, and whether it was late."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.has_id, self.name = False, "records"
        self.fields += _OWN
        self.columns = tuple(field.name for field in self.fields)
        self.row = ", ".join(map(quoted, self.columns))


class ProcessedStore:
    """One consumer's store; opening creates it. `stream` is the stream with the types that the store began with.

    `start` says where a partition begins that this store has never read. Raises ToolkitError if another version wrote
    the store.
    """

    def __init__(self, database: Database, stream: Stream, start: Literal["start", "end"] = "start") -> None:
        self.database, self.run, from_end = database, Counts(), start == "end"
        self._first = ("end" if from_end else ""), msgspec.json.encode(Tracker(from_end=from_end)).decode()
        try:
            with self.database.transaction():
                self.stream = _prepared(self.database, stream)
        except ToolkitError:
            self.close()
            raise
        self._table, self._event_us = StoreTable(self.stream), event_time(self.stream)

    def resume(self, partition: str) -> str:
        """The stored position of a partition. See Resume."""
        with self.database.transaction():
            self.database.execute(_ENTER, partition, *self._first)
            ((position,),) = self.database.execute(_POSITION, partition).fetchall()
        return str(position)

    def add(self, chunk: Chunk, part: Part | None = None) -> Stored:
        """Store what is new in the chunk, with its position, and what `part` makes of it, in one transaction.

        Raises PositionMoved if another copy of this consumer has advanced the partition.
        """
        with self.database.transaction():
            self.database.execute(_ENTER, chunk.partition, *self._first)
            known = self.database.execute(_ADVANCE, chunk.end, chunk.partition, chunk.start).fetchall()
            if not known:
                raise PositionMoved(f"another copy of this consumer has advanced {chunk.partition}")
            ((before_us, text),) = known
            tracker = _tracker.decode(text)
            stored, replaced = self._insert(chunk, before_us)
            self._learn(tracker, chunk)
            found = _counted(tracker, chunk, len(stored.new), replaced)
            if part:
                part(stored)
            if chunk.begins_again:  # its records are the last ones of the file before
                tracker.begin_again()
            self.database.execute(_SAVE, stored.newest_us, msgspec.json.encode(tracker).decode(), chunk.partition)
        self.run += found
        return stored

    def _insert(self, chunk: Chunk, before_us: int | None) -> tuple[Stored, int]:
        """Insert what is not there yet; what that is, and in how many of its records U+0000 had to be replaced."""
        rows, arrivals, newest_us = list[Row](), list[Arrival](), before_us
        for record, row in zip(chunk.records, self.stream.codec.rows(chunk.records), strict=True):
            at_us = self._event_us(record)
            late = at_us is not None and newest_us is not None and at_us < newest_us - LATE_AFTER_US
            rows.append((*row, at_us, late))
            arrivals.append((record, at_us, newest_us))
            if at_us is not None and (newest_us is None or at_us > newest_us):
                newest_us = at_us
        storable, places = self.database.storable(rows), list(range(len(rows)))
        inserted = self.database.insert(self._table, storable)
        if inserted is not None:
            # Of equal ids the first was inserted, so the last one is taken first. What has none was inserted.
            first = {row[-4:-2]: place for place, row in reversed(list(enumerate(storable)))}
            new = set(map(first.__getitem__, inserted))
            places = [place for place in places if place in new or rows[place][-3] is None]
        replaced = storable is not rows and sum(rows[place] != storable[place] for place in places)
        return Stored(chunk.partition, before_us, newest_us, [arrivals[place] for place in places]), int(replaced)

    def _learn(self, tracker: Tracker, chunk: Chunk) -> None:
        """Tell the tracker of a partition what the others know of journals that it meets: they may continue here."""
        met = {each.producer_id for each in chunk.records} - {None, *tracker.tracks}
        if unknown := set(map(journal_of, met)) - set(map(journal_of, tracker.tracks)):
            others = self.database.execute("SELECT tracker FROM partitions WHERE partition <> ?", chunk.partition)
            for (text,) in others.fetchall():
                tracker.learn(_tracker.decode(text), unknown)

    def counts(self) -> Counts:
        """The totals since the store began; `run` holds those of this run."""
        found = self.database.query("SELECT tracker FROM partitions")
        return sum((_tracker.decode(text).counts for (text,) in found), Counts())

    def summary(self, limit: int = 5) -> list[Row]:
        """Rows (value of `by`, number of records, mean of `value`, newest event time), the most frequent first."""
        by, types = self.stream.by or "", {field.name: field.type for field in self._table.fields}
        if by not in types:
            return []
        has_value = types.get(self.stream.value or "") in ("integer", "number")
        average = f"CAST(AVG({quoted(self.stream.value or '')}) AS DOUBLE PRECISION)" if has_value else "NULL"
        query = f"SELECT {quoted(by)}, COUNT(*), {average}, MAX(_event_us) FROM records WHERE {quoted(by)} IS NOT NULL"
        rows = self.database.query(f"{query} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {int(limit)}")
        return [(*row, None if last is None else instant_text(last)) for *row, last in rows]

    def close(self) -> None:
        """Release the database."""
        self.database.close()


def _counted(tracker: Tracker, chunk: Chunk, new: int, replaced: int) -> Counts:
    """Let the tracker see the chunk; what that added to its counts. The index knows all, the tracker is bounded."""
    before, tracker.counts = tracker.counts, Counts()
    tracker.admit(chunk.records)
    seen = tracker.counts
    known = len(chunk.records) - new
    again = min(seen.again, known)
    found = Counts(new, seen.external, len(chunk.invalid), seen.lost, known - again, again, replaced)
    tracker.counts = before + found
    return found


def _prepared(database: Database, stream: Stream) -> Stream:
    """Make the tables, or add what is missing, in a transaction; the stream with the types that the store began with.

    What does not fit a type is then in `extra`, as anywhere else, and so is a field with the name of a column of the
    store's own. Raises ToolkitError if another version wrote it.
    """
    make_tables(database, *_SCHEMA)
    facts = dict(database.execute("SELECT name, value FROM facts").fetchall())
    if (version := facts.setdefault("version", VERSION)) != VERSION:
        raise ToolkitError(
            f"{database.place} was written by another version ({version}, this one is {VERSION}): move it away"
        )
    before, fields = msgspec.json.decode(facts.get("fields", "[]"), type=list[Field]), dict[str, Field]()
    for field in (*before, *stream.fields):
        if not database.takes(field.name) or field.name.lower() in {own.name for own in _OWN}:
            continue
        if {fields.setdefault(field.name, field).type, field.type} == {"integer", "number"}:
            fields[field.name] = Field(field.name, "number")
    if tuple(fields.values()) != stream.fields:
        stream = replace(stream, fields=tuple(fields.values()))
    table, existing = StoreTable(stream), dict(database.execute(database.list_columns, "records").fetchall())
    missing = table.upgrade(database.dialect, existing) if existing else table.create(database.dialect)
    make_tables(database, *missing, table.identity_index())
    if list(fields.values()) != before:
        facts["fields"] = msgspec.json.encode(stream.fields).decode()
        database.execute_many(_SAVE_FACT, sorted(facts.items()))
    return stream
