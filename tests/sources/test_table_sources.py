"""The SQL sources: what they read, and a model of a table that changes during reading."""

import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta, timezone
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.helpers import make_batch, open_files_stay, start_python, wait_until
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import duck
from utils.emitters.base import Emitter
from utils.emitters.duckdb_emitter import DuckdbEmitter
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.records.codec import Field
from utils.records.record import Batch, Line
from utils.records.stream import BUZZ, Stream
from utils.records.table import Table, quoted
from utils.sources import duckdb_source, table_source
from utils.sources.base import Chunk, Resume
from utils.sources.duckdb_source import DuckdbSource
from utils.sources.sqlite_source import SqliteSource, database_uri
from utils.sources.table_source import TableSource

TIMESTAMP = "2026-11-23T19:04:05.123Z"
ROW_WITHOUT_MESSAGE = {"sentiment": 0.5, "message_length": "1"}
TYPES = ("text", "integer", "number", "boolean", "timestamp", "json")
READINGS = Stream("readings", fields=(*(Field(f"a {name}", name) for name in TYPES), Field("timestamp", "timestamp")))


@contextmanager
def sqlite_database(path: Path) -> Iterator[Any]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


@contextmanager
def duckdb_database(path: Path) -> Iterator[Any]:
    with duckdb.connect(str(path)) as connection:
        yield connection


KINDS: dict[str, tuple[type[TableSource], Callable[[Path, Stream], Emitter], Callable[[Path], Any]]] = {
    "sqlite": (SqliteSource, SqliteEmitter, sqlite_database),
    "duckdb": (DuckdbSource, DuckdbEmitter, duckdb_database),
}


