"""The tables of a processed store, and the tracker's memory in one of them."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from utils.app.errors import ToolkitError
from utils.clients import sqlite
from utils.reading.tracker import Counts, Track, Tracker, journal_of
from utils.records.codec import Field, instant_text
from utils.records.infer import event_time
from utils.records.stream import Stream
from utils.records.table import Table, quoted
from utils.sources.base import Chunk

VERSION, LATE_AFTER_US = 2, 60_000_000
TOTALS = Counts.__struct_fields__
_SCHEMA = (
    "CREATE TABLE partitions (partition TEXT PRIMARY KEY, position TEXT NOT NULL, memory TEXT NOT NULL, "
    f"{', '.join(f'{name} BIGINT NOT NULL DEFAULT 0' for name in TOTALS)})",
    "CREATE TABLE runs (partition TEXT, producer_id TEXT, journal TEXT NOT NULL, first BIGINT NOT NULL, "
    "high BIGINT NOT NULL, again BIGINT NOT NULL, jumped BOOLEAN NOT NULL, gaps TEXT NOT NULL, "
    "PRIMARY KEY (partition, producer_id))",
    "CREATE INDEX runs_journal ON runs (journal, high)",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
_gaps = msgspec.json.Decoder(list[tuple[int, int]])
_FIND_RUN = "SELECT first, high, again, jumped, gaps FROM runs WHERE partition = ? AND producer_id = ?"
_FIND_HIGH = "SELECT MAX(high) FROM runs WHERE journal = ? AND NOT jumped"
_SAVE_RUN = """INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (partition, producer_id) DO UPDATE SET
    first = excluded.first, high = excluded.high, again = excluded.again, jumped = excluded.jumped,
    gaps = excluded.gaps"""


class Memory(msgspec.Struct):
    """What is known of a partition beside position and totals.

    `rotations`, `jump` and `ordinal` say where the last record without ids stood: how often the partition began
    again, after which of the `jumps` to its end (0: none) it was read, and its number from there.
    """

    open_ended: bool = False
    newest_us: int | None = None
    rotations: int = 0
    jumps: int = 0
    jump: int = 0
    ordinal: int = 0

    def rows(self, chunk: Chunk, stream: Stream) -> Iterator[tuple[Any, ...]]:
        """The rows of a chunk's records in the order of the StoreTable's columns."""
        event_us, newest_us = event_time(stream), self.newest_us
        for record, row in zip(chunk.records, stream.codec.rows(chunk.records), strict=True):
            at_us, late, place = event_us(record), False, None
            if at_us is not None:
                late = newest_us is not None and at_us < newest_us - LATE_AFTER_US
                newest_us = at_us if newest_us is None else max(at_us, newest_us)
            if record.sequence is None:
                self.ordinal += 1
                content = crc32(repr(row).encode("utf-8", "backslashreplace"))
                place = f"{chunk.partition}:{self.rotations}:{self.jump}:{self.ordinal}:{content:x}"
            yield (*row, at_us, late, place)
        self.newest_us = newest_us


class StoreTable(Table):
    """The stream's columns, then event time in microseconds, whether it was late, and the place of what has no ids."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.has_id, self.name = False, "records"
        taken = {name.lower() for name in self.columns}
        added = [("_" * (name in taken) + name) for name in ("event_us", "late", "place")]
        self.event_us, self.late, self.place = added
        self.fields += tuple(map(Field, added, ("integer", "boolean", "text")))
        self.columns = tuple(field.name for field in self.fields)
        self.row = ", ".join(map(quoted, self.columns))


def prepare(connection: sqlite3.Connection, path: Path, stream: Stream) -> Stream:
    """Make the tables, or add what is missing, in a transaction; the stream with the types that the store began with.

    What does not fit a type is then in `extra`, as anywhere else. Raises ToolkitError if another version wrote it.
    """
    execute = connection.execute
    ((version,),) = execute("PRAGMA user_version").fetchall()
    if version not in (0, VERSION):
        age = "a newer" if version > VERSION else "an older"
        raise ToolkitError(
            f"{path} was written by {age} version ({version}, this one is {VERSION}): move the file away"
        )
    for statement in () if version else (*_SCHEMA, f"PRAGMA user_version = {VERSION}"):
        execute(statement)
    stored = execute("SELECT value FROM facts WHERE name = 'fields'").fetchall()
    fields = {field.name: field for (text,) in stored for field in msgspec.json.decode(text, type=list[Field])}
    for field in stream.fields:
        if {fields.setdefault(field.name, field).type, field.type} == {"integer", "number"}:
            fields[field.name] = Field(field.name, "number")
    if tuple(fields.values()) != stream.fields:
        stream = replace(stream, fields=tuple(fields.values()))
    table, existing = StoreTable(stream), sqlite.columns(connection, "records")
    for statement in table.upgrade("sqlite", existing) if existing else table.create("sqlite"):
        execute(statement)
    place = quoted(table.place)
    execute(table.identity_index())
    execute(f"CREATE UNIQUE INDEX IF NOT EXISTS records_place ON records ({place}) WHERE {place} IS NOT NULL")
    remember = "INSERT INTO facts VALUES ('fields', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    execute(remember, (msgspec.json.encode(stream.fields).decode(),))
    return stream


def track(connection: sqlite3.Connection, chunk: Chunk, open_ended: bool) -> Counts:
    """What a chunk brings by its ids, in a transaction that remembers it for its runs."""
    tracker = Tracker(from_end=open_ended, max_runs=len(chunk.records) + 1)
    for producer_id in {record.producer_id for record in chunk.records if record.producer_id is not None}:
        journal = journal_of(producer_id)
        for first, high, again, jumped, gaps in connection.execute(
            _FIND_RUN, (chunk.partition, producer_id)
        ).fetchall():
            tracker.tracks[producer_id] = Track(first, high, again, bool(jumped), _gaps.decode(gaps))
        for (high,) in connection.execute(_FIND_HIGH, (journal,)).fetchall():
            if high is not None:
                tracker.highs[journal] = high
    tracker.admit(chunk.records)
    for producer_id, each in tracker.tracks.items():
        gaps = msgspec.json.encode(each.gaps).decode()
        row = (
            chunk.partition,
            producer_id,
            journal_of(producer_id),
            each.first,
            each.high,
            each.again,
            each.jumped,
            gaps,
        )
        connection.execute(_SAVE_RUN, row)
    return tracker.counts


def summarize(connection: sqlite3.Connection, stream: Stream, limit: int) -> dict[str, list[tuple[Any, ...]]]:
    """Rows (name, count, mean of `value`, newest event time): the most frequent by `by`, the latest minutes."""
    at, by = quoted(StoreTable(stream).event_us), stream.by
    groups = {by: (quoted(by), "2 DESC, 1")} if by else {}
    groups["minute"] = f"{at} - {at} % 60000000", "1 DESC"
    mean = f"AVG({quoted(stream.value)})" if stream.value else "NULL"
    found = {}
    for kind, (group, order) in groups.items():
        query = f"SELECT {group}, COUNT(*), {mean}, MAX({at}) FROM records WHERE {group} IS NOT NULL "
        rows = connection.execute(f"{query}GROUP BY 1 ORDER BY {order} LIMIT ?", (limit,)).fetchall()
        found[kind] = [
            (name if kind == by else instant_text(name), count, each_mean, last and instant_text(last))
            for name, count, each_mean, last in rows
        ]
    return found
