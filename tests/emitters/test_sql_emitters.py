"""What only the SQL sinks have: rows that a table refuses, doubles, files that are no databases."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from tests.helpers import held, make_batch
from utils.app.config import Settings
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.emitters import duckdb_emitter, sqlite_emitter
from utils.emitters.duckdb_emitter import DuckdbEmitter
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.records.table import create

SQL_SINKS = ["sqlite", "duckdb"]


def prepare(sink: str, settings: Settings, *statements: str) -> Path:
    settings.data_path.mkdir(parents=True, exist_ok=True)
    if sink == "sqlite":
        with closing(sqlite3.connect(settings.sqlite_path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)
        return settings.sqlite_path
    with duckdb.connect(str(settings.duckdb_path)) as database:
        for statement in statements:
            database.execute(statement)
    return settings.duckdb_path


def open_emitter(sink: str, path: Path) -> SqliteEmitter | DuckdbEmitter:
    return SqliteEmitter(path) if sink == "sqlite" else DuckdbEmitter(path)


REFUSING = {
    "check": "CREATE TABLE streamed_messages (message TEXT CHECK (message <> 'hello 4711'), author TEXT)",
    "not null": "CREATE TABLE streamed_messages (message TEXT, author TEXT, room INTEGER NOT NULL)",
    "unique": "CREATE TABLE streamed_messages (message TEXT, author TEXT UNIQUE)",
}


@pytest.mark.parametrize("sink", SQL_SINKS)
@pytest.mark.parametrize(("constraint", "sequence"), [("check", 4711), ("not null", 1), ("unique", 2)])
def test_a_refused_row_is_named(sink: str, constraint: str, sequence: int, settings: Settings) -> None:
    path = prepare(sink, settings, REFUSING[constraint])
    with closing(open_emitter(sink, path)) as emitter:
        with pytest.raises(Rejected) as refused:
            emitter.emit(make_batch(6_000))
        assert refused.value.sequence == sequence
        assert refused.value.reason.count("\n") == 0
        stored = emitter.last_sequence("ann-1")
        assert stored < sequence
        if stored + 1 < sequence:
            emitter.emit(make_batch(sequence - 1 - stored, first=stored + 1))
    assert held(sink, settings).get("ann-1", []) == list(range(1, sequence))


def test_sqlite_never_takes_a_sequence_twice(settings: Settings) -> None:
    with closing(SqliteEmitter(settings.sqlite_path)) as emitter:
        emitter.emit(make_batch(5))
        with pytest.raises(ToolkitError, match="already holds sequence 4 of ann-1") as error:
            emitter.emit(make_batch(5, first=4))
        assert not isinstance(error.value, Rejected | Unavailable)
    assert held("sqlite", settings) == {"ann-1": [1, 2, 3, 4, 5]}


def test_sqlite_with_doubles_is_refused_by_name(settings: Settings) -> None:
    row = "INSERT INTO streamed_messages (message, producer_id, sequence) VALUES ('x', 'ann-1', 7)"
    path = prepare("sqlite", settings, *create("sqlite"), row, row)
    with pytest.raises(ToolkitError, match="twice") as error:
        SqliteEmitter(path)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("sink", SQL_SINKS)
def test_a_file_that_is_no_database_stays_as_it_is(sink: str, settings: Settings) -> None:
    content = b"hello, I am a text file, not a database. " * 30
    settings.data_path.mkdir(parents=True)
    path = settings.data_path / "something"
    path.write_bytes(content)
    with pytest.raises(ToolkitError, match=r"something.*database") as error:
        open_emitter(sink, path)
    assert error.value.exit_code == 2
    assert path.read_bytes() == content


@pytest.mark.parametrize("sink", SQL_SINKS)
def test_an_empty_file_becomes_a_database(sink: str, settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    path = settings.sink_path(sink)
    path.touch()
    with closing(open_emitter(sink, path)) as emitter:
        emitter.emit(make_batch(1))
    assert held(sink, settings) == {"ann-1": [1]}


def test_three_sqlite_writers_at_once(settings: Settings) -> None:
    def write(name: str) -> None:
        with closing(SqliteEmitter(settings.sqlite_path)) as emitter:
            for first in range(1, 1_000, 50):
                emitter.emit(make_batch(50, first=first, producer_id=name))

    names = ["ann-1", "bob-1", "cat-1"]
    writers = [threading.Thread(target=write, args=[name]) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert held("sqlite", settings) == {name: list(range(1, 1_001)) for name in names}


@pytest.mark.parametrize("sink", SQL_SINKS)
def test_emit_message_says_whether_it_is_stored(sink: str, settings: Settings, said: list[str]) -> None:
    path = settings.sink_path(sink)
    emit_message = {"sqlite": sqlite_emitter.emit_message, "duckdb": duckdb_emitter.emit_message}[sink]
    assert emit_message({"message": "one", "timestamp": "2025-01-02 03:04:05", "sequence": 1}, db_path=path)
    assert emit_message({"message": "two", "timestamp": "yesterday"}, db_path=str(path))
    assert not emit_message({"author": "Zoe"}, db_path=path)
    assert not emit_message({"message": "three"}, db_path=path.parent)
    assert held(sink, settings) == {None: [None, None]}
    assert [line.split()[0] for line in said] == ["ERROR"] * 2
