"""Files and tables of buzzline-05 open, are read and take new rows without a manual step."""

import json
import sqlite3
from contextlib import closing
from typing import Any

import duckdb
import pytest

from tests.helpers import make_batch, sequences_in
from utils.app.config import Settings
from utils.records.instants import microseconds
from utils.records.stream import BUZZ
from utils.sinks import SINKS, source

COLUMNS = "message TEXT, author TEXT, timestamp TEXT, category TEXT, sentiment REAL, keyword_mentioned TEXT"
COLUMNS += ", message_length INTEGER"
NAMES = "message, author, timestamp, category, sentiment, keyword_mentioned, message_length"
OLD_ROW = ("I just saw a movie! It was okay.", "Eve", "2025-01-29 14:35:20", "humor", 0.87, "movie", 32)

IDS = {
    "sqlite filled": ("sqlite", "id INTEGER PRIMARY KEY AUTOINCREMENT, ", 1),
    "sqlite null": ("sqlite", "id BIGINT PRIMARY KEY, ", None),
    "sqlite absent": ("sqlite", "", None),
    "duckdb key without default": ("duckdb", "id BIGINT PRIMARY KEY, ", 41),
    "duckdb filled": ("duckdb", "id INTEGER, ", 41),
    "duckdb null": ("duckdb", "id BIGINT, ", None),
    "duckdb absent": ("duckdb", "", None),
}


def make(settings: Settings, sink: str, columns: str, row_id: int | None, has_id: bool) -> None:
    settings.data_path.mkdir(parents=True)
    insert = f"INSERT INTO streamed_messages ({'id, ' * has_id}{NAMES}) VALUES ({'?, ' * has_id}?, ?, ?, ?, ?, ?, ?)"
    row = ((row_id,) if has_id else ()) + OLD_ROW
    create = f"CREATE TABLE streamed_messages ({columns})"
    if sink == "sqlite":
        with closing(sqlite3.connect(settings.sqlite_path)) as connection, connection:
            connection.execute(create)
            connection.execute(insert, row)
    else:
        with duckdb.connect(str(settings.duckdb_path)) as database:
            database.execute(create)
            database.execute(insert, row)


def rows(settings: Settings, sink: str, names: str) -> list[tuple[object, ...]]:
    query = f"SELECT {names} FROM streamed_messages ORDER BY rowid"
    if sink == "sqlite":
        with closing(sqlite3.connect(settings.sqlite_path)) as connection:
            return connection.execute(query).fetchall()
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as database:
        return database.execute(query).fetchall()


def read(settings: Settings, sink: str) -> list[Any]:
    with closing(source(sink, settings, BUZZ, lambda _: "", finished=True)) as opened:
        chunk = opened.poll(1_000)
        assert chunk and not chunk.invalid
        return chunk.records


@pytest.mark.parametrize("timestamp", ["TEXT", "TIMESTAMP"])
@pytest.mark.parametrize(("sink", "id_column", "row_id"), IDS.values(), ids=IDS)
def test_an_old_table_takes_new_rows(
    settings: Settings, sink: str, id_column: str, row_id: int | None, timestamp: str
) -> None:
    columns = id_column + COLUMNS.replace("timestamp TEXT", f"timestamp {timestamp}")
    make(settings, sink, columns, row_id, bool(id_column))
    for first in (1, 31):
        with closing(SINKS[sink].emitter(settings, BUZZ, "ann", "")) as emitter:
            assert emitter.last(["ann-1"]) == (("ann-1", first - 1) if first > 1 else None)
            emitter.emit(make_batch(30, first=first))
    assert sequences_in(sink, settings) == {None: [None], "ann-1": list(range(1, 61))}
    found = rows(settings, sink, NAMES)
    assert (found[0][0], found[0][1], str(found[0][2]), found[0][3:]) == (*OLD_ROW[:3], OLD_ROW[3:])
    assert all(None not in row for row in found)
    records = read(settings, sink)
    assert [record.sequence for record in records] == [None, *range(1, 61)]
    assert (records[0].message, records[0].sentiment, records[0].message_length) == (OLD_ROW[0], 0.87, 32)
    assert microseconds(records[0].timestamp) == microseconds(
        OLD_ROW[2] + "Z" * (timestamp == "TIMESTAMP" and sink == "duckdb")
    )
    if "KEY" in id_column and (sink == "duckdb" or "AUTO" in id_column):
        ids = [row[0] for row in rows(settings, sink, "id")]
        assert row_id is not None
        assert ids == list(range(row_id, row_id + 61))


def test_an_old_file_takes_new_lines(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    record = dict(zip(NAMES.split(", "), OLD_ROW, strict=True))
    settings.live_path.write_text(json.dumps(record) + "\n" + json.dumps(record), encoding="utf-8")
    with closing(SINKS["file"].emitter(settings, BUZZ, "ann", "")) as emitter:
        assert emitter.last(["ann-1"]) is None
        emitter.emit(make_batch(30))
    assert sequences_in("file", settings) == {None: [None, None], "ann-1": list(range(1, 31))}
    assert settings.live_path.read_text(encoding="utf-8").startswith(json.dumps(record) + "\n" + json.dumps(record))
    assert len(read(settings, "file")) == 32
