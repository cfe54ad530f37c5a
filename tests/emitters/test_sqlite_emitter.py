"""Specific to the SQLite sink: external tables, rows that a table rejects, files that are moved."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.emitters.test_contract import lock_sqlite
from tests.helpers import make_batch, open_files_stay
from utils.app.errors import Rejected, SinkReplaced, ToolkitError, Unavailable
from utils.clients import sqlite
from utils.emitters.sqlite_emitter import SqliteEmitter, emit_message
from utils.records.codec import Field
from utils.records.record import Batch, Line
from utils.records.stream import BUZZ, Stream

TIMESTAMP = "2026-11-23T19:04:05.123Z"
READINGS = Stream(
    "readings", fields=(Field("id", "text"), Field("temperature", "number"), Field("timestamp", "timestamp"))
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buzz.sqlite"


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def stored(path: Path, table: str = "streamed_messages") -> list[tuple[str, int]]:
    return query(path, f"SELECT producer_id, sequence FROM {table} WHERE producer_id IS NOT NULL ORDER BY rowid")


def ann(last: int, first: int = 1) -> list[tuple[str, int]]:
    return [("ann-1", sequence) for sequence in range(first, last + 1)]


def lines(*records: str, stream: Stream = READINGS, first: int = 1) -> Batch:
    return Batch.of_lines([Line(each.encode(), TIMESTAMP) for each in records], "ann-1", first, stream.codec)


class TestTables:
    def test_a_stream_has_its_own_columns(self, path: Path) -> None:
        with closing(SqliteEmitter(path, READINGS)) as emitter:
            emitter.emit(lines('{"id":"a","temperature":20.5}', '{"temperature":"n/a","more":[1]}', '{"id":7}'))
        assert query(path, "SELECT id, temperature, extra, sequence FROM readings") == [
            ("a", 20.5, None, 1), (None, None, '{"temperature":"n/a","more":[1]}', 2), (None, None, '{"id":7}', 3),
        ]  # fmt: skip
        assert query(path, "SELECT avg(temperature), typeof(timestamp) FROM readings") == [(20.5, "text")]

    def test_names_that_differ_in_case_are_the_same_column(self, path: Path) -> None:
        run(
            path, 'CREATE TABLE Streamed_Messages ("Message" TEXT, "AUTHOR" TEXT, "Sequence" INTEGER, Producer_ID TEXT)'
        )
        with closing(SqliteEmitter(path, BUZZ)) as emitter:
            emitter.emit(make_batch(2))
            with closing(SqliteEmitter(path, BUZZ)) as copy, pytest.raises(Unavailable, match="another process"):
                copy.emit(make_batch(1, first=2))
        assert query(path, "SELECT message, author, sequence FROM streamed_messages") == [
            ("hello 1", "Ann", 1), ("hello 2", "Ann", 2),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE VIEW streamed_messages AS SELECT 'a' AS message",
            "CREATE TABLE streamed_messages (message TEXT, author TEXT AS (upper(message)))",
            "CREATE TABLE streamed_messages_identity (message TEXT)",
            "CREATE TABLE streamed_messages (message TEXT, sentiment TEXT)",
        ],
        ids=["view", "generated column", "name of the index", "type"],
    )
    def test_a_table_that_can_never_serve_is_no_outage(self, path: Path, statement: str) -> None:
        run(path, statement)
        with pytest.raises(ToolkitError, match=r"streamed_messages.*name another file") as error:
            SqliteEmitter(path, BUZZ)
        assert error.value.exit_code == 2
        assert not isinstance(error.value, Unavailable)

    def test_a_table_that_has_a_record_twice_is_named(self, path: Path) -> None:
        SqliteEmitter(path, BUZZ).close()
        row = "INSERT INTO streamed_messages (message, producer_id, sequence) VALUES ('x', 'ann-1', 7)"
        run(path, "DROP INDEX streamed_messages_identity", row, row)
        with pytest.raises(ToolkitError, match=r"UNIQUE constraint failed: .*cannot be used") as error:
            SqliteEmitter(path, BUZZ)
        assert error.value.exit_code == 2

    def test_an_empty_file_becomes_a_database(self, path: Path) -> None:
        path.touch()
        with closing(SqliteEmitter(path, BUZZ)) as emitter:
            emitter.emit(make_batch(1))
        assert stored(path) == ann(1)

    def test_a_new_file_that_stays_locked_is_an_outage(self, path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(Unavailable, match="locked"):
                sqlite.Database(path, wait_s=0.0)


class TestRejected:
    @pytest.mark.parametrize(
        ("table", "sequence"),
        [
            ("message TEXT CHECK (message <> 'hello 4711'), author TEXT", 4711),
            ("message TEXT, author TEXT, room INTEGER NOT NULL", 1),
            ("message TEXT, author TEXT UNIQUE", 2),
            ("message TEXT, author TEXT UNIQUE ON CONFLICT IGNORE", 2),
            ("message TEXT, author TEXT UNIQUE ON CONFLICT REPLACE", 2),
            ("message TEXT, author TEXT UNIQUE ON CONFLICT ROLLBACK", 2),
            ("message TEXT, sequence INTEGER UNIQUE", 3),
        ],
    )
    def test_the_row_is_named_and_all_before_it_are_stored(self, path: Path, table: str, sequence: int) -> None:
        run(path, f"CREATE TABLE streamed_messages ({table})")
        if "sequence" in table:
            run(path, "INSERT INTO streamed_messages (sequence) VALUES (3)")
        with closing(SqliteEmitter(path, BUZZ)) as emitter:
            with pytest.raises(Rejected) as rejected:
                emitter.emit(make_batch(6_000))
            assert rejected.value.sequence == sequence
            assert rejected.value.reason.count("\n") == 0
            assert emitter.last(["ann-1"]) == (("ann-1", sequence - 1) if sequence > 1 else None)
        assert stored(path) == ann(sequence - 1)

    def test_a_row_that_a_trigger_drops_is_named(self, path: Path) -> None:
        SqliteEmitter(path, BUZZ).close()
        condition = "WHEN new.sequence IN (4711, 4712) BEGIN SELECT RAISE(IGNORE); END"
        run(path, f"CREATE TRIGGER picky BEFORE INSERT ON streamed_messages {condition}")
        with closing(SqliteEmitter(path, BUZZ)) as emitter:
            for first in (1, 4712):
                with pytest.raises(Rejected, match="a trigger of the table leaves the row out") as rejected:
                    emitter.emit(make_batch(5_000, first=first))
                assert rejected.value.sequence == max(first, 4711)
            emitter.emit(make_batch(5, first=4713))
        assert stored(path) == ann(4710) + ann(4717, 4713)

    def test_the_reason_is_one_line(self, path: Path) -> None:
        SqliteEmitter(path, BUZZ).close()
        text = "'no rows here\nask somebody else'"
        run(path, f"CREATE TRIGGER wordy BEFORE INSERT ON streamed_messages BEGIN SELECT RAISE(ABORT, {text}); END")
        with closing(SqliteEmitter(path, BUZZ)) as emitter, pytest.raises(Rejected) as rejected:
            emitter.emit(make_batch(2))
        assert rejected.value.reason == "no rows here"


@open_files_stay
class TestMoved:
    """A file that was moved while it is open: SQLite leaves its log at the old name, unless a checkpoint is forced."""

    def test_the_moved_file_has_everything_at_the_end(self, path: Path) -> None:
        with closing(SqliteEmitter(path, BUZZ)) as emitter:
            emitter.emit(make_batch(200))
            path.rename(path.with_name("moved"))
        assert stored(path.with_name("moved")) == ann(200)

    def test_moved_away_and_back(self, path: Path) -> None:
        emitter = SqliteEmitter(path, BUZZ)
        emitter.emit(make_batch(200))
        path.rename(path.with_name("moved"))
        with pytest.raises(SinkReplaced, match=r"while in use$"):
            emitter.emit(make_batch(5, first=201))
        emitter.close()
        emitter = SqliteEmitter(path, BUZZ)
        assert emitter.last(["ann-1"]) is None
        emitter.emit(make_batch(5, first=201))
        path.with_name("moved").rename(path)
        with pytest.raises(SinkReplaced):
            emitter.emit(make_batch(5, first=206))
        emitter.close()
        with closing(SqliteEmitter(path, BUZZ)) as last:
            assert last.last(["ann-1"]) == ("ann-1", 200)
            last.emit(make_batch(5, first=201))
        assert query(path, "PRAGMA integrity_check") == [("ok",)]
        assert stored(path) == ann(205)


def test_wide_streams_stay_below_the_limit_of_parameters(path: Path) -> None:
    """Statements stay below SQLite's default of 32,766 parameters, although Debian's build takes 250,000."""
    stream = Stream("wide", fields=tuple(Field(f"f{number}", "number") for number in range(1_500)))
    with closing(SqliteEmitter(path, stream)) as emitter:
        emitter.emit(lines(*['{"f0":1,"f1499":2}'] * 200, stream=stream))
    assert query(path, "SELECT count(*), sum(f0), sum(f1499), sum(f7) FROM wide") == [(200, 200.0, 400.0, None)]


def test_the_newest_of_two_thousand_runs_is_found_by_the_index(path: Path) -> None:
    with closing(SqliteEmitter(path, BUZZ)) as emitter:
        emitter.emit(make_batch(3))
        plan = query(path, "EXPLAIN QUERY PLAN SELECT MAX(sequence) FROM streamed_messages WHERE producer_id = 'x'")
        assert "streamed_messages_identity" in str(plan)
        assert emitter.last(["ann-1", *(f"old-{number}" for number in range(2_000))]) == ("ann-1", 3)


def test_three_writers_at_once(path: Path) -> None:
    def write(name: str) -> None:
        place = 0
        while place < 1_000:  # after a wait that is too long, continue as a worker does
            with suppress(Unavailable), closing(SqliteEmitter(path, BUZZ)) as emitter:
                _, place = emitter.last([name]) or ("", 0)
                for first in range(place + 1, 1_001, 50):
                    emitter.emit(make_batch(50, first=first, producer_id=name))
                    place = first + 49

    names = ["ann-1", "bob-1", "cat-1"]
    writers = [threading.Thread(target=write, args=[name]) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = stored(path)
    for name in names:
        assert [sequence for owner, sequence in found if owner == name] == list(range(1, 1_001))


def test_a_log_that_a_long_reader_let_grow_becomes_small_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "MAX_LOG_BYTES", 1 << 20)
    log = path.with_name(f"{path.name}-wal")
    with closing(SqliteEmitter(path, BUZZ)) as emitter:
        with closing(sqlite3.connect(path)) as reader:
            emitter.emit(make_batch(1))
            reader.execute("BEGIN")
            assert reader.execute("SELECT COUNT(*) FROM streamed_messages").fetchall() == [(1,)]
            for sequence in range(2, 700):
                emitter.emit(make_batch(1, first=sequence))
            assert log.stat().st_size > 20 << 20
        for sequence in (700, 701):  # the first moves it into the file, the second begins it again
            emitter.emit(make_batch(1, first=sequence))
        assert log.stat().st_size <= 1 << 20
    assert stored(path) == ann(701)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no umask")
def test_a_group_can_write_new_files_if_the_umask_lets_it(path: Path) -> None:
    before = os.umask(0o002)
    try:
        with closing(SqliteEmitter(path, BUZZ)):
            modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("buzz.sqlite", "buzz.sqlite-wal", "buzz.sqlite-shm"), 0o664)


def test_a_locked_file_is_an_outage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SqliteEmitter(path, BUZZ).close()
    database = sqlite.Database
    monkeypatch.setattr(sqlite, "Database", lambda path, **more: database(path, wait_s=0.05, **more))
    with lock_sqlite(path), pytest.raises(Unavailable, match="locked"):
        SqliteEmitter(path, BUZZ)


def test_a_file_of_another_program_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enabling the write-ahead log waits for other programs that open the new file, as SQLite itself does not."""
    run(path, "CREATE TABLE other (x)")
    results, waits, sleep = list[bool](), threading.Event(), time.sleep

    def seen(seconds: float) -> None:
        waits.set()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", seen)
    writer = threading.Thread(target=lambda: results.append(emit_message({"message": "x"}, db_path=path)))
    with lock_sqlite(path):
        writer.start()
        assert waits.wait(30)
    writer.join()
    assert results == [True]


def test_a_file_in_place_of_the_folder_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"Not a directory|File exists|already exists"):
        SqliteEmitter(tmp_path / "file" / "buzz.sqlite", BUZZ)


def without_none(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [tuple(value for value in row if value is not None) for row in rows]


def test_emit_message_keeps_all_fields_and_reports_what_it_cannot_store(path: Path, logged: list[str]) -> None:
    given = {"message": "one", "timestamp": "2025-01-02 03:04:05", "room": {"floor": 3}, "sequence": 1}
    assert emit_message(given, db_path=path)
    assert emit_message({"temperature": 21.5}, db_path=str(path))
    assert not emit_message({"value": float("inf")}, db_path=path)
    assert not emit_message([1], db_path=path)  # type: ignore[arg-type]  # as a notebook may
    assert not emit_message({"message": "three"}, db_path=path.parent)
    columns = "message, timestamp, extra, producer_id, sequence"
    assert without_none(query(path, f"SELECT {columns} FROM streamed_messages ORDER BY rowid")) == [
        ("one", "2025-01-02 03:04:05", '{"room":{"floor":3}}'), ('{"temperature":21.5}',),
    ]  # fmt: skip
    assert [line.split()[0] for line in logged] == ["ERROR"] * 3
