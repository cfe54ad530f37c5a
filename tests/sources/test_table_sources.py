"""The SQL sources: what each reads, and a model of tables that others change under the reader."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.helpers import make_batch, start_python, wait_until
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import duck
from utils.emitters.duckdb_emitter import DuckdbEmitter
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.reading.tracker import Tally
from utils.records.table import COLUMNS
from utils.sources import duckdb_source, sqlite_source
from utils.sources.base import Chunk, Resume
from utils.sources.duckdb_source import DuckdbSource
from utils.sources.sqlite_source import SqliteSource
from utils.sources.table_source import TableSource


@contextmanager
def sqlite_database(path: Path) -> Iterator[Any]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


@contextmanager
def duckdb_database(path: Path) -> Iterator[Any]:
    with duck.connect(path) as connection:
        yield connection


KINDS: dict[str, tuple[type[TableSource], Callable[[Path], Any], Callable[[Path], Any]]] = {
    "sqlite": (SqliteSource, SqliteEmitter, sqlite_database),
    "duckdb": (DuckdbSource, DuckdbEmitter, duckdb_database),
}


class Kind:
    """One SQL sink: how to write it, how to read it, how to get at it by hand."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.source_class, self.emitter_class, self.database = KINDS[name]
        self.path = folder / f"buzz.{name}"

    def emit(self, amount: int, first: int = 1, producer_id: str = "ann-1") -> None:
        emitter = self.emitter_class(self.path)
        emitter.emit(make_batch(amount, producer_id=producer_id, first=first))
        emitter.close()

    def source(self, resume: Resume = lambda partition: "") -> TableSource:
        return self.source_class(self.path, resume)

    def execute(self, *statements: str) -> None:
        with self.database(self.path) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setattr(duckdb_source, "POLL_S", 0.0)
    return Kind(request.param, tmp_path)


def drain(source: TableSource, max_records: int = 1_000) -> list[Chunk]:
    chunks = []
    while (chunk := source.poll(max_records)) is not None:
        chunks.append(chunk)
    return chunks


def sequences(chunks: list[Chunk]) -> list[int | None]:
    return [message.sequence for chunk in chunks for message in chunk.records]


