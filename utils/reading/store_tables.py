"""The tables of a processed store, and the tracker's memory in one of them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from zlib import crc32

import msgspec

from utils.app.errors import ToolkitError
from utils.reading.database import Database
from utils.reading.store_table import StoreTable
from utils.reading.tracker import Counts, Track, Tracker, journal_of
from utils.records.codec import Field, instant_text
from utils.records.infer import event_time
from utils.records.stream import Stream
from utils.records.table import quoted
from utils.sources.base import Chunk

VERSION, LATE_AFTER_US = "2", 60_000_000
TOTALS = Counts.__struct_fields__
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS partitions (partition TEXT PRIMARY KEY, position TEXT NOT NULL, memory TEXT NOT NULL, "
    f"{', '.join(f'{name} BIGINT NOT NULL DEFAULT 0' for name in TOTALS)})",
    "CREATE TABLE IF NOT EXISTS runs (partition TEXT, producer_id TEXT, journal TEXT NOT NULL, first BIGINT NOT NULL, "
    "high BIGINT NOT NULL, again BIGINT NOT NULL, jumped BOOLEAN NOT NULL, gaps TEXT NOT NULL, "
    "PRIMARY KEY (partition, producer_id))",
    "CREATE INDEX IF NOT EXISTS runs_journal ON runs (journal, high)",
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
_gaps = msgspec.json.Decoder(list[tuple[int, int]])
_FIND_RUNS = "SELECT producer_id, first, high, again, jumped, gaps FROM runs WHERE partition = ? AND producer_id IN"
_FIND_HIGHS = "SELECT journal, MAX(high) FROM runs WHERE NOT jumped AND journal IN"
_SAVE_FACT = "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
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


def prepare(database: Database, stream: Stream) -> Stream:
    """Make the tables, or add what is missing, in a transaction; the stream with the types that the store began with.

    What does not fit a type is then in `extra`, as anywhere else. Raises ToolkitError if another version wrote it.
    """
    execute = database.execute
    database.lock_tables()
    for statement in _SCHEMA:
        execute(statement)
    facts = dict(execute("SELECT name, value FROM facts").fetchall())
    if (version := facts.setdefault("version", VERSION)) != VERSION:
        raise ToolkitError(
            f"{database.place} was written by another version ({version}, this one is {VERSION}): move it away"
        )
    before = {field.name: field for field in msgspec.json.decode(facts.get("fields", "[]"), type=list[Field])}
    fields = dict(before)
    for field in filter(lambda each: database.takes(each.name), stream.fields):
        if {fields.setdefault(field.name, field).type, field.type} == {"integer", "number"}:
            fields[field.name] = Field(field.name, "number")
    if tuple(fields.values()) != stream.fields:
        stream = replace(stream, fields=tuple(fields.values()))
    table, existing = StoreTable(stream), database.columns("records")
    missing = table.upgrade(database.dialect, existing) if existing else table.create(database.dialect)
    for statement in (*missing, *table.indexes()) if missing else ():
        execute(statement)
    if fields != before:
        facts["fields"] = msgspec.json.encode(stream.fields).decode()
        database.execute_many(_SAVE_FACT, sorted(facts.items()))
    return stream


def track(database: Database, chunk: Chunk, open_ended: bool) -> Counts:
    """What a chunk brings by its ids, in a transaction that remembers it for its runs."""
    tracker = Tracker(from_end=open_ended, max_runs=len(chunk.records) + 1)
    met = list({record.producer_id for record in chunk.records if record.producer_id is not None})
    if not met:
        tracker.admit(chunk.records)
        return tracker.counts
    query = f"{_FIND_RUNS} ({', '.join('?' * len(met))})"
    for producer_id, first, high, again, jumped, gaps in database.execute(query, chunk.partition, *met).fetchall():
        tracker.tracks[producer_id] = Track(first, high, again, bool(jumped), _gaps.decode(gaps))
    journals = list(set(map(journal_of, met)))
    query = f"{_FIND_HIGHS} ({', '.join('?' * len(journals))}) GROUP BY journal"
    tracker.highs.update(database.execute(query, *journals).fetchall())
    tracker.admit(chunk.records)
    rows = [
        (chunk.partition, producer_id, journal_of(producer_id), each.first, each.high, each.again, each.jumped,
         msgspec.json.encode(each.gaps).decode())
        for producer_id, each in sorted(tracker.tracks.items())
    ]  # fmt: skip
    database.execute_many(_SAVE_RUN, rows)
    return tracker.counts


def summarize(database: Database, stream: Stream, limit: int) -> dict[str, list[tuple[Any, ...]]]:
    """Rows (name, count, mean of `value`, newest event time): the most frequent by `by`, the latest minutes."""
    table = StoreTable(stream)
    at, by, types = quoted(table.event_us), stream.by, {field.name: field.type for field in table.fields}
    groups = {by: (quoted(by), "2 DESC, 1")} if by in types else {}
    groups["minute"] = f"{at} - {at} % 60000000", "1 DESC"
    has_value = types.get(stream.value or "") in ("integer", "number")
    mean = f"CAST(AVG({quoted(stream.value or '')}) AS DOUBLE PRECISION)" if has_value else "NULL"
    found = {}
    for kind, (group, order) in groups.items():
        query = f"SELECT {group}, COUNT(*), {mean}, MAX({at}) FROM records WHERE {group} IS NOT NULL "
        rows = database.execute(f"{query}GROUP BY 1 ORDER BY {order} LIMIT {int(limit)}").fetchall()
        found[kind] = [
            (name if kind == by else instant_text(name), count, each_mean, last and instant_text(last))
            for name, count, each_mean, last in rows
        ]
    return found