class Kind:
    """One SQL sink: its emitter, its source, and direct statements."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.source_class, self.emitter_class, self.database = KINDS[name]
        self.path = folder / f"buzz.{name}"

    def emit(self, amount: int, first: int = 1, producer_id: str = "ann-1") -> None:
        self.emit_batch(make_batch(amount, producer_id=producer_id, first=first))

    def emit_batch(self, batch: Batch, stream: Stream = BUZZ) -> None:
        emitter = self.emitter_class(self.path, stream)
        emitter.emit(batch)
        emitter.close()

    def emit_lines(self, *lines: str, stream: Stream = READINGS, first: int = 1) -> Batch:
        batch = Batch.of_lines([Line(each.encode(), TIMESTAMP) for each in lines], "ann-1", first, stream.codec)
        self.emit_batch(batch, stream)
        return batch

    def source(self, resume: Resume = lambda partition: "", stream: Stream = BUZZ) -> TableSource:
        return self.source_class(self.path, stream, resume)

    def execute(self, *statements: str) -> None:
        with self.database(self.path) as connection:
            for statement in statements:
                connection.execute(statement)

    def objects(self, stream: Stream = READINGS) -> list[dict[str, Any]]:
        """Return what the source reads, as JSON objects without ids and timestamp."""
        ours = ("producer_id", "sequence", "timestamp")
        decoded = [json.loads(stream.codec.encode(record)) for record in records(drain(self.source(stream=stream)))]
        return [{name: value for name, value in each.items() if name not in ours} for each in decoded]


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setattr(duckdb_source, "POLL_S", 0.0)
    return Kind(request.param, tmp_path)


def drain(source: TableSource, max_records: int = 1_000) -> list[Chunk]:
    chunks = []
    while (chunk := source.poll(max_records)) is not None:
        chunks.append(chunk)
    return chunks


def records(chunks: list[Chunk]) -> list[Any]:
    return [record for chunk in chunks for record in chunk.records]


def sequences(chunks: list[Chunk]) -> list[int | None]:
    return [record.sequence for record in records(chunks)]


def canonical(stream: Stream, found: list[Any]) -> list[bytes]:
    return stream.codec.canonical(stream.codec.columns_of(found))


class TestReading:
    def test_records_come_back_as_they_were_sent_in_order(self, kind: Kind) -> None:
        kind.emit(5)
        chunks = drain(kind.source(), max_records=2)
        assert BUZZ.codec.rows(records(chunks)) == make_batch(5).rows
        assert [len(chunk.records) for chunk in chunks] == [2, 2, 1]
        assert [chunk.end for chunk in chunks[:-1]] == [chunk.start for chunk in chunks[1:]]
        assert {chunk.partition for chunk in chunks} == {kind.path.name}

    def test_streams_of_one_database_are_partitions_of_their_own(self, kind: Kind) -> None:
        kind.emit(2)
        kind.emit_lines("{}", '{"a text":"x"}')
        (chunk,) = drain(kind.source(stream=READINGS))
        assert (chunk.partition, sequences([chunk])) == (f"{kind.path.name}/readings", [1, 2])

    def test_new_rows_are_followed_and_resumed(self, kind: Kind) -> None:
        kind.emit(3)
        source = kind.source()
        assert sequences(drain(source)) == [1, 2, 3]
        kind.emit(1, first=4)
        chunks = drain(source)
        assert sequences(chunks) == [4]
        kind.emit(1, first=5)
        assert sequences(drain(kind.source(lambda partition: chunks[-1].end))) == [5]

    def test_from_the_end_only_new_records_are_read(self, kind: Kind) -> None:
        kind.emit(3)
        source = kind.source(lambda partition: "end")
        chunks = drain(source)
        assert (sequences(chunks), chunks[0].start) == ([], "end")
        kind.emit(1, first=4)
        assert sequences(drain(source)) == [4]

    def test_from_the_end_of_a_table_that_does_not_exist_yet(self, kind: Kind) -> None:
        source = kind.source(lambda partition: "end")
        moved = source.poll(1)
        assert (moved and moved.start, moved and moved.end) == ("end", "")
        with pytest.raises(Unavailable, match="does not exist yet"):
            source.poll(1)
        kind.emit(2)
        assert sequences(drain(source)) == [1, 2]

    @open_files_stay
    def test_an_older_copy_that_is_written_over_the_file_begins_again(self, kind: Kind) -> None:
        """A restored backup restarts the partition; its owner also deletes the log of the former file."""
        kind.emit(3)
        backup = kind.path.read_bytes()
        kind.emit(2, first=4)
        source = kind.source()
        assert sequences(drain(source)) == [1, 2, 3, 4, 5]
        kind.path.write_bytes(backup)
        for suffix in ("-wal", "-shm"):
            kind.path.with_name(f"{kind.path.name}{suffix}").unlink(missing_ok=True)
        kind.emit(3, first=6)
        chunks = drain(source)
        assert chunks[0].begins_again
        assert sequences(chunks) == [1, 2, 3, 6, 7, 8]

    def test_a_gap_of_deleted_rows_is_crossed(self, kind: Kind) -> None:
        kind.emit(20)
        kind.execute("DELETE FROM streamed_messages WHERE sequence BETWEEN 3 AND 15")
        assert sequences(drain(kind.source(), 2)) == [1, 2, 16, 17, 18, 19, 20]

    def test_large_records_come_in_smaller_chunks(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table_source, "CHUNK_BYTES", 1_000)
        kind.emit(300)
        chunks = drain(kind.source())
        assert sequences(chunks) == list(range(1, 301))
        assert max(len(chunk.records) for chunk in chunks) < 150

    @pytest.mark.parametrize("every", [1, 2, 64, 1_000])
    def test_large_records_among_small_ones_come_in_smaller_chunks(self, every: int) -> None:
        rows = ((n, "x" if n % 64 == 63 or n % every else "x" * 200_000) for n in range(10_000))
        found = table_source.fetch_page(lambda count: list(islice(rows, count)), 10_000)
        size = sum(len(text) for _, text in found)
        assert size < table_source.CHUNK_BYTES + table_source.GROUP_ROWS * 200_000
        assert len(found) == 10_000 or size >= table_source.CHUNK_BYTES

    @pytest.mark.parametrize("name", ["page", "rows", "select", "temp"])
    def test_a_stream_may_have_any_name(self, kind: Kind, name: str) -> None:
        """Any name can be a stream's, and `id` can be a column, which otherwise only buzz has."""
        stream = Stream(name, fields=(Field("select", "integer"), Field("rowid", "text"), Field("id", "integer")))
        kind.emit_lines('{"select":1,"rowid":"x","id":7}', "{}", stream=stream)
        assert kind.objects(stream) == [{"select": 1, "rowid": "x", "id": 7}, {}]