class TestReading:
    def test_messages_come_back_as_they_were_sent_in_order(self, kind: Kind) -> None:
        kind.emit(5)
        chunks = drain(kind.source(), max_records=2)
        assert [message for chunk in chunks for message in chunk.records] == make_batch(5).messages
        assert [len(chunk.records) for chunk in chunks] == [2, 2, 1]
        assert [chunk.end for chunk in chunks[:-1]] == [chunk.start for chunk in chunks[1:]]
        assert {chunk.partition for chunk in chunks} == {kind.path.name}

    def test_new_rows_are_followed_and_resumed(self, kind: Kind) -> None:
        kind.emit(3)
        source = kind.source()
        assert sequences(drain(source)) == [1, 2, 3]
        kind.emit(1, first=4)
        chunks = drain(source)
        assert sequences(chunks) == [4]
        kind.emit(1, first=5)
        assert sequences(drain(kind.source(lambda partition: chunks[-1].end))) == [5]

    def test_from_the_end_only_what_comes(self, kind: Kind) -> None:
        kind.emit(3)
        source = kind.source(lambda partition: "end")
        chunks = drain(source)
        assert (sequences(chunks), chunks[0].start) == ([], "end")
        kind.emit(1, first=4)
        assert sequences(drain(source)) == [4]

    def test_from_the_end_of_what_does_not_exist_yet(self, kind: Kind) -> None:
        source = kind.source(lambda partition: "end")
        moved = source.poll(1)
        assert (moved and moved.start, moved and moved.end) == ("end", "")
        with pytest.raises(Unavailable, match="does not exist yet"):
            source.poll(1)
        kind.emit(2)
        assert sequences(drain(source)) == [1, 2]

    @pytest.mark.parametrize(
        "position", ["rubbish", "99:1", "-5:3", "10:20:30", "1:", "²:1", f"{2**63}:1", f"{2**63 - 1}:1", "[3:0:5"]
    )
    def test_a_position_that_does_not_fit_begins_again_and_says_so(self, kind: Kind, position: str) -> None:
        kind.emit(2)
        chunks = drain(kind.source(lambda partition: position))
        assert (chunks[0].start, chunks[0].begins_again, sequences(chunks)) == (position, True, [1, 2])

    def test_a_replaced_database_begins_again(self, kind: Kind, tmp_path: Path) -> None:
        kind.emit(3)
        source = kind.source()
        drain(source)
        kind.path.unlink()
        kind.emit(4, producer_id="bob-2")
        chunks = drain(source)
        assert chunks[0].begins_again
        assert sequences(chunks) == [1, 2, 3, 4]

    def test_a_gap_of_deleted_rows_is_crossed(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(duckdb_source, "PAGE_ROWS", 2)
        kind.emit(20)
        kind.execute("DELETE FROM streamed_messages WHERE sequence BETWEEN 3 AND 15")
        assert sequences(drain(kind.source())) == [1, 2, 16, 17, 18, 19, 20]

    def test_large_messages_come_in_smaller_chunks(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(duckdb_source, "PAGE_BYTES", 1_000)
        monkeypatch.setattr(sqlite_source, "CHUNK_BYTES", 1_000)
        kind.emit(300)
        chunks = drain(kind.source())
        assert sequences(chunks) == list(range(1, 301))
        assert max(len(chunk.records) for chunk in chunks) < 150


class TestForeignTables:
    @pytest.mark.parametrize("identity", ["id INTEGER PRIMARY KEY, ", "id BIGINT, ", ""])
    @pytest.mark.parametrize("timestamp", ["TEXT", "TIMESTAMP"])
    def test_buzzline_tables(self, kind: Kind, identity: str, timestamp: str) -> None:
        kind.execute(
            f"CREATE TABLE streamed_messages ({identity}message TEXT, author TEXT, timestamp {timestamp}, "
            "category TEXT, sentiment REAL, keyword_mentioned TEXT, message_length INTEGER)",
            f"INSERT INTO streamed_messages ({'id, ' if identity else ''}message, author, timestamp, category, "
            f"sentiment, keyword_mentioned, message_length) VALUES ({'7, ' if identity else ''}"
            "'Just shared a meme!', 'Eve', '2025-01-29 14:35:20', 'humor', 0.5, 'meme', 19)",
        )
        ((message,),) = [chunk.records for chunk in drain(kind.source())]
        in_utc = kind.name == "duckdb" and timestamp == "TIMESTAMP"
        expected = "2025-01-29T14:35:20.000Z" if in_utc else "2025-01-29 14:35:20"
        assert (message.message, message.author, message.timestamp) == ("Just shared a meme!", "Eve", expected)
        assert (message.producer_id, message.sequence, message.message_length) == (None, None, 19)
        kind.emit(2)
        assert sequences(drain(kind.source())) == [None, 1, 2]

    def test_what_a_row_lacks_is_filled_and_what_is_wrong_is_counted(self, kind: Kind) -> None:
        kind.execute(
            "CREATE TABLE streamed_messages (message TEXT, sentiment REAL, message_length TEXT)",
            "INSERT INTO streamed_messages VALUES ('a', NULL, NULL), (NULL, 0.5, '1'), ('b', 7, '1'), "
            "('c', 0.5, 'x'), ('d', 0.25, '12')",
        )
        (chunk,) = drain(kind.source())
        found = [(message.message, message.author, message.message_length) for message in chunk.records]
        assert found == [("a", "Unknown", 1), ("d", "Unknown", 12)]
        assert [kind.path.name in invalid.where for invalid in chunk.invalid] == [True] * 3

    def test_an_empty_producer_id_is_none(self, kind: Kind) -> None:
        kind.emit(1)
        kind.execute("UPDATE streamed_messages SET producer_id = ''")
        assert sequences(drain(kind.source())) == [None]

    def test_numbers_of_32_bits_that_the_emitter_widens_are_the_same_rows(self, tmp_path: Path) -> None:
        kind = Kind("duckdb", tmp_path)
        kind.execute(
            "CREATE TABLE streamed_messages (message TEXT, sentiment FLOAT)",
            "INSERT INTO streamed_messages VALUES ('a', 0.3), ('b', 0.7), ('c', NULL)",
        )
        before = drain(kind.source())
        assert [message.sentiment for message in before[0].messages[:2]] == [0.3, 0.7]
        kind.emit(2)
        assert sequences(drain(kind.source(lambda partition: before[-1].end))) == [1, 2]

    def test_a_column_named_rowid_numbers_nothing(self, tmp_path: Path) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.execute(
            "CREATE TABLE streamed_messages (message TEXT, rowid TEXT)",
            "INSERT INTO streamed_messages VALUES ('a', 'z'), ('b', 'z')",
        )
        chunks = drain(kind.source(), max_records=1)
        assert [message.message for chunk in chunks for message in chunk.records] == ["a", "b"]

    def test_text_that_is_no_utf8_is_one_invalid_row(self, tmp_path: Path) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.emit(3)
        kind.execute("UPDATE streamed_messages SET message = CAST(x'61FF' AS TEXT) WHERE sequence = 2")
        (chunk,) = drain(kind.source())
        assert (sequences([chunk]), len(chunk.invalid)) == ([1, 3], 1)


class TestBadInput:
    def test_missing_file_is_never_created(self, kind: Kind) -> None:
        with pytest.raises(Unavailable, match="does not exist yet"):
            kind.source().poll(1)
        assert not kind.path.exists()

    def test_missing_table(self, kind: Kind) -> None:
        kind.execute("CREATE TABLE other (a INTEGER)")
        source = kind.source()
        with pytest.raises(Unavailable, match="no table streamed_messages yet"):
            source.poll(1)
        kind.emit(1)
        assert sequences(drain(source)) == [1]

    def test_a_table_without_messages(self, kind: Kind) -> None:
        kind.execute("CREATE TABLE streamed_messages (a INTEGER)")
        with pytest.raises(ToolkitError, match="without a column message") as raised:
            kind.source().poll(1)
        assert raised.value.exit_code == 2

    @pytest.mark.parametrize(
        ("name", "statement"),
        [
            ("sqlite", "CREATE VIEW streamed_messages AS SELECT * FROM other"),
            ("sqlite", "CREATE TABLE streamed_messages (message TEXT PRIMARY KEY) WITHOUT ROWID"),
            ("duckdb", "CREATE VIEW streamed_messages AS SELECT * FROM other"),
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

    @pytest.mark.skipif(os.name == "nt", reason="Windows tells a path through a file as one that is missing")
    def test_a_path_through_a_file(self, kind: Kind) -> None:
        kind.path.write_bytes(b"")
        with pytest.raises(Unavailable, match=r"does not exist yet|cannot be read: Not a directory"):
            type(kind.source())(kind.path / kind.path.name, lambda partition: "").poll(1)

    def test_not_a_database(self, kind: Kind) -> None:
        kind.path.write_bytes(b"this is no database " * 1_000)
        with pytest.raises(ToolkitError, match=kind.path.name) as raised:
            kind.source().poll(1)
        assert raised.value.exit_code == 2

    def test_a_folder(self, kind: Kind) -> None:
        kind.path.mkdir()
        with pytest.raises(ToolkitError, match=kind.path.name) as raised:
            kind.source().poll(1)
        assert raised.value.exit_code == 2

    def test_empty_sqlite_file_may_become_a_database(self, tmp_path: Path) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.path.write_bytes(b"")
        with pytest.raises(Unavailable, match="no table"):
            kind.source().poll(1)

    def test_closing_twice(self, kind: Kind) -> None:
        kind.emit(1)
        source = kind.source()
        source.poll(1)
        source.close()
        source.close()


class TestLocks:
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

    def test_a_duckdb_file_is_not_held_between_polls(self, tmp_path: Path) -> None:
        kind = Kind("duckdb", tmp_path)
        kind.emit(2)
        source = kind.source()
        source.poll(1)
        kind.emit(1, first=3)  # would be refused while this process has the file open
        source.close()

    def test_an_unchanged_duckdb_file_is_not_opened(self, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        if kind.name != "duckdb":
            pytest.skip("a SQLite file is cheap to open")
        kind.emit(2)
        source = kind.source()
        drain(source)

        def refuse(self: DuckdbSource) -> None:
            raise AssertionError("opened")

        monkeypatch.setattr(DuckdbSource, "_attached", refuse)
        assert source.poll(1) is None
        kind.emit(1, first=3)
        with pytest.raises(AssertionError, match="opened"):
            source.poll(1)

    def test_polls_of_a_duckdb_file_are_apart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(duckdb_source, "POLL_S", 1.0)
        kind = Kind("duckdb", tmp_path)
        kind.emit(1)
        source = kind.source()
        assert sequences([chunk] if (chunk := source.poll(1)) else []) == [1]
        looked_s = time.monotonic()
        kind.emit(1, first=2)
        assert source.poll(1) is None  # said without a look, until the next one is due
        wait_until(lambda: source.poll(1) is not None)
        assert time.monotonic() - looked_s > 0.9

    def test_a_sqlite_writer_does_not_hold_up_the_reader(self, tmp_path: Path) -> None:
        kind = Kind("sqlite", tmp_path)
        kind.emit(1)
        with closing(sqlite3.connect(kind.path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert sequences(drain(kind.source())) == [1]
            writer.execute("ROLLBACK")


# A model: rows come, go and are rebuilt; what has ids is read once, what has none at least once.


class Model:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.next = {"ann-1": 1, "bob-2": 1}
        self.made = 0
        self.there: set[str] = set()
        self.must: set[str] = set()
        self.may: set[str] = set()
        self.got: list[str] = []
        self.began_again = False
        self.position = ""
        self.tally = Tally()
        kind.execute(
            "CREATE TABLE streamed_messages (message TEXT, author TEXT, timestamp TEXT, category TEXT, sentiment REAL, "
            "keyword_mentioned TEXT, message_length INTEGER, producer_id TEXT, sequence BIGINT)"
        )
        self.source = self.opened()

    def opened(self) -> TableSource:
        return self.kind.source(lambda partition: self.position)

    def insert(self, producers: list[str | None]) -> None:
        rows = []
        for producer_id in producers:
            self.made += 1
            name = f"{producer_id} {self.made}"
            sequence = "NULL"
            if producer_id is not None:
                sequence = str(self.next[producer_id])
                self.next[producer_id] += 1
            quoted = "NULL" if producer_id is None else f"'{producer_id}'"
            rows.append(f"('{name}', 'a', '', 'c', 0.5, 'k', 3, {quoted}, {sequence})")
            self.there.add(name)
            self.must.add(name)
        self.kind.execute(f"INSERT INTO streamed_messages ({', '.join(COLUMNS)}) VALUES {', '.join(rows)}")

    def delete(self, every: int, offset: int) -> None:
        doomed = {name for name in self.there if int(name.split()[1]) % every == offset % every}
        unread = doomed - set(self.got)
        self.may |= unread
        self.must -= unread
        self.there -= doomed
        names = ", ".join(f"'{name}'" for name in doomed) or "''"
        self.kind.execute(f"DELETE FROM streamed_messages WHERE message IN ({names})")

    def rebuild(self, drop_file: bool) -> None:
        """The same rows in a new table, in a new file or the old one."""
        if drop_file:
            copy = self.kind.path.with_suffix(".copy")
            shutil.copy(self.kind.path, copy)
            self.kind.path.unlink()
            copy.rename(self.kind.path)
        self.kind.execute(
            "CREATE TABLE rebuilt AS SELECT * FROM streamed_messages ORDER BY rowid",
            "DROP TABLE streamed_messages",
            "ALTER TABLE rebuilt RENAME TO streamed_messages",
        )

    def poll(self, max_records: int) -> bool:
        chunk = self.source.poll(max_records)
        if chunk is None:
            return False
        assert chunk.start == self.position
        assert len(chunk.records) <= max_records
        self.began_again |= chunk.begins_again
        self.got += [message.message for message in self.tally.admit(chunk)]
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
        assert self.tally.duplicate == 0


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


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "normally", "at_length"), [("sqlite", 150, 4_000), ("duckdb", 15, 300)])
def test_whatever_happens_to_a_table_it_is_read_once_and_whole(
    name: str, normally: int, at_length: int, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duckdb_source, "POLL_S", 0.0)

    @examples(
        max_examples=at_length if long else normally,
        deadline=None,
        database=None,
        derandomize=not long,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(STEPS, min_size=3, max_size=20))
    def run(steps: list[tuple[Any, ...]]) -> None:
        with TemporaryDirectory() as folder:
            model = Model(Kind(name, Path(folder)))
            for step, *arguments in steps:
                getattr(model, step)(*arguments)
            model.check()
            model.source.close()

    run()
