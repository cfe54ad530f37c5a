"""Damaged or unexpected databases, journals, recordings and positions: one line, or read all the same."""

import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from consumers import duckdb_consumer_case, file_consumer_case, sqlite_consumer_case
from producers import ragini_producer
from tests.helpers import make_batch, make_messages
from utils.app import cli
from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.delivery.journal import Journal
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.feeds.lines import LineCodec
from utils.feeds.rows import RowSource, array_pages
from utils.reading.database import SqliteDatabase
from utils.reading.store import ProcessedStore
from utils.records.record import Batch
from utils.records.stream import BUZZ
from utils.sinks import EMBEDDED, SINKS, source

pytestmark = pytest.mark.full

CONSUMERS = {"file": file_consumer_case, "sqlite": sqlite_consumer_case, "duckdb": duckdb_consumer_case}
NOISE = b"this is no database, though it is long enough to be looked at as one. " * 400
Make = Callable[[Path], object]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Change to a folder with an empty .env, and make the data folder."""
    (tmp_path / ".env").touch()
    monkeypatch.chdir(tmp_path)
    settings.data_path.mkdir()
    monkeypatch.setattr("utils.sources.duckdb_source.POLL_S", 0.0)


def produce(*arguments: str) -> int:
    line = ["--count", "3", "--interval", "0", "--log-level", "WARNING", *arguments]
    return cli.run(ragini_producer.main, name="producers.ragini_producer", arguments=line)


def consume(sink: str, *arguments: str) -> int:
    line = ["--once", "--log-level", "ERROR", *arguments]
    return cli.run(CONSUMERS[sink].main, name=f"consumers.{sink}_consumer_case", arguments=line)


def sink_path(sink: str, settings: Settings) -> Path:
    path = SINKS[sink].path(settings, BUZZ)
    assert path is not None
    return path


def sql(*statements: str) -> Make:
    """Return a function that makes a database, SQLite or DuckDB by its suffix."""

    def make(path: Path) -> None:
        if path.suffix == ".duckdb":
            with duckdb.connect(str(path)) as database:
                for statement in statements:
                    database.execute(statement)
            return
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return make


def cut(path: Path) -> None:
    """Cut a database in half."""
    sql("CREATE TABLE streamed_messages AS SELECT 'x' AS message", "CREATE TABLE more AS SELECT 1 AS a")(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def duckdb_as(path: Path) -> None:
    other = path.with_suffix(".duckdb.tmp")
    duckdb.connect(str(other)).close()
    shutil.move(other, path)


def sqlite_as(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE a (b)")


def journal_with(path: Path) -> None:
    with closing(Journal(path, BUZZ)) as journal:
        journal.append(Batch.of_records(make_messages(200), journal.producer_id, 1, BUZZ.codec))


def newer(path: Path) -> None:
    ProcessedStore(SqliteDatabase(path), BUZZ).close()
    sql("UPDATE facts SET value = '99' WHERE name = 'version'")(path)


def held_by_another(path: Path) -> object:
    return Journal(path, BUZZ)


def cut_journal(path: Path) -> None:
    journal_with(path)
    os.truncate(path, 5_000)


def file_instead(folder: Path) -> None:
    folder.rmdir()
    folder.touch()


# What is in the sink's place: exit codes of a producer and of a consumer (--once), words of the consumer's line.
INSTEAD: list[tuple[str, str, Make, int, int, str]] = [
    ("noise", "sqlite", lambda path: path.write_bytes(NOISE), 2, 2, "is not a SQLite database; move it away"),
    ("noise", "duckdb", lambda path: path.write_bytes(NOISE), 2, 2, "not a valid DuckDB database file!); move it away"),
    ("text", "sqlite", lambda path: path.write_text("hi\n" * 50), 2, 2, "is not a SQLite database; move it away"),
    ("text", "duckdb", lambda path: path.write_text("hi\n" * 50), 2, 2, "not a valid DuckDB database file!); move it"),
    ("folder", "file", lambda path: path.mkdir(), 3, 2, "is not a file; give the path of a JSON lines file"),
    ("folder", "sqlite", lambda path: path.mkdir(), 3, 2, "is a folder; give the path of a SQLite database"),
    ("folder", "duckdb", lambda path: path.mkdir(), 2, 2, "Is a directory); move it away or name another file"),
    ("DuckDB", "sqlite", duckdb_as, 2, 2, "is not a SQLite database; move it away"),
    ("SQLite", "duckdb", sqlite_as, 2, 2, "cannot be opened as a DuckDB database"),
    ("half", "duckdb", cut, 3, 3, "Could not read enough bytes"),
    ("no table", "sqlite", sql("CREATE TABLE other (a)"), 0, 3, "has no table streamed_messages yet"),
    ("no table", "duckdb", sql("CREATE TABLE other (a INTEGER)"), 0, 3, "has no table streamed_messages yet"),
    ("no message", "sqlite", sql("CREATE TABLE streamed_messages (a TEXT)"), 0, 0, ""),
    ("no message", "duckdb", sql("CREATE TABLE streamed_messages (a TEXT)"), 0, 0, ""),
    ("nothing", "file", lambda path: None, 0, 3, "does not exist yet"),
    ("nothing", "sqlite", lambda path: None, 0, 3, "does not exist yet"),
    ("nothing", "duckdb", lambda path: None, 0, 3, "does not exist yet"),
    ("empty", "file", lambda path: path.touch(), 0, 0, ""),
    ("empty", "sqlite", lambda path: path.touch(), 0, 3, "has no table streamed_messages yet"),
    ("empty", "duckdb", lambda path: path.touch(), 0, 3, "is perhaps being created"),
    ("noise", "file", lambda path: path.write_bytes(NOISE), 2, 0, ""),
    ("a database", "file", lambda path: SqliteEmitter(path, BUZZ).close(), 2, 0, ""),
    ("notes", "file", lambda path: path.write_text("milk\neggs"), 2, 0, ""),
    ("zeros", "file", lambda path: path.write_bytes(bytes(5_000)), 0, 0, ""),
    ("blank lines", "file", lambda path: path.write_bytes(b"\n\n \r\n"), 0, 0, ""),
]


@pytest.mark.parametrize(("kind", "sink", "make", "producer", "consumer", "words"), INSTEAD)
def test_something_else_where_a_sink_should_be(  # noqa: PLR0917
    kind: str,
    sink: str,
    make: Make,
    producer: int,
    consumer: int,
    words: str,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(sink_path(sink, settings))
    assert consume(sink) == consumer
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == (1 if words else 0)
    assert produce("--sinks", sink, "--drain", "0.1") == producer
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert shown.count("\n") <= 1
    if producer:
        assert str(sink_path(sink, settings)) in shown


# External rows: (message, sentiment, message_length, producer_id, sequence), and the text that is kept in `extra`, or
# None if the row is no message.
ROWS: list[tuple[tuple[object, ...], str | None]] = [
    (("hi", 0.5, 2, "p", 1), ""),
    (("hi", None, None, None, None), ""),
    (("hi", "0.5", "2", None, None), '{"sentiment":"0.5","message_length":"2"}'),
    (("", 0, 0, None, None), ""),
    (("hi", 0.5, 2, "p", None), ""),
    (("hi", 0.5, 2, None, 4), ""),
    ((None, 0.5, 2, "p", 2), None),
    ((b"\xff\xfe", 0.5, 2, None, None), ""),  # as base64
    (("hi", 1.5, 2, None, None), '{"sentiment":1.5}'),
    (("hi", -1, 2, None, None), '{"sentiment":-1}'),
    (("hi", "good", 2, None, None), '{"sentiment":"good"}'),
    (("hi", 0.5, -2, None, None), '{"message_length":-2}'),
    (("hi", 0.5, 2.5, None, None), '{"message_length":2.5}'),
    (("hi", 0.5, "long", None, None), '{"message_length":"long"}'),
    (("hi", 0.5, 2, "p", 0), '{"sequence":0}'),
    (("hi", 0.5, 2, "p", "first"), '{"sequence":"first"}'),
]


def test_rows_of_a_sqlite_table(settings: Settings) -> None:
    """SQLite stores any type in any column: values of the wrong type are kept in `extra`."""
    names = "message, sentiment, message_length, producer_id, sequence"
    with closing(sqlite3.connect(settings.sqlite_path)) as connection:
        connection.execute(f"CREATE TABLE streamed_messages (id INTEGER PRIMARY KEY, {names})")
        for row, _ in ROWS:
            connection.execute(f"INSERT INTO streamed_messages ({names}) VALUES (?, ?, ?, ?, ?)", row)
        connection.commit()
    with closing(source("sqlite", settings, BUZZ, lambda partition: "")) as reader:
        chunk = reader.poll(100)
    assert chunk is not None
    assert [record.extra or "" for record in chunk.records] == [extra for _, extra in ROWS if extra is not None]
    expected = [f"buzz.sqlite row {number}" for number, (_, extra) in enumerate(ROWS, 1) if extra is None]
    assert [each.where for each in chunk.invalid] == expected
    assert all(each.reason for each in chunk.invalid)


POSITIONS = [
    "x", "0", ":", "::", ":::", "1:2", "-1:0:0", "1:-1:0", "5:9:0", "9" * 30 + ":1:1", "1:1:" + "9" * 30, "1.5:0:0",
    "\u0663:0:0", " 1:1:1", "[", "[1", "[1:0:0", "[-1:0:0", "end ", "END", "\x00", "0:0:1", "3:x:1", "None", "12:7",
    "7:7:1", "5:90:1", "1:1", "99999999:20:7", "99:1", "-5:3", "10:20:30", "1:", "\xb2:1", f"{2**63}:1",
    f"{2**63 - 1}:1", "[3:0:5",
]  # fmt: skip


@pytest.mark.parametrize("sink", EMBEDDED)
def test_a_position_that_means_nothing_begins_again(sink: str, settings: Settings) -> None:
    """An unknown position restarts the partition: nothing is skipped, and ids remove what was handled before."""
    with closing(SINKS[sink].emitter(settings, BUZZ, "ann-1", "")) as each:
        each.emit(make_batch(5))
    for position in POSITIONS:
        found = []
        with closing(source(sink, settings, BUZZ, lambda partition, position=position: position)) as reader:  # type: ignore[misc]
            for number in range(3):
                chunk = reader.poll(100)
                assert number or (chunk and (chunk.start, chunk.begins_again) == (position, True)), position
                found += chunk.records if chunk else []
        assert [message.sequence for message in found] == [1, 2, 3, 4, 5], position


JOURNALS: list[tuple[str, Make, str]] = [
    ("noise", lambda path: path.write_bytes(NOISE), " is not a SQLite database"),
    ("text", lambda path: path.write_text("hi\n" * 50), "is not a SQLite database; move it away"),
    ("folder", lambda path: path.mkdir(), "unable to open database file"),
    ("cut", cut_journal, "is damaged"),
    ("first edition", sql("CREATE TABLE identities (a)", "CREATE TABLE batches (count)"), "journal of this version"),
    ("another database", sql("CREATE TABLE a (b)"), "is not a journal of this version: deliver what is pending"),
    ("held", held_by_another, "is in use by process [0-9]+: stop it first, or use another --data-dir"),
]


@pytest.mark.parametrize(("kind", "make", "pattern"), JOURNALS)
def test_a_journal_that_cannot_be_used(
    kind: str, make: Make, pattern: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings.journal_path("ragini")
    path.parent.mkdir()
    holder = make(path)
    assert produce("--sinks", "file") == 2
    shown = capsys.readouterr().err
    assert re.search(pattern, shown), shown
    assert shown.count("\n") == 1
    assert not settings.live_path.exists()
    if isinstance(holder, Journal):
        holder.close()


@pytest.mark.parametrize("content", [b"", NOISE])
def test_a_leftover_pid_file_stops_no_producer(content: bytes, settings: Settings) -> None:
    path = settings.journal_path("ragini").with_suffix(".pid")
    path.parent.mkdir()
    path.write_bytes(content)
    assert produce("--sinks", "file") == 0


FOLDERS: list[tuple[str, Make]] = [
    ("data folder is a file", file_instead),
    ("journal folder is a file", lambda data: (data / "journal").touch()),
]


@pytest.mark.parametrize(("kind", "make"), FOLDERS)
def test_a_folder_that_is_a_file(kind: str, make: Make, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    make(settings.data_path)
    assert produce("--sinks", "file") == 2
    assert "data folder cannot be used: " in capsys.readouterr().err


STORES: list[tuple[str, Make, int, str]] = [
    ("noise", lambda path: path.write_bytes(NOISE), 2, "file.sqlite is not a SQLite database"),
    ("newer", newer, 2, "was written by another version"),
    (
        "folder",
        lambda path: path.mkdir(),
        3,
        "unable to open database file (it, the files beside it and its folder must be writable)",
    ),
]


@pytest.mark.parametrize(("kind", "make", "code", "words"), STORES)
def test_a_processed_store_that_cannot_be_used(  # noqa: PLR0917
    kind: str, make: Make, code: int, words: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings.processed_path("file")
    path.parent.mkdir()
    make(path)
    assert consume("file") == code
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


ARRAYS: list[tuple[bytes, int, int]] = [
    (b"[]", 0, 0),
    (b'[{"message": "hi"}]', 1, 0),
    (b'\xef\xbb\xbf [ {"message": "hi"} , {"message": 3}, 4, null, {"message": "ho"} ]\n', 2, 3),
    (b'[{"message": "hi"}', -1, 0),
    (b'[{"message": "hi"},]', -1, 0),
    (b"[1 2]", -1, 0),
    (b"[\xff]", -1, 0),
    (b"[", -1, 0),
]


@pytest.mark.parametrize(("content", "readable", "invalid"), ARRAYS)
def test_files_that_are_one_array(content: bytes, readable: int, invalid: int, tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    path.write_bytes(content)
    with closing(RowSource(path.name, array_pages(path), LineCodec(BUZZ), lambda partition: "")) as reader:
        if readable < 0:
            with pytest.raises(ToolkitError, match=r"recording\.json: it is not a complete JSON array"):
                reader.poll(100)
            return
        chunks = []
        while chunk := reader.poll(100):
            chunks.append(chunk)
    assert sum(len(chunk.records) for chunk in chunks) == readable
    assert sum(len(chunk.invalid) for chunk in chunks) == invalid