class TestTypes:
    def test_instants_have_as_many_digits_as_they_need(self, tmp_path: Path) -> None:
        kind = Kind("duckdb", tmp_path)
        kind.execute(
            "CREATE TABLE readings (timestamp TIMESTAMP)",
            "INSERT INTO readings VALUES ('2026-01-01 00:00:00'), ('1969-12-31 23:59:59.999999'), ('0001-01-01'), "
            "('infinity'), ('12000-01-01')",
        )
        found = records(drain(kind.source(stream=READINGS)))
        assert [record.timestamp for record in found] == [
            "2026-01-01T00:00:00.000Z",
            "1969-12-31T23:59:59.999999Z",
            "0001-01-01T00:00:00.000Z",
            None,
            None,
        ]
        assert [json.loads(record.extra) for record in found[3:]] == [
            {"timestamp": "infinity"},
            {"timestamp": "12000-01-01T00:00:00.000Z"},
        ]

    @pytest.mark.parametrize(
        ("column", "value", "kept"),
        [
            ("a text", "7", 7),
            ("a integer", "1.5", 1.5),
            ("a integer", "'12'", "12"),
            ("a number", "'n/a'", "n/a"),
            ("a number", "9007199254740993", 9007199254740993),
            ("a number", "9e999", "inf"),
            ("a boolean", "2", 2),
            ("a boolean", "1.0", 1.0),
            ("a timestamp", "'yesterday'", "yesterday"),
            ("a timestamp", "5", 5),
        ],
    )
    def test_a_value_of_another_type_is_kept_in_extra(
        self, tmp_path: Path, column: str, value: str, kept: object
    ) -> None:
        kind = Kind("sqlite", tmp_path)
        fields = ", ".join(f'"a {each}"' for each in ("text", "integer", "number", "boolean", "timestamp"))
        kind.execute(
            f"CREATE TABLE readings ({fields}, producer_id, sequence)",
            f"INSERT INTO readings (\"{column}\", producer_id, sequence) VALUES ({value}, 'ann-1', 1)",
        )
        (chunk,) = drain(kind.source(stream=READINGS))
        assert json.loads(chunk.records[0].extra) == {column: kept}
        assert not chunk.invalid

    def test_columns_of_mixed_types_are_read_value_by_value(self, tmp_path: Path) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.execute(
            'CREATE TABLE readings ("a number", "a text")',
            "INSERT INTO readings VALUES (1.5, 'x'), ('high', 2.5), (x'616263', 3), (NULL, NULL)",
        )
        assert kind.objects() == [
            {"a number": 1.5, "a text": "x"},
            {"a number": "high", "a text": 2.5},
            {"a number": "YWJj", "a text": 3},
            {},
        ]

    @pytest.mark.parametrize(
        ("column", "value", "kept"),
        [
            ("a text", "x'616263'", "YWJj"),
            ("a json", "'{'", "{"),
            ("a json", '\'1,"a text":"mine"\'', '1,"a text":"mine"'),
            ("a json", "x'35'", "NQ=="),
            ("extra", "'{}}'", "{}}"),
            ("extra", "'[1]'", [1]),
        ],
    )
    def test_bytes_are_base64_and_invalid_json_is_text(
        self, tmp_path: Path, column: str, value: str, kept: object
    ) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.emit_lines("{}", "{}")
        kind.execute(f'UPDATE readings SET "{column}" = {value} WHERE sequence = 2')
        assert kind.objects() == [{}, {column: kept}]

    def test_a_json_null_is_absent(self, tmp_path: Path) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.emit_lines("{}")
        kind.execute("UPDATE readings SET \"a json\" = 'null'")
        assert kind.objects() == [{}]

    def test_text_that_is_no_utf8_is_one_invalid_row(self, tmp_path: Path) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.emit(3)
        kind.execute("UPDATE streamed_messages SET message = CAST(x'61FF' AS TEXT) WHERE sequence = 2")
        (chunk,) = drain(kind.source())
        assert sequences([chunk]) == [1, 3]
        (invalid,) = chunk.invalid
        assert (invalid.where, invalid.reason) == ("buzz.sqlite row 2", "text that is not UTF-8")
        assert invalid.line.startswith(rb"('a\udcff', 'Ann'")

    @pytest.mark.parametrize("column", ["a json", "extra"])
    def test_json_that_is_nested_too_deeply_is_one_invalid_row(self, tmp_path: Path, column: str) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.emit_lines("{}", "{}", "{}")
        kind.execute(f"UPDATE readings SET \"{column}\" = '{'[' * 99_000}{']' * 99_000}' WHERE sequence = 2")
        (chunk,) = drain(kind.source(stream=READINGS))
        found = sequences([chunk]), [each.where for each in chunk.invalid]
        has_room = sys.version_info >= (3, 14)  # its own limit is far higher
        assert found == (([1, 2, 3], []) if has_room else ([1, 3], ["buzz.sqlite/readings row 2"]))


