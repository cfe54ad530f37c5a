"""Specific to the DuckDB sink: windows, types of old columns, unusual paths, the order of syncs."""

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from loguru import logger

from tests.helpers import make_batch
from utils.app.errors import Rejected, ToolkitError, Unavailable
from utils.clients import duck, files
from utils.emitters import duckdb_emitter
from utils.emitters.base import ROW_GROUP_RECORDS
from utils.emitters.duckdb_emitter import DuckdbEmitter, emit_message
from utils.records.codec import Field
from utils.records.instants import microseconds
from utils.records.record import Batch, Columns, Line
from utils.records.stream import BUZZ, Stream

TYPES = ("text", "integer", "number", "boolean", "timestamp", "json")
WHEN = Field("timestamp", "timestamp")
READINGS = Stream("readings", fields=(*(Field(f"a {name}", name) for name in TYPES), WHEN))
TIMESTAMP = "2026-11-23T19:04:05.123Z"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buzz.duckdb"


def prepare(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as database:
        for statement in statements:
            database.execute(statement)


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as database:
        return database.execute(sql).fetchall()


def stored(path: Path, table: str = "streamed_messages") -> list[tuple[str, int]]:
    return query(path, f'SELECT producer_id, sequence FROM "{table}" WHERE producer_id IS NOT NULL ORDER BY rowid')


def ids(last: int, first: int = 1, producer_id: str = "ann-1") -> list[tuple[str, int]]:
    return [(producer_id, sequence) for sequence in range(first, last + 1)]


def lines(*records: str, stream: Stream = READINGS, first: int = 1) -> Batch:
    return Batch.of_lines([Line(each.encode(), TIMESTAMP) for each in records], "ann-1", first, stream.codec)


def counted(emitter: DuckdbEmitter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of rows per window from now on."""
    windows: list[int] = []
    insert = emitter._insert

    def noted(page: Columns) -> None:
        windows.append(len(page[0]))
        insert(page)

    monkeypatch.setattr(emitter, "_insert", noted)
    return windows


class TestValues:
    def test_each_type_has_its_column_and_other_values_are_in_extra(self, path: Path) -> None:
        with closing(DuckdbEmitter(path, READINGS)) as emitter:
            emitter.emit(
                lines(
                    '{"a text":"é\\u0000\U0001f600","a integer":-9223372036854775808,"a number":0.1,"a boolean":false,'
                    '"a timestamp":"2026-01-01T00:00:00.123456+05:30","a json":{"b":[1, 1e999]}}',
                    '{"a text":7,"a integer":1.5,"a number":"n/a","a boolean":1,"a timestamp":"soon","more":[]}',
                    "{}",
                    '{"a text":"","a integer":9223372036854775807,"a number":-1e300,"a boolean":true,'
                    '"a timestamp":"0001-01-02T00:00:00Z","a json":"text"}',
                )
            )
        columns = '"a text", "a integer", "a number", "a boolean", "a timestamp"::VARCHAR, "a json", extra, sequence'
        rows = query(path, f"SELECT {columns} FROM readings ORDER BY rowid")
        assert rows[0] == (
            "é\0\U0001f600", -(2**63), 0.1, False, "2025-12-31 18:30:00.123456", '{"b":[1, 1e999]}', None, 1,
        )  # fmt: skip
        assert rows[1][:6] == rows[2][:6] == (None,) * 6
        assert json.loads(rows[1][6]) == {
            "a text": 7, "a integer": 1.5, "a number": "n/a", "a boolean": 1, "a timestamp": "soon", "more": []
        }  # fmt: skip
        assert rows[2][6:] == (None, 3)
        assert rows[3] == ("", 2**63 - 1, -1e300, True, "0001-01-02 00:00:00", '"text"', None, 4)
        assert query(path, 'SELECT round(avg("a number") / 1e299) FROM readings') == [(-5.0,)]

    def test_one_text_among_many_absent_ones(self, path: Path) -> None:
        batch = lines(*["{}"] * 3_000, '{"a text":"5","more":1}', *["{}"] * 3_000)
        with closing(DuckdbEmitter(path, READINGS)) as emitter:
            emitter.emit(batch)
        found = query(path, 'SELECT "a text", extra, sequence FROM readings WHERE "a text" IS NOT NULL')
        assert found == [("5", '{"more":1}', 3_001)]

    @pytest.mark.parametrize(
        "odd", [None, "2026-11-23T19:04:05.123Z", "2026-11-23T19:04:05+05:30", "0001-01-02T00:00:00.000Z"]
    )
    def test_an_instant_is_the_one_of_its_text(self, odd: str | None, path: Path) -> None:
        texts = [f"{year:04}-02-28T23:59:59.{year % 1000:03}Z" for year in range(2, 9999, 97)] + [odd] * bool(odd)
        with closing(DuckdbEmitter(path, READINGS)) as emitter:
            emitter.emit(lines(*(f'{{"a timestamp":"{text}"}}' for text in texts)))
        found = query(path, 'SELECT epoch_us("a timestamp") FROM readings ORDER BY rowid')
        assert [instant for (instant,) in found] == list(map(microseconds, texts))


class TestRejected:
    @pytest.mark.full
    @pytest.mark.parametrize(
        ("table", "sequence"),
        [
            ("message TEXT CHECK (message <> 'hello 1711'), author TEXT", 1711),
            ("message TEXT, author TEXT, room INTEGER NOT NULL", 1),
            ("message TEXT, author TEXT UNIQUE", 2),
        ],
    )
    def test_the_row_is_named_and_all_before_it_are_stored(
        self, table: str, sequence: int, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(duckdb_emitter, "PAUSE_S", 0.0)
        prepare(path, f"CREATE TABLE streamed_messages ({table})")
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            with pytest.raises(Rejected) as rejected:
                emitter.emit(make_batch(3_000))
            assert rejected.value.sequence == sequence
            assert rejected.value.reason.count("\n") == 0
        assert stored(path) == ids(sequence - 1)

    def test_a_number_that_an_old_column_is_too_narrow_for(self, path: Path) -> None:
        prepare(path, "CREATE TABLE streamed_messages (message_length UTINYINT)")
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            with pytest.raises(Rejected) as rejected:
                emitter.emit(make_batch(12, text="x" * 253))
            assert rejected.value.sequence == 10, "the first of 256 characters"
        assert stored(path) == ids(9)

    @pytest.mark.full
    def test_a_table_that_rejects_all_costs_few_windows_a_row(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(duckdb_emitter, "PAUSE_S", 0.0)
        prepare(path, "CREATE TABLE streamed_messages (message TEXT, room INTEGER NOT NULL)")
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            windows = counted(emitter, monkeypatch)
            with pytest.raises(Rejected):
                emitter.emit(make_batch(4_096))
        assert len(windows) == 1 + 12


class TestOldTables:
    def test_external_columns_are_left_alone(self, path: Path) -> None:
        prepare(path, 'CREATE TABLE Streamed_Messages (Message VARCHAR, Sentiment FLOAT, "my score" FLOAT)')
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            emitter.emit(make_batch(1))
        types = dict(query(path, "SELECT column_name, data_type FROM duckdb_columns()"))
        assert (types["Sentiment"], types["my score"]) == ("DOUBLE", "FLOAT")
        assert stored(path) == ids(1)

    @pytest.mark.parametrize(
        ("statement", "words"),
        [
            ("CREATE VIEW readings AS SELECT 'a' AS message", "readings cannot be used, name another file"),
            ('CREATE TABLE readings ("A Integer" VARCHAR)', "column a integer of table readings is VARCHAR"),
            ('CREATE TABLE readings ("a timestamp" TIMESTAMPTZ)', "column a timestamp of table readings is TIMESTAMP"),
            (
                'CREATE TABLE readings ("a number" FLOAT); CREATE INDEX mine ON readings ("a number")',
                "readings cannot be used, name another file",
            ),
        ],
    )
    def test_a_table_that_can_never_serve_is_no_outage(self, statement: str, words: str, path: Path) -> None:
        prepare(path, statement)
        with pytest.raises(ToolkitError, match=words) as error:
            DuckdbEmitter(path, READINGS)
        assert error.value.exit_code == 2
        assert str(error.value).count("\n") == 0


class TestPaths:
    @pytest.mark.parametrize(
        "name", ["a[1].duckdb", "b*.duckdb", "it's.duckdb", ":memory:", "sqlite:x", "Could not set lock"]
    )
    def test_a_name_is_a_name(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if os.name == "nt" and set(name) & set("*:"):
            pytest.skip("Windows allows no such file name")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a1.duckdb").write_text("another file")
        for first in (1, 2):
            with closing(DuckdbEmitter(Path(name), BUZZ)) as emitter:
                emitter.emit(make_batch(1, first=first))
        assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["a1.duckdb", name])
        assert query(tmp_path / name, "SELECT count(*) FROM streamed_messages") == [(2,)]

    @pytest.mark.skipif(os.name == "nt", reason="Windows allows no ? in a name, and a \\ there is a /")
    @pytest.mark.parametrize("name", ["what?/x.duckdb", "what?.duckdb", "a\\b/x.duckdb", "a\\b.duckdb"])
    def test_a_name_that_duckdb_would_change_is_named(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ToolkitError, match=r"a path with a \? in it|each \\ in a path") as error:
            DuckdbEmitter(tmp_path / name, BUZZ)
        assert error.value.exit_code == 2

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems allow only Unicode names")
    def test_a_folder_whose_name_is_not_utf8_is_one_line(self, tmp_path: Path) -> None:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
        with pytest.raises(ToolkitError, match="UTF-8") as error:
            DuckdbEmitter(folder / "x.duckdb", BUZZ)
        assert error.value.exit_code == 2
        str(error.value).encode()


class TestFile:
    @pytest.mark.full
    @pytest.mark.parametrize("kept_bytes", [None, 0, 8192])
    def test_new_files_are_of_the_version_that_all_tools_read(self, kept_bytes: int | None, path: Path) -> None:
        """New files have the oldest storage version, also if an empty or incomplete file was there."""
        if kept_bytes is not None:
            prepare(path)
            path.write_bytes(path.read_bytes()[:kept_bytes])
            with pytest.raises(Unavailable, match="being created"), duckdb.connect() as memory:
                duck._attach(memory, path, read_only=True, wait_s=0.0)
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            emitter.emit(make_batch(1))
        assert stored(path) == ids(1)
        assert int.from_bytes(path.read_bytes()[12:20], "little") == 64, "DuckDB 1.x reads 64"

    @pytest.mark.parametrize("hole", [0, 4096, 8192])
    def test_a_file_with_incomplete_headers_is_made_again(self, hole: int, path: Path) -> None:
        """DuckDB syncs the headers before it writes anything else, so that nothing is lost."""
        prepare(path)
        headers = bytearray(path.read_bytes()[: 3 * 4096])
        headers[hole : hole + 4096] = bytes(4096)
        path.write_bytes(headers)
        with duckdb.connect() as memory, duck.attached(memory, path, wait_s=0):
            assert not duck.columns(memory, "streamed_messages")

    def test_a_log_whose_file_was_moved_away_is_no_outage(self, path: Path) -> None:
        path.with_name(f"{path.name}.wal").write_bytes(b"log" * 100)
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            emitter.emit(make_batch(1))
        assert stored(path) == ids(1)

    def test_an_empty_file_that_another_process_has_locked_stays(self, path: Path) -> None:
        path.touch()
        with locked(path):
            with pytest.raises(Unavailable, match="lock"), duckdb.connect() as memory:
                duck._attach(memory, path, read_only=False, wait_s=0.0)
            assert path.exists()

    def test_a_database_that_lost_a_header_stays_as_it_is(self, path: Path) -> None:
        DuckdbEmitter(path, BUZZ).close()
        content = bytes(4096) + path.read_bytes()[4096:]
        path.write_bytes(content)
        with (
            pytest.raises(ToolkitError, match="not a valid DuckDB database"),
            duckdb.connect() as memory,
            duck.attached(memory, path, wait_s=0),
        ):
            pass
        assert path.read_bytes() == content

    def test_files_of_a_newer_version_keep_it(self, path: Path) -> None:
        prepare(path, f"ATTACH '{path.with_name('new')}' AS new (TYPE duckdb, STORAGE_VERSION 'latest')")
        version = path.with_name("new").read_bytes()[12:20]
        with closing(DuckdbEmitter(path.with_name("new"), BUZZ)) as emitter:
            emitter.emit(make_batch(1))
        assert path.with_name("new").read_bytes()[12:20] == version

    def test_rows_that_were_moved_elsewhere_do_not_come_again(self, path: Path) -> None:
        """Rows that were moved elsewhere stay away, although the journal still has them for another sink."""
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            emitter.emit(make_batch(5))
            with duckdb.connect(str(path)) as other:
                other.execute("CREATE TABLE history AS FROM streamed_messages; DELETE FROM streamed_messages")
            emitter.emit(make_batch(1, first=6))
        assert stored(path) == ids(6)[5:]

    def test_changes_of_a_killed_process_are_synced_before_the_first_window(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        DuckdbEmitter(path, BUZZ).close()
        events: list[str] = []
        attached = duck.attached

        def noted(*arguments: Any, **options: Any) -> Any:
            events.append("window")
            return attached(*arguments, **options)

        monkeypatch.setattr(files, "sync_path", lambda each: events.append(each.name))
        monkeypatch.setattr(duck, "attached", noted)
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            emitter.last(["ann-1"])
            emitter.emit(make_batch(1))
        folder = path.parent.name
        assert events == [f"{path.name}.wal", path.name, folder, "window", folder, "window", "window"]

    @pytest.mark.skipif(sys.platform != "linux", reason="counts how often a file is opened, with inotify")
    @pytest.mark.parametrize("read_only", [True, False])
    def test_nothing_is_read_before_the_file_is_locked(self, read_only: bool, path: Path) -> None:
        """Rows were lost when another process wrote between a read and the lock."""
        emitter = DuckdbEmitter(path, BUZZ)
        emitter.emit(make_batch(10))
        libc = ctypes.CDLL(None, use_errno=True)
        watch = libc.inotify_init1(os.O_NONBLOCK)
        opened, closed = 0x20, 0x08 | 0x10
        try:
            assert libc.inotify_add_watch(watch, os.fsencode(path), opened | closed) > 0
            if read_only:
                with duckdb.connect() as memory, duck.attached(memory, path, read_only=True):
                    pass
            else:
                emitter.emit(make_batch(10, first=11))
            events = os.read(watch, 4096)
        finally:
            os.close(watch)
            emitter.close()
        assert len(events) == 2 * struct.calcsize("iIII"), "opened once and closed once"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let another process hold the lock that DuckDB uses."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        yield
        holder.communicate(b"\n")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with much metadata, whose log has a record of a killed writer."""
    path = tmp_path_factory.mktemp("template") / "sink.duckdb"
    with closing(DuckdbEmitter(path, BUZZ)) as emitter:
        emitter.emit(make_batch(10))
    columns = ", ".join(f"i + {number} AS c{number}" for number in range(60))
    with duckdb.connect() as memory:
        memory.execute(f"ATTACH '{path}' AS sink (TYPE duckdb, ROW_GROUP_SIZE 2048)")
        memory.execute(f"""CREATE TABLE sink."a "" table" AS SELECT {columns} FROM range(200_000) numbers(i)""")
    with duckdb.connect() as memory:
        memory.execute(f"ATTACH '{path}' AS sink (TYPE duckdb)")
        memory.execute("PRAGMA disable_checkpoint_on_shutdown")
        memory.execute(
            "INSERT INTO sink.streamed_messages (producer_id, sequence, message) VALUES ('ann-1', 11, repeat('x', 60))"
        )
    assert path.with_name(f"{path.name}.wal").stat().st_size
    return path


@pytest.mark.full
class TestTornBlocks:
    """Blocks of metadata whose write a kill or a power cut interrupted, so that their checksum is wrong."""

    @pytest.fixture
    def killed(self, template: Path, path: Path) -> Path:
        for suffix in ("", ".wal"):
            shutil.copy(f"{template}{suffix}", f"{path}{suffix}")
        return path

    def assert_not_opened(self, path: Path, reason: str, *, read_only: bool = False) -> None:
        with (
            pytest.raises(Unavailable, match=reason),
            duckdb.connect() as memory,
            duck.attached(memory, path, read_only=read_only, wait_s=0),
        ):
            pass

    def tear(self, path: Path) -> list[int]:
        """Break the checksum of each block of metadata; return their places."""
        with duckdb.connect(str(path), read_only=True) as database:
            blocks = database.execute("SELECT block_id FROM pragma_metadata_info()").fetchall()
        places = [3 * 4096 + block * (256 << 10) for (block,) in blocks]
        with path.open("r+b") as file:
            for place in places:
                file.seek(place)
                file.write(b"of other")
        return places

    def test_are_repaired_where_a_writer_was_killed(self, killed: Path) -> None:
        assert len(self.tear(killed)) > 2, "attaching reads two blocks"
        with closing(DuckdbEmitter(killed, BUZZ)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 11)
            emitter.emit(make_batch(1, first=12))
        assert stored(killed) == ids(12)
        assert query(killed, 'SELECT COUNT(*), SUM(c59) FROM "a "" table"') == [(200_000, sum(range(59, 200_059)))]

    def test_without_a_log_are_damage_that_stays(self, killed: Path) -> None:
        DuckdbEmitter(killed, BUZZ).close()
        self.tear(killed)
        torn = killed.read_bytes()
        self.assert_not_opened(killed, r"does not match stored checksum \d+ in block at location \d+$")
        assert killed.read_bytes() == torn

    def test_a_repair_by_another_process_stays(self, killed: Path) -> None:
        """Such a block has another checksum, or that of the error message, but its content has changed with it."""

        def assert_stays(stored_checksum: int | None = None) -> None:
            whole = killed.read_bytes()
            stored_checksum = stored_checksum or int.from_bytes(whole[place : place + 8], "little")
            error = f"computed checksum 1 does not match stored checksum {stored_checksum} in block at location {place}"
            assert not duck._repaired(killed, error)
            assert killed.read_bytes() == whole

        place = self.tear(killed)[0]
        assert_stays(5)
        with locked(killed), pytest.raises(Unavailable):
            assert_stays()
        DuckdbEmitter(killed, BUZZ).close()
        assert_stays()

    @pytest.mark.parametrize("in_text", [True, False])
    def test_a_log_with_a_hole_ends_before_it(self, in_text: bool, killed: Path) -> None:
        """The log is cut before zeros of a power cut: they are in the last, unsynced commit, never believed stored."""
        log = killed.with_name(f"{killed.name}.wal")
        whole = log.read_bytes()
        log.write_bytes(whole.replace(b"x" * 60, bytes(60)) if in_text else whole[:-60] + bytes(60))
        self.assert_not_opened(killed, "the next producer repairs it", read_only=True)
        with closing(DuckdbEmitter(killed, BUZZ)) as emitter:
            assert emitter.last(["ann-1"]) == ("ann-1", 10)
            emitter.emit(make_batch(1, first=11))
        assert stored(killed) == ids(11)

    def test_a_log_with_other_content_is_damage_that_stays(self, killed: Path) -> None:
        log = killed.with_name(f"{killed.name}.wal")
        damaged = log.read_bytes()[:-60] + b"x" * 60
        log.write_bytes(damaged)
        self.assert_not_opened(killed, "entry at byte position")
        assert log.read_bytes() == damaged

    def test_a_header_is_damage_that_stays(self, killed: Path) -> None:
        with killed.open("r+b") as file:
            file.seek(4096)
            file.write(b"of other")
        self.assert_not_opened(killed, "in block at location 4096$")

    def test_readers_leave_them_to_the_producer(self, killed: Path) -> None:
        self.tear(killed)
        torn = killed.read_bytes()
        self.assert_not_opened(killed, "the next producer repairs it", read_only=True)
        assert killed.read_bytes() == torn


class TestWindows:
    def test_long_batches_fill_row_groups(self) -> None:
        """Windows fill whole row groups: closing the file would merge smaller ones, at nearly twice the work."""
        assert ROW_GROUP_RECORDS % duck._ROW_GROUP_SIZE == 0

    def test_readers_get_a_pause(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []
        with closing(DuckdbEmitter(path, BUZZ)) as emitter:
            emitter.last([])
            monkeypatch.setattr("utils.emitters.duckdb_emitter.time.sleep", pauses.append)
            monkeypatch.setattr(duckdb_emitter, "PAUSE_S", 1000.0)
            emitter.emit(make_batch(10))
            emitter.emit(make_batch(10, first=11))
        assert len(pauses) == 2
        assert min(pauses) > 900

    def test_a_connection_of_this_process_is_waited_for(self, path: Path) -> None:
        DuckdbEmitter(path, BUZZ).close()
        with duckdb.connect() as memory, duckdb.connect() as other:
            duck._attach(memory, path, read_only=False, wait_s=0.0)
            with pytest.raises(Unavailable, match="already attached"):
                duck._attach(other, path, read_only=False, wait_s=0.0)


def test_emit_message_keeps_all_fields_and_returns_whether_it_is_stored(path: Path) -> None:
    logged: list[str] = []
    number = logger.add(logged.append, format="{level}")
    assert emit_message({"message": "one", "timestamp": "2025-01-02T03:04:05Z", "sequence": 1, "room": 5}, db_path=path)
    assert emit_message({"author": "Zoe", "timestamp": "yesterday"}, db_path=str(path))
    assert not emit_message({"message": float("nan")}, db_path=path)
    assert not emit_message("text", db_path=path)  # type: ignore[arg-type]  # as a notebook may
    assert not emit_message({"message": "three"}, db_path=path.parent)
    columns = "message, author, timestamp::VARCHAR, extra, producer_id, sequence"
    assert query(path, f"SELECT {columns} FROM streamed_messages ORDER BY rowid") == [
        ("one", None, "2025-01-02 03:04:05", '{"room":5}', None, None),
        (None, "Zoe", None, '{"timestamp":"yesterday"}', None, None),
    ]
    logger.remove(number)
    assert list(map(str.strip, logged)) == ["ERROR"] * 3
