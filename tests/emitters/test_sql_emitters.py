"""What only the SQL sinks have: rows that a table refuses, doubles, files that are no databases."""

import ctypes
import os
import sqlite3
import struct
import sys
import threading
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from tests.helpers import held, make_batch
from utils.app.config import Settings
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.clients import duck
from utils.emitters import duckdb_emitter, sqlite_emitter
from utils.emitters.duckdb_emitter import DuckdbEmitter
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.records.table import column_types, create

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


@pytest.mark.parametrize("narrow", ["message_length UTINYINT", "sentiment DECIMAL(2, 2)", "message ENUM ('hello 1')"])
def test_duckdb_names_the_row_that_does_not_fit_an_old_column(narrow: str, settings: Settings) -> None:
    path = prepare("duckdb", settings, f"CREATE TABLE streamed_messages ({narrow})")
    batch = make_batch(3)
    batch.messages[1].message_length = 300
    batch.messages[1].sentiment = 1.0
    with closing(DuckdbEmitter(path)) as emitter, pytest.raises(Rejected) as refused:
        emitter.emit(batch)
    assert refused.value.sequence == 2
    assert held("duckdb", settings) == {"ann-1": [1]}


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


@pytest.mark.parametrize("size", [0, 8192])
def test_a_duckdb_file_whose_creation_was_killed_is_created_again(size: int, settings: Settings) -> None:
    path = prepare("duckdb", settings)
    start = path.read_bytes()[:size]
    path.write_bytes(start)
    with pytest.raises(Unavailable, match="being created"):
        duck.connect(path, read_only=True, wait_s=0.0)
    with closing(DuckdbEmitter(path)) as emitter:
        emitter.emit(make_batch(1))
    assert held("duckdb", settings) == {"ann-1": [1]}


def test_a_path_may_hold_the_words_that_duckdb_says(tmp_path: Path) -> None:
    """`lock` in a path once passed for a lock on the file."""
    path = tmp_path / "blocks locked" / "buzz's.duckdb"
    path.parent.mkdir()
    path.write_bytes(b"\0" * 8 + b"DUCK" + b"\0" * 3)
    with closing(DuckdbEmitter(path)) as emitter:
        emitter.emit(make_batch(1))
        assert emitter.last_sequence("ann-1") == 1


@pytest.mark.parametrize(
    "statements",
    [
        "CREATE VIEW streamed_messages AS SELECT 'a' AS message",
        "CREATE TABLE streamed_messages (message VARCHAR, sentiment FLOAT); "
        "CREATE INDEX mood ON streamed_messages (sentiment)",
    ],
)
def test_a_table_that_can_never_serve_is_no_outage(statements: str, settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    with duckdb.connect(str(settings.duckdb_path)) as database:
        database.execute(statements)
    with pytest.raises(ToolkitError, match="streamed_messages cannot be used, name another file") as error:
        DuckdbEmitter(settings.duckdb_path)
    assert error.value.exit_code == 2


def test_columns_of_others_are_left_alone(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    with duckdb.connect(str(settings.duckdb_path)) as database:
        database.execute('CREATE TABLE streamed_messages (message VARCHAR, sentiment FLOAT, "my score" FLOAT)')
    with closing(DuckdbEmitter(settings.duckdb_path)) as emitter:
        emitter.emit(make_batch(1))
    with duckdb.connect(str(settings.duckdb_path)) as database:
        types = dict(database.execute("SELECT column_name, data_type FROM duckdb_columns()").fetchall())
    assert (types["sentiment"], types["my score"]) == ("DOUBLE", "FLOAT")


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


def test_anybody_can_query_duckdb_between_batches(settings: Settings) -> None:
    with closing(DuckdbEmitter(settings.duckdb_path)) as emitter:
        for first in (1, 11):
            emitter.emit(make_batch(10, first=first))
            with duckdb.connect(str(settings.duckdb_path), read_only=True) as database:
                query = "SELECT max(date_trunc('year', timestamp))::VARCHAR, count(*) FROM streamed_messages"
                assert database.execute(query).fetchall() == [("2026-01-01 00:00:00", first + 9)]


@pytest.mark.skipif(sys.platform != "linux", reason="counts how often a file is opened, with inotify")
@pytest.mark.parametrize("read_only", [True, False])
def test_duckdb_looks_at_the_file_only_once_it_has_locked_it(read_only: bool, settings: Settings) -> None:
    """What it had read before the lock, another process could overwrite: rows were lost by it."""
    emitter = DuckdbEmitter(settings.duckdb_path)
    emitter.emit(make_batch(10))
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    opened, closed = 0x20, 0x08 | 0x10
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(settings.duckdb_path), opened | closed) > 0
        if read_only:
            duck.connect(settings.duckdb_path, read_only=True).close()
        else:
            emitter.emit(make_batch(10, first=11))
        events = os.read(watch, 4096)
    finally:
        os.close(watch)
        emitter.close()
    assert len(events) == 2 * struct.calcsize("iIII"), "opened once and closed once"


def test_duckdb_leaves_readers_a_pause(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with closing(DuckdbEmitter(settings.duckdb_path)) as emitter:
        monkeypatch.setattr("utils.emitters.duckdb_emitter.time.sleep", pauses.append)
        monkeypatch.setattr("utils.emitters.duckdb_emitter.PAUSE_S", 1000.0)
        emitter.emit(make_batch(20_001))
    assert len(pauses) == 2
    assert min(pauses) > 900


def test_a_duckdb_file_in_use_says_so_in_its_words(settings: Settings, tmp_path: Path) -> None:
    from tests.emitters.test_contract import hold_duckdb

    settings.data_path.mkdir(parents=True)
    with hold_duckdb(settings.duckdb_path), pytest.raises(Unavailable, match=r"lock is held in .*PID \d+"):
        DuckdbEmitter(settings.duckdb_path)


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


def test_columns_follow_the_message() -> None:
    assert column_types("sqlite")["message_length"] == "INTEGER"
    assert column_types("duckdb")["timestamp"] == "TIMESTAMP"
    assert list(column_types("sqlite")) == list(column_types("duckdb"))