class TestTablesOfOthers:
    def test_an_absent_value_of_buzz_is_filled_in_and_a_wrong_one_is_kept(self, kind: Kind) -> None:
        kind.execute(
            "CREATE TABLE streamed_messages (message TEXT, sentiment REAL, message_length TEXT)",
            "INSERT INTO streamed_messages VALUES ('a', NULL, NULL), (NULL, 0.5, '1'), ('b', 7, NULL), "
            "('c', 0.5, 'x'), ('d', 0.25, '12')",
        )
        (chunk,) = drain(kind.source())
        found = [(message.message, message.author, message.message_length) for message in chunk.records]
        assert found == [("a", "Unknown", 1), ("b", "Unknown", 1), ("c", "Unknown", 1), ("d", "Unknown", 1)]
        assert [message.extra and json.loads(message.extra) for message in chunk.records] == [
            None,
            {"sentiment": 7.0},
            {"message_length": "x"},
            {"message_length": "12"},
        ]
        ((where, line),) = [(invalid.where, invalid.line) for invalid in chunk.invalid]
        assert (where, json.loads(line)) == (f"{kind.path.name} row {2 - (kind.name == 'duckdb')}", ROW_WITHOUT_MESSAGE)

    def test_columns_that_the_stream_does_not_know_are_in_extra(self, kind: Kind) -> None:
        kind.emit_lines('{"a text":"x","more":1}', "{}")
        kind.execute(
            "ALTER TABLE readings ADD COLUMN room INTEGER",
            "ALTER TABLE readings ADD COLUMN ok BOOLEAN",
            "ALTER TABLE readings ADD COLUMN photo BLOB",
            "UPDATE readings SET room = 5, ok = true WHERE sequence = 1",
        )
        assert kind.objects() == [{"a text": "x", "more": 1, "room": 5, "ok": True}, {}]

    def test_any_type_of_duckdb_is_kept(self, tmp_path: Path) -> None:
        kind = Kind("duckdb", tmp_path)
        kind.execute(
            "CREATE TABLE readings (d DATE, money DECIMAL(5,2), big HUGEINT, photo BLOB, place STRUCT(a INTEGER), "
            "list INTEGER[], length INTERVAL, small FLOAT, j JSON, moment TIMESTAMPTZ, odd DOUBLE, "
            "nano TIMESTAMPTZ_NS, moments TIMESTAMP[], prices DECIMAL(4,1)[], "
            '"a number" DECIMAL(4,1), "a json" STRUCT(q INTEGER), "a text" UUID)',
            "INSERT INTO readings VALUES ('2025-01-01', 1.5, 170141183460469231731687303715884105727, 'abc'::BLOB, "
            "{'a': 1}, [1, NULL], INTERVAL 1 DAY, 0.3, '{\"a\":[1]}', '2025-01-01 00:00:00+02', 'nan', "
            "'2025-01-01 00:00:00.123456789+02', ['2025-01-01'], [0.3], 2.5, {'q': 1}, "
            "'00000000-0000-0000-0000-000000000001')",
        )
        assert kind.objects() == [
            {
                "d": "2025-01-01",
                "money": 1.5,
                "big": 170141183460469231731687303715884105727,
                "photo": "YWJj",
                "place": {"a": 1},
                "list": [1, None],
                "length": "P1D",
                "small": 0.3,
                "j": {"a": [1]},
                "moment": "2024-12-31T22:00:00.000Z",
                "odd": "nan",
                "nano": "2024-12-31T22:00:00.123457Z",
                "moments": ["2025-01-01T00:00:00"],
                "prices": ["0.3"],
                "a number": 2.5,
                "a json": {"q": 1},
                "a text": "00000000-0000-0000-0000-000000000001",
            }
        ]

    def test_a_stream_without_known_fields_keeps_everything(self, kind: Kind) -> None:
        kind.emit_lines('{"a text":"x","a integer":1,"a number":1.5,"a boolean":true,"more":{}}')
        (found,) = kind.objects(Stream("readings"))
        assert found == {"a text": "x", "a integer": 1, "a number": 1.5, "a boolean": True, "more": {}}

    def test_names_are_compared_without_case(self, kind: Kind) -> None:
        kind.execute(
            'CREATE TABLE Readings ("A Text" TEXT, Producer_Id TEXT, SEQUENCE BIGINT)',
            "INSERT INTO readings VALUES ('x', 'ann-1', 7)",
        )
        (record,) = records(drain(kind.source(stream=READINGS)))
        assert (record.field_0, record.extra, record.producer_id, record.sequence) == ("x", None, "ann-1", 7)

    @pytest.mark.parametrize("names", ["rowid", "_rowid_", "oid, _rowid_"])
    def test_a_column_named_rowid_numbers_nothing(self, tmp_path: Path, names: str) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.execute(f"CREATE TABLE streamed_messages (message TEXT, {names})")
        kind.execute(*(f"INSERT INTO streamed_messages (message) VALUES ('{text}')" for text in "ab"))
        chunks = drain(kind.source(), max_records=1)
        assert [message.message for message in records(chunks)] == ["a", "b"]


class TestUpgrades:
    """A table that is upgraded while readers are connected: no row changes its number."""

    def test_json_in_a_column_of_text(self, tmp_path: Path) -> None:
        kind = Kind("duckdb", tmp_path)
        kind.emit_lines('{"a json":[1,{"b":2}]}', '{"a json":"text"}')
        kind.execute('ALTER TABLE readings ALTER "a json" TYPE VARCHAR')
        assert kind.objects() == [{"a json": [1, {"b": 2}]}, {"a json": "text"}]

    @pytest.mark.parametrize("narrow", ["FLOAT", "BIGINT", "DECIMAL(4, 2)"])
    def test_numbers_that_the_emitter_widens(self, tmp_path: Path, narrow: str) -> None:
        kind = Kind("duckdb", tmp_path)
        kind.execute(
            f'CREATE TABLE readings ("a number" {narrow})', "INSERT INTO readings VALUES (0.3), (7), (0.7), (NULL), (3)"
        )
        before = drain(kind.source(stream=READINGS))
        if narrow != "BIGINT":
            assert [record.field_2 for record in before[0].records[:3]] == [0.3, 7.0, 0.7]
        kind.emit_lines("{}", "{}")
        assert sequences(drain(kind.source(lambda partition: before[-1].end, READINGS))) == [1, 2]


class TestBadInput:
    def test_missing_file_is_never_created(self, kind: Kind) -> None:
        with pytest.raises(Unavailable, match="does not exist yet"):
            kind.source().poll(1)
        assert not kind.path.exists()

    def test_missing_table(self, kind: Kind) -> None:
        kind.execute("CREATE TABLE other (a INTEGER)")
        source = kind.source()
        with pytest.raises(Unavailable, match=r"no table streamed_messages yet \(it has other\)"):
            source.poll(1)
        kind.emit(1)
        assert sequences(drain(source)) == [1]

    @pytest.mark.parametrize(
        ("name", "statement"),
        [
            ("sqlite", "CREATE VIEW streamed_messages AS SELECT * FROM other"),
            ("sqlite", "CREATE TABLE Streamed_Messages (message TEXT PRIMARY KEY) WITHOUT ROWID"),
            ("sqlite", "CREATE TABLE streamed_messages (message TEXT, rowid, _rowid_, oid)"),
            ("duckdb", "CREATE VIEW Streamed_Messages AS SELECT * FROM other"),
            ("duckdb", "CREATE TABLE streamed_messages AS SELECT message, 'x' AS rowid FROM other"),
        ],
    )
    @pytest.mark.parametrize("start", ["", "end"])
    def test_rows_without_numbers(self, tmp_path: Path, name: str, statement: str, start: str) -> None:
        kind = Kind(name, tmp_path)
        kind.execute("CREATE TABLE other (message TEXT)", "INSERT INTO other VALUES ('a')", statement)
        with pytest.raises(ToolkitError, match="has no row numbers to follow") as raised:
            kind.source(lambda partition: start).poll(1)
        assert raised.value.exit_code == 2

    @pytest.mark.skipif(os.name == "nt", reason="Windows reports a path through a file as missing")
    def test_a_path_through_a_file(self, kind: Kind) -> None:
        kind.path.write_bytes(b"")
        with pytest.raises(Unavailable, match="Not a directory"):
            kind.source_class(kind.path / kind.path.name, BUZZ, lambda partition: "").poll(1)

    def test_closing_twice(self, kind: Kind) -> None:
        kind.emit(1)
        source = kind.source()
        source.poll(1)
        source.close()
        source.close()


class TestFile:
    def test_a_locked_duckdb_file_is_unavailable_and_heals(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(duckdb_source, "WAIT_S", 0.05)
        settings.data_path.mkdir()
        kind = Kind("duckdb", settings.data_path)
        kind.emit(1)
        holder = start_python(
            f"import duckdb; held = duckdb.connect({str(kind.path)!r}); print('held', flush=True); input()",
            settings=settings,
            code="import sys; exec(sys.argv[1])",
        )
        source = kind.source()
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(Unavailable, match="lock"):
                source.poll(1)
        finally:
            holder.communicate("\n", timeout=30)
        assert sequences(drain(source)) == [1]

    def test_duckdb_waits_while_the_process_has_too_many_files_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def connect(**_: object) -> None:
            raise duckdb.IOException('IO Error: Cannot open file "/proc/self/cgroup": Too many open files')

        kind = Kind("duckdb", tmp_path)
        kind.emit(1)
        source = kind.source()
        with monkeypatch.context() as patched, pytest.raises(Unavailable, match="Too many open files"):
            patched.setattr(duckdb, "connect", connect)
            source.poll(1)
        assert sequences(drain(source)) == [1]

    def test_a_duckdb_file_is_free_between_polls(self, tmp_path: Path) -> None:
        kind = Kind("duckdb", tmp_path)
        kind.emit(2)
        source = kind.source()
        source.poll(1)
        kind.emit(1, first=3)  # fails while this process has the file open
        source.close()

    def test_an_unchanged_duckdb_file_is_not_attached(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(duckdb_source, "POLL_S", 0.0)
        monkeypatch.setattr(duckdb_source, "_COARSE_S", 0.0)
        kind = Kind("duckdb", tmp_path)
        kind.emit(2)
        os.utime(kind.path, (time.time() - 60, time.time() - 60))
        source = kind.source()
        drain(source)
        looks: list[object] = []
        attached = duck.attached

        def counted(*arguments: Any, **options: Any) -> Any:
            looks.append(arguments)
            return attached(*arguments, **options)

        monkeypatch.setattr(duck, "attached", counted)
        assert source.poll(1) is None
        assert not looks
        kind.emit(1, first=3)
        assert sequences(drain(source)) == [3]
        assert looks

    def test_a_duckdb_file_that_has_just_changed_is_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its time stamp is too coarse to show a second change."""
        monkeypatch.setattr(duckdb_source, "POLL_S", 0.0)
        kind = Kind("duckdb", tmp_path)
        kind.emit(1)
        source = kind.source()
        drain(source)
        times_ns = kind.path.stat().st_atime_ns, kind.path.stat().st_mtime_ns
        kind.emit(1, first=2)
        os.utime(kind.path, ns=times_ns)
        assert sequences(drain(source)) == [2]

    @pytest.mark.parametrize(
        ("path", "uri"),
        [
            (PurePosixPath("/data/a b.sqlite"), "file:///data/a%20b.sqlite"),
            (PureWindowsPath("C:/data/b.sqlite"), "file:///C:/data/b.sqlite"),
            (PureWindowsPath("//server/share/b.sqlite"), "file:////server/share/b.sqlite"),  # an empty host
        ],
    )
    def test_sqlite_finds_files_of_windows_shares(self, path: PurePath, uri: str) -> None:
        assert database_uri(path) == uri

    @pytest.mark.skipif(sys.platform != "linux", reason="reads the process's locks from /proc")
    def test_checking_a_duckdb_file_keeps_the_locks_of_this_process(self, tmp_path: Path) -> None:
        """Closing any descriptor of the file would drop the locks of this process's emitter."""
        kind = Kind("duckdb", tmp_path)
        kind.emit(1)
        source = kind.source()
        assert isinstance(source, DuckdbSource)
        drain(source)

        def locks() -> int:
            inode = f":{kind.path.stat().st_ino} "
            return sum(inode in line and f" {os.getpid()} " in line for line in Path("/proc/locks").open())

        with duckdb.connect(str(kind.path)):
            if not locks():
                pytest.skip("/proc/locks shows no locks here")
            source._file_state()
            assert locks()

    @pytest.mark.full
    def test_polls_of_a_duckdb_file_are_apart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(duckdb_source, "POLL_S", 3_600.0)
        kind = Kind("duckdb", tmp_path)
        kind.emit(3)
        source = kind.source()
        assert sequences(drain(source, 1)) == [1, 2, 3]  # more rows are there
        kind.emit(1, first=4)
        assert source.poll(1) is None  # no query before the interval is over
        monkeypatch.setattr(duckdb_source, "POLL_S", 0.05)
        other = kind.source()
        assert sequences(drain(other)) == [1, 2, 3, 4]
        kind.emit(1, first=5)
        wait_until(lambda: other.poll(1) is not None)

    def test_a_sqlite_writer_does_not_hold_up_the_reader(self, tmp_path: Path) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.emit(1)
        with closing(sqlite3.connect(kind.path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert sequences(drain(kind.source())) == [1]
            writer.execute("ROLLBACK")


def as_nobody(folder: Path, action: Callable[[], None]) -> str:
    """Run `action` in a child process without the right to write; return the error it raised, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        outcome = "fine"
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            action()
        except BaseException as error:  # noqa: BLE001 (the parent judges)
            outcome = f"{type(error).__name__}: {error}"
        os.write(writing, outcome.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        outcome = answer.read()
    os.waitpid(child, 0)
    return outcome


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to become another user")
class TestReadOnlyFolder:
    @pytest.fixture
    def kind(self, request: pytest.FixtureRequest) -> Iterator[Kind]:
        with TemporaryDirectory(dir="/tmp") as folder:  # its parent folders must be open to all
            yield Kind("sqlite", Path(folder))
            Path(folder).chmod(0o755)

    def read(self, kind: Kind, expected: list[int]) -> str:
        kind.path.chmod(0o644)
        kind.path.parent.chmod(0o555)

        def action() -> None:
            found = sequences(drain(kind.source()))
            assert found == expected, found

        outcome = as_nobody(kind.path.parent, action)
        kind.path.parent.chmod(0o755)
        return outcome

    @pytest.mark.parametrize("has_empty_log", [False, True])
    def test_a_database_in_wal_mode_is_read(self, kind: Kind, has_empty_log: bool) -> None:
        kind.emit(3)
        log = kind.path.with_name(f"{kind.path.name}-wal")
        assert not log.exists()
        if has_empty_log:  # as a killed writer leaves it
            log.touch()
        assert self.read(kind, [1, 2, 3]) == "fine"

    def test_rows_that_the_owner_adds_are_followed(self, kind: Kind) -> None:
        kind.emit(1)
        kind.path.chmod(0o644)
        kind.path.parent.chmod(0o555)
        more, go = os.pipe()
        waiting, ready = os.pipe()

        def action() -> None:
            source = kind.source()
            assert sequences(drain(source)) == [1]
            os.write(ready, b".")
            os.read(more, 1)
            assert sequences(drain(source)) == [2]

        if os.fork() == 0:
            try:
                os.read(waiting, 1)
                kind.path.parent.chmod(0o755)
                kind.emit(1, first=2)
                kind.path.parent.chmod(0o555)
                os.write(go, b".")
            finally:
                os._exit(0)
        assert as_nobody(kind.path.parent, action) == "fine"
        os.wait()

    def test_a_log_that_cannot_be_read_is_one_line(self, kind: Kind) -> None:
        kind.emit(1)
        with closing(sqlite3.connect(kind.path)) as open_elsewhere:
            open_elsewhere.execute("DELETE FROM streamed_messages")
            open_elsewhere.commit()
            copy = kind.path.with_name("copy.sqlite")
            shutil.copy(kind.path, copy)
            shutil.copy(f"{kind.path}-wal", f"{copy}-wal")
        copied = Kind("sqlite", kind.path.parent)
        copied.path = copy
        outcome = self.read(copied, [])
        assert outcome.startswith("Unavailable: ")
        assert "copy both to another folder" in outcome


# Random objects, read back from the table as their line is read.

ZONES = [timezone(timedelta(minutes=minutes)) for minutes in (0, 330, -720)]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.datetimes(timezones=st.sampled_from(ZONES)).map(lambda moment: moment.isoformat()),
    st.datetimes().map(str),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner))
NAMES = st.sampled_from([*(field.name for field in READINGS.fields), "rowid", "A TEXT", "extra", 'q"', "more"])
OBJECTS = st.lists(st.dictionaries(NAMES, VALUES, max_size=9), min_size=1, max_size=9)


@pytest.mark.proof(
    "a record arrives whole: every field, typed in SQL, unchanged on the wire",
    "random objects through a table, compared with their lines",
    full=15,
    long=500,
)
@pytest.mark.parametrize("name", ["sqlite", "duckdb"])
def test_any_record_comes_back_as_its_line_is_read(
    name: str, times: int, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duckdb_source, "POLL_S", 0.0)
    monkeypatch.setattr("utils.emitters.duckdb_emitter.PAUSE_S", 0.0)
    with TemporaryDirectory() as folder:
        kind = Kind(name, Path(folder))
        emitter = kind.emitter_class(kind.path, READINGS)
        source = kind.source(stream=READINGS)
        sent = 0

        @examples(
            max_examples=times,
            deadline=None,
            database=None,
            derandomize=not long,
            suppress_health_check=list(HealthCheck),
        )
        @given(OBJECTS)
        def run(objects: list[dict[str, Any]]) -> None:
            nonlocal sent
            lines = [Line(json.dumps(each).encode(), TIMESTAMP) for each in objects]
            batch = Batch.of_lines(lines, "ann-1", sent + 1, READINGS.codec)
            emitter.emit(batch)
            sent += len(objects)
            chunks = drain(source)
            assert not any(chunk.invalid for chunk in chunks)
            assert canonical(READINGS, records(chunks)) == canonical(READINGS, batch.records)

        try:
            run()
        finally:
            emitter.close()
            source.close()


# A model: rows are inserted, deleted and rebuilt. Those with ids are read once, the others at least once.

LITERALS = {
    "text": "'a'",
    "integer": "3",
    "number": "0.5",
    "boolean": "true",
    "timestamp": f"'{TIMESTAMP}'",
    "json": "'{\"a\":1}'",
}


class Model:
    def __init__(self, kind: Kind, stream: Stream) -> None:
        self.kind, self.stream, self.table = kind, stream, Table(stream)
        self.next = {"ann-1": 1, "bob-2": 1}
        self.made = 0
        self.there: set[str] = set()
        self.must: set[str] = set()
        self.may: set[str] = set()
        self.got: list[str] = []
        self.seen: set[tuple[str, int]] = set()
        self.began_again = False
        self.position = ""
        kind.execute(*self.table.create("sqlite" if kind.name == "sqlite" else "duckdb"))
        self.source = self.opened()

    def opened(self) -> TableSource:
        return self.kind.source(lambda partition: self.position, self.stream)

    def insert(self, producers: list[str | None]) -> None:
        rows = []
        for producer_id in producers:
            self.made += 1
            name = f"{producer_id} {self.made}"
            ids = "NULL, NULL"
            if producer_id is not None:
                ids = f"'{producer_id}', {self.next[producer_id]}"
                self.next[producer_id] += 1
            others = ", ".join(LITERALS[field.type] for field in self.table.fields[1:-3])
            rows.append(f"('{name}', {others}, NULL, {ids})")
            self.there.add(name)
            self.must.add(name)
        self.kind.execute(f"INSERT INTO {self.table.name} ({self.table.row}) VALUES {', '.join(rows)}")

    def delete(self, every: int, offset: int) -> None:
        doomed = {name for name in self.there if int(name.split()[1]) % every == offset % every}
        unread = doomed - set(self.got)
        self.may |= unread
        self.must -= unread
        self.there -= doomed
        names = ", ".join(f"'{name}'" for name in doomed) or "''"
        self.kind.execute(f"DELETE FROM {self.table.name} WHERE {quoted(self.table.columns[0])} IN ({names})")

    def rebuild(self, drop_file: bool) -> None:
        """Copy the rows to a new table, in a new file or the old one."""
        if drop_file:
            copy = self.kind.path.with_suffix(".copy")
            shutil.copy(self.kind.path, copy)
            self.kind.path.unlink()
            copy.rename(self.kind.path)
        self.kind.execute(
            f"CREATE TABLE rebuilt AS SELECT * FROM {self.table.name} ORDER BY rowid",
            f"DROP TABLE {self.table.name}",
            f"ALTER TABLE rebuilt RENAME TO {self.table.name}",
        )

    def poll(self, max_records: int) -> bool:
        chunk = self.source.poll(max_records)
        if chunk is None:
            return False
        assert chunk.start == self.position
        assert len(chunk.records) <= max_records
        assert not chunk.invalid
        self.began_again |= chunk.begins_again
        for record in chunk.records:
            ids = record.producer_id, record.sequence
            if record.sequence is None or ids not in self.seen:
                self.got.append(self.stream.codec.rows([record])[0][0])
            else:
                assert self.began_again, f"{ids} twice"
            self.seen.add(ids)
        self.position = chunk.end
        return True

    def drain(self) -> None:
        for _ in range(10_000):
            if not self.poll(7):
                return
        raise AssertionError("the reader never reaches the end")

    def restart(self) -> None:
        self.source.close()
        self.source = self.opened()

    def check(self) -> None:
        self.drain()
        got = set(self.got)
        assert self.must <= got, f"missing: {self.must - got}"
        assert got <= self.must | self.may
        twice = {name for name in got if self.got.count(name) > 1}
        assert not twice or (self.began_again and all(name.startswith("None") for name in twice))


SOME = st.lists(st.sampled_from(["ann-1", "ann-1", "bob-2", None]), min_size=1, max_size=8)
STEPS = st.one_of(
    st.tuples(st.just("insert"), SOME),
    st.tuples(st.just("insert"), SOME),
    st.tuples(st.just("delete"), st.integers(1, 5), st.integers(0, 4)),
    st.tuples(st.just("rebuild"), st.booleans()),
    st.tuples(st.just("poll"), st.integers(1, 9)),
    st.tuples(st.just("drain")),
    st.tuples(st.just("restart")),
)


@pytest.mark.proof(
    "a reader gets every record once, whatever happens to its file or table",
    "inserted and deleted rows, a rebuilt table and restarts of the reader, against a model",
    full="50, DuckDB 8",
    long="2,000, DuckDB 150",
)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stream", [BUZZ, READINGS], ids=lambda stream: stream.name)
@pytest.mark.parametrize("name", ["sqlite", "duckdb"])
def test_whatever_happens_to_a_table_it_is_read_once_and_whole(
    name: str, stream: Stream, long: bool, disk_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duckdb_source, "POLL_S", 0.0)
    normally, at_length = {"sqlite": (50, 2_000), "duckdb": (8, 150)}[name]

    @examples(
        max_examples=at_length if long else normally,
        deadline=None,
        database=None,
        derandomize=not long,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(STEPS, min_size=3, max_size=20))
    def run(steps: list[tuple[Any, ...]]) -> None:
        with TemporaryDirectory(dir=disk_folder) as folder:  # there a new file gets the inode of a deleted one
            model = Model(Kind(name, Path(folder)), stream)
            for step, *arguments in steps:
                getattr(model, step)(*arguments)
            model.check()
            model.source.close()

    run()
