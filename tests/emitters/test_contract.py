"""The contract of every sink in the registry; a double that breaks the promise shows that each check works.

A new embedded sink is tested without any change here: its emitter writes, its source reads. SPOILERS change a sink
from outside (lock it, rotate it, add rows); checks that need one are skipped for a sink without it. A sink on
servers runs the same CHECKS where its server is started: tests/kafka/test_contract.py."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.helpers import FILES, moving_open_files, open_files_stay
from utils.app.config import Settings
from utils.app.errors import Rejected, SinkReplaced, ToolkitError, Unavailable
from utils.emitters import duckdb_emitter, file_emitter
from utils.emitters.base import Emitter
from utils.records.codec import Codec, Field
from utils.records.record import Batch, Line
from utils.records.stream import BUZZ, Stream
from utils.sinks import EMBEDDED, SINKS, Sink

TIMESTAMP = "2026-11-23T19:04:05.123Z"
READINGS = Stream(
    "readings",
    fields=(
        Field("a text", "text"),
        Field("count", "integer"),
        Field("ratio", "number"),
        Field("ok", "boolean"),
        Field("due", "timestamp"),
        Field("shape", "json"),
        Field("timestamp", "timestamp"),
    ),
)
MINUTES = Stream("minutes", fields=tuple(Field(f"minute {n}", "number") for n in range(300)))
TEMPLATES = {
    "buzz": [
        '{"message":"hello NUMBER","author":"Ann","timestamp":"2026-11-23T19:04:05.123Z","category":"tech",'
        '"sentiment":0.5,"keyword_mentioned":"hello","message_length":7}',
        '{"message":"hello NUMBER","author":"Bob","room":{"name":"attic","floor":[1,null]},"sentiment":"Positive"}',
        '{"timestamp":"2026-11-23T20:04:05.123456+01:00","message":"NUMBER, nothing else"}',
    ],
    "readings": [
        '{"a text":"hello NUMBER","count":NUMBER,"ratio":0.1,"ok":true,"due":"2026-01-02T03:04:05+05:30",'
        '"shape":{"a":[1,null,"b"]},"timestamp":"2026-11-23T19:04:05.123Z"}',
        '{"a text":7,"count":1.5,"ratio":"n/a","ok":"perhaps","due":"soon","more":{"deep":[NUMBER]},"rowid":NUMBER}',
        "{}",
        '{"a text":null,"count":null,"ratio":null,"ok":null,"due":null,"shape":null}',
        '{"a text":"","count":-9223372036854775808,"ratio":-1e300,"ok":false,"shape":[1e2,1.10],"A TEXT":"other"}',
    ],
    "minutes": ['{"minute 0":NUMBER,"minute 299":0.25}'],
}
HARD_TEXTS = [
    "quotes \" and \\ and / and '",
    "line\nbreak\r\nand\ttab and \u2028 and \x85 and \x0b",
    "नमस्ते Раги́ни 你好 \U0001f600 e\u0301",
    "nul \x00 inside",
    "",
    " spaces ",
    '{"producer_id":"ann-1","sequence":999}',
    "x" * 200_000,
]
KEY = "ann-1234abcd"


def batch_of(stream: Stream, lines: Sequence[str], producer_id: str = "ann-1", first: int = 1) -> Batch:
    return Batch.of_lines([Line(line.encode(), TIMESTAMP) for line in lines], producer_id, first, stream.codec)


@dataclass
class Rig:
    """One sink of the registry with one stream, and access to its contents."""

    sink: Sink
    settings: Settings
    stream: Stream = BUZZ
    open: Callable[[Settings, Stream, str, str], Emitter] | None = None  # opens a double

    def connect(self, mark: str = "", key: str = KEY) -> Emitter:
        return (self.open or self.sink.emitter)(self.settings, self.stream, key, mark)

    def batch(self, amount: int, *, producer_id: str = "ann-1", first: int = 1) -> Batch:
        templates = TEMPLATES[self.stream.name]
        numbers = range(first, first + amount)
        lines = [templates[number % len(templates)].replace("NUMBER", str(number)) for number in numbers]
        return batch_of(self.stream, lines, producer_id, first)

    def rows(self) -> list[bytes]:
        """Return the sink's records as its source reads them, in canonical form."""
        codec, found = self.stream.codec, []
        with closing(self.sink.source(self.settings, self.stream, lambda partition: "", True, False)) as source:
            while (chunk := source.poll(10_000)) is not None:
                assert not chunk.invalid
                found += [canonical_row(codec, row) for row in codec.rows(chunk.records)]
        return found

    def sequences(self, producer_id: str = "ann-1") -> list[int]:
        ids = [json.loads(row)[-2:] for row in self.rows()]
        return [sequence for found, sequence in ids if found == producer_id]

    @property
    def path(self) -> Path:
        path = self.sink.path(self.settings, self.stream)
        assert path
        return path

    @property
    def spoiler(self) -> "Spoiler":
        if self.sink.name not in SPOILERS:
            pytest.skip(f"no Spoiler for {self.sink.name}")
        return SPOILERS[self.sink.name]

    def delete(self) -> None:
        for path in self.path.parent.glob(f"{self.path.name}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def canonical_row(codec: Codec, row: tuple[Any, ...]) -> bytes:
    """Return the canonical form with the members of `extra` sorted: no sink promises their order."""
    extra = json.loads(row[-3] or "null", parse_float=str, parse_int=str)
    (found,) = codec.canonical([[each] for each in (*row[:-3], json.dumps(extra, sort_keys=True), *row[-2:])])
    return found


def canonical(batch: Batch) -> list[bytes]:
    return [canonical_row(batch.codec, row) for row in batch.rows]


# Changes of a sink from outside


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    fcntl = pytest.importorskip("fcntl", reason="needs the locks of POSIX")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def lock_sqlite(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


HOLD_DUCKDB = """
import duckdb, sys, time
while True:
    try:
        held = duckdb.connect(sys.argv[1])
        break
    except duckdb.IOException:  # a producer writes just now
        time.sleep(0.01)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def hold_duckdb(path: Path) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD_DUCKDB, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        yield
        holder.communicate()


def append_line(path: Path, record: dict[str, str]) -> None:
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(record) + "\n")


def run_sqlite(path: Path, *statement: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(*statement)


def run_duckdb(path: Path, *statement: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path)) as database:
        database.execute(*statement)


@dataclass(frozen=True)
class Spoiler:
    """Changes a sink from outside.

    `taken`: a context in which nobody else can write. `run`: execute a statement, if the sink has any."""

    taken: Callable[[Path], AbstractContextManager[None]]
    run: Callable[..., None] | None = None

    def add_external(self, path: Path) -> None:
        """Add a buzz message without ids, as another program does."""
        if self.run is None:
            append_line(path, {"message": "external", "author": "Zoe"})
        else:
            self.run(path, "INSERT INTO streamed_messages (message, author) VALUES ('external', 'Zoe')")


SPOILERS = {
    "file": Spoiler(lock_file),
    "sqlite": Spoiler(lock_sqlite, run_sqlite),
    "duckdb": Spoiler(hold_duckdb, run_duckdb),
}


# The checks


def round_trip(rig: Rig) -> None:
    batch = rig.batch(20)
    with closing(rig.connect()) as emitter:
        emitter.emit(batch)
    assert rig.rows() == canonical(batch)


def hard_texts(rig: Rig) -> None:
    name = "message" if rig.stream is BUZZ else "a text"
    lines = [json.dumps({name: text, text[:20]: text[:100]}, ensure_ascii=number % 2 > 0)
             for number, text in enumerate(HARD_TEXTS)]  # fmt: skip
    batch = batch_of(rig.stream, lines)
    with closing(rig.connect()) as emitter:
        emitter.emit(batch)
        assert emitter.last(["ann-1"]) == ("ann-1", len(HARD_TEXTS))
    assert rig.rows() == canonical(batch)


def ordered(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        for first in (1, 21, 41):
            emitter.emit(rig.batch(20, first=first))
    assert rig.sequences() == list(range(1, 61))


def large(rig: Rig) -> None:
    """Emit more records than one statement or request takes."""
    with closing(rig.connect()) as emitter:
        amount = min(emitter.max_records, 6_001)
        emitter.emit(rig.batch(amount))
    assert rig.sequences() == list(range(1, amount + 1))


def wide(rig: Rig) -> None:
    """Emit more values than SQLite takes in one statement."""
    rig.stream = MINUTES
    batch = rig.batch(700)
    with closing(rig.connect()) as emitter:
        emitter.emit(batch)
    assert rig.rows() == canonical(batch)


def durable_on_return(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        emitter.emit(rig.batch(3))
        assert rig.sequences() == [1, 2, 3]


def resumes(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) is None
        emitter.emit(rig.batch(3))
        assert emitter.last(["ann-1"]) == ("ann-1", 3)
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) == ("ann-1", 3)
        emitter.emit(rig.batch(2, first=4))
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) == ("ann-1", 5)


def resumes_from_a_mark(rig: Rig) -> None:
    """A mark is only a lower bound of the search: records before and behind it are found."""
    with closing(rig.connect()) as emitter:
        emitter.last([])
        emitter.emit(rig.batch(3))
        mark = emitter.mark
    with closing(rig.connect(mark)) as emitter:
        assert emitter.last(["ann-1"]) == ("ann-1", 3)
        emitter.emit(rig.batch(2, first=4))
    with closing(rig.connect(mark)) as emitter:
        assert emitter.last(["ann-1"]) == ("ann-1", 5)


def newest_run(rig: Rig) -> None:
    """`last` is of the newest run in the sink, even if other producers wrote later."""
    with closing(rig.connect()) as emitter:
        emitter.emit(rig.batch(3, producer_id="ann-1"))
        emitter.emit(rig.batch(2, producer_id="ann-2", first=4))
        emitter.emit(rig.batch(1, producer_id="bob-1", first=90))
        assert emitter.last(["ann-1", "ann-2", "ann-3"]) == ("ann-2", 5)
        assert emitter.last(["ann-1"]) == ("ann-1", 3)
        assert emitter.last(["ann-0", "ann-3"]) is None
        assert emitter.last([]) is None
    with closing(rig.connect()) as emitter:
        assert emitter.last([f"old-{number}" for number in range(300)] + ["ann-1", "ann-2"]) == ("ann-2", 5)


def similar_ids(rig: Rig) -> None:
    names = ["ann-1", "ann-11", "nn-1", "ann-", "a_n-1", "Ann-1", "анна"]
    with closing(rig.connect()) as emitter:
        for number, name in enumerate(names, 1):
            emitter.emit(rig.batch(number, producer_id=name))
        assert [emitter.last([name]) for name in names] == list(zip(names, range(1, 8), strict=True))
        assert emitter.last(["ann"]) is None


def producers_share(rig: Rig) -> None:
    with closing(rig.connect(key="ann-1")) as ann, closing(rig.connect(key="bob-1")) as bob:
        for first in (1, 11, 21):
            ann.emit(rig.batch(10, first=first))
            bob.emit(rig.batch(10, first=first, producer_id="bob-1"))
        assert (ann.last(["ann-1"]), bob.last(["bob-1"])) == (("ann-1", 30), ("bob-1", 30))
    assert rig.sequences("ann-1") == rig.sequences("bob-1") == list(range(1, 31))


def a_copy_delivers(rig: Rig) -> None:
    """Of two copies of a journal the second one is Unavailable, asks again, and delivers nothing twice."""
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) is None
        emitter.emit(rig.batch(2))
        with closing(rig.connect()) as copy:
            assert copy.last(["ann-1"]) == ("ann-1", 2)
            copy.emit(rig.batch(3, first=3))
        with pytest.raises(Unavailable):
            emitter.emit(rig.batch(3, first=3))
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) == ("ann-1", 5)
        emitter.emit(rig.batch(1, first=6))
    assert rig.sequences() == [1, 2, 3, 4, 5, 6]


def closes_twice(rig: Rig) -> None:
    emitter = rig.connect()
    emitter.emit(rig.batch(1))
    emitter.close()
    emitter.close()


def keeps_external_records(rig: Rig) -> None:
    rig.stream = BUZZ
    rig.connect().close()
    rig.spoiler.add_external(rig.path)
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) is None
        emitter.emit(rig.batch(2))
    assert [json.loads(row)[-2:] for row in rig.rows()] == [[None, None], ["ann-1", 1], ["ann-1", 2]]
    assert json.loads(rig.rows()[0])[0] == "external"


def failure_raises(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        emitter.emit(rig.batch(2))
        with rig.spoiler.taken(rig.path), pytest.raises(Unavailable):
            emitter.emit(rig.batch(2, first=3))
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) == ("ann-1", 2)
        emitter.emit(rig.batch(2, first=3))
    assert rig.sequences() == [1, 2, 3, 4]


def rejected_behind_all_before(rig: Rig) -> None:
    """All records before a rejected one are durable: its dead letter would hide them otherwise."""
    if (run := rig.spoiler.run) is None:
        pytest.skip(f"{rig.sink.name} takes every record")
    table, name, key = ("streamed_messages", "message", "%711%") if rig.stream is BUZZ else ("readings", "a text", "%")
    run(rig.path, f"""CREATE TABLE {table} ("{name}" TEXT CHECK ("{name}" NOT LIKE '{key}' OR "{name}" = ''))""")
    with closing(rig.connect()) as emitter:
        with pytest.raises(Rejected) as rejected:
            emitter.emit(rig.batch(1_000))
        before = rejected.value.sequence - 1
        assert before == (710 if rig.stream is BUZZ else 4)
        assert rig.sequences() == list(range(1, before + 1))
        assert "\n" not in rejected.value.reason
        assert emitter.last(["ann-1"]) == ("ann-1", before)


def deletion_is_noticed(rig: Rig) -> None:
    assert rig.spoiler
    with closing(rig.connect()) as emitter:
        emitter.emit(rig.batch(2))
        with moving_open_files():
            rig.delete()
        with pytest.raises(SinkReplaced):
            emitter.emit(rig.batch(2, first=3))
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) is None
        emitter.emit(rig.batch(2, first=3))
    assert rig.sequences() == [3, 4]


def rotation_is_noticed(rig: Rig) -> None:
    assert rig.spoiler
    with closing(rig.connect()) as emitter:
        emitter.emit(rig.batch(2))
        with moving_open_files():
            rig.path.rename(rig.path.with_name("yesterday"))
        rig.connect().close()
        with pytest.raises(SinkReplaced):
            emitter.emit(rig.batch(2, first=3))
    assert rig.sequences() == []


def a_moved_file_has_everything(rig: Rig) -> None:
    """A moved database is complete once it is closed: records that are only in its log must not stay behind."""
    assert rig.spoiler
    with closing(rig.connect()) as emitter:
        emitter.emit(rig.batch(2))
        with moving_open_files():
            rig.path.rename(rig.path.with_name("yesterday"))
        with pytest.raises(SinkReplaced):
            emitter.emit(rig.batch(2, first=3))
    with closing(rig.connect()) as emitter:
        assert emitter.last(["ann-1"]) is None
    rig.delete()
    rig.path.with_name("yesterday").rename(rig.path)
    assert rig.sequences() == [1, 2]


# The doubles


class Double(Emitter):
    """Passes all calls to a real emitter."""

    def __init__(self, rig: Rig, key: str, mark: str) -> None:
        self.rig, self.key = rig, key
        self.real = self.open(mark)

    def open(self, mark: str = "") -> Emitter:
        return self.rig.sink.emitter(self.rig.settings, self.rig.stream, self.key, mark)

    @property
    def mark(self) -> str:
        return self.real.mark

    @property
    def max_records(self) -> int:  # type: ignore[override]
        return self.real.max_records

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        return self.real.last(producer_ids)

    def emit(self, batch: Batch) -> None:
        self.real.emit(batch)

    def close(self) -> None:
        self.real.close()


class DropsLast(Double):
    def emit(self, batch: Batch) -> None:
        if batch.count > 1:
            self.real.emit(batch.between(batch.first, batch.last - 1))


class ReplacesText(Double):
    """Stores a changed text."""

    before, after = b"hello", b"hullo"

    def emit(self, batch: Batch) -> None:
        lines = batch.lines.replace(self.before, self.after)
        self.real.emit(Batch(batch.producer_id, batch.last, batch.count, lines, batch.codec))


class DropsUnknownFields(Double):
    def emit(self, batch: Batch) -> None:
        lines = []
        for line in batch.lines.splitlines():
            record = json.loads(line)
            lines.append(json.dumps({name: record[name] for name in record if name in batch.codec.columns}))
        text = "".join(f"{line}\n" for line in lines).encode()
        self.real.emit(Batch(batch.producer_id, batch.last, batch.count, text, batch.codec))


class AsciiOnly(ReplacesText):
    before, after = "नमस्ते".encode(), b"??????"


class Backwards(Double):
    def emit(self, batch: Batch) -> None:
        with suppress(Unavailable):
            self.real.emit(batch.between(batch.first + 1, batch.last))
            self.real.emit(batch.between(batch.first, batch.first))


class FirstPageOnly(Double):
    def emit(self, batch: Batch) -> None:
        self.real.emit(batch.between(batch.first, batch.first + min(500, batch.count // 2)))


class WritesAtClose(Double):
    def emit(self, batch: Batch) -> None:
        self.waiting = [*getattr(self, "waiting", []), batch]

    def close(self) -> None:
        while getattr(self, "waiting", []):
            self.real.emit(self.waiting.pop(0))
        self.real.close()


class KnowsNothing(Double):
    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        return None


class TrustsMarks(Double):
    """Does not search behind a mark."""

    def __init__(self, rig: Rig, key: str, mark: str) -> None:
        super().__init__(rig, key, mark)
        self.trusted = ("ann-1", 3) if rig.sequences() else None

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        return self.trusted


class OneRunOnly(Double):
    """Asks for the present run only."""

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        return self.real.last(producer_ids[-1:])


class MixesUp(Double):
    highest = 0

    def emit(self, batch: Batch) -> None:
        self.real.emit(batch)
        self.highest = max(self.highest, batch.last)

    def last(self, producer_ids: Sequence[str]) -> tuple[str, int] | None:
        return (producer_ids[-1], self.highest) if producer_ids and self.highest else None


class Alone(Double):
    """Assumes to be the only producer: empties a sink that has records of others."""

    def emit(self, batch: Batch) -> None:
        if any(json.loads(row)[-2] != batch.producer_id for row in self.rig.rows()):
            self.real.close()
            with moving_open_files():
                self.rig.delete()
            self.real = self.open()
        self.real.emit(batch)


class ClosesOnce(Double):
    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.real.close()


class Swallows(Double):
    def emit(self, batch: Batch) -> None:
        with suppress(Unavailable):
            self.real.emit(batch)


class RejectsTooEarly(Double):
    """Rejects a record before the records in front of it are stored."""

    def emit(self, batch: Batch) -> None:
        raise Rejected(711 if batch.codec is BUZZ.codec else 5, "CHECK constraint failed")


class Reopens(Double):
    """Continues in a deleted or rotated sink as if nothing was missing."""

    def emit(self, batch: Batch) -> None:
        try:
            self.real.emit(batch)
        except SinkReplaced:
            self.real = self.open()
            self.real.emit(batch)


Check = Callable[[Rig], None]

# The statement of the check that fails with the double comes last.
CHECKS: list[tuple[Check, type[Double], str]] = [
    (round_trip, DropsLast, "assert rig.rows()"),
    (round_trip, ReplacesText, "assert rig.rows()"),
    (round_trip, DropsUnknownFields, "assert rig.rows()"),
    (hard_texts, AsciiOnly, "assert rig.rows()"),
    (ordered, Backwards, "assert rig.sequences()"),
    (large, FirstPageOnly, "assert rig.sequences()"),
    (wide, FirstPageOnly, "assert rig.rows()"),
    (durable_on_return, WritesAtClose, "assert rig.sequences()"),
    (resumes, KnowsNothing, 'assert emitter.last(["ann-1"]) == ("ann-1", 3)'),
    (resumes_from_a_mark, TrustsMarks, 'assert emitter.last(["ann-1"]) == ("ann-1", 5)'),
    (newest_run, OneRunOnly, 'assert emitter.last(["ann-1", "ann-2", "ann-3"])'),
    (newest_run, MixesUp, 'assert emitter.last(["ann-1", "ann-2", "ann-3"])'),
    (similar_ids, MixesUp, "assert [emitter.last([name]) for name in names]"),
    (producers_share, Alone, 'assert rig.sequences("ann-1")'),
    (a_copy_delivers, Swallows, "pytest.raises(Unavailable)"),
    (closes_twice, ClosesOnce, "emitter.close()"),
]
SPOILING: list[tuple[Check, type[Double], str]] = [
    (keeps_external_records, Alone, "assert [json.loads(row)[-2:] for row in rig.rows()]"),
    (failure_raises, Swallows, "pytest.raises(Unavailable)"),
    (rejected_behind_all_before, RejectsTooEarly, "assert rig.sequences()"),
    (deletion_is_noticed, Reopens, "pytest.raises(SinkReplaced)"),
    (rotation_is_noticed, Reopens, "pytest.raises(SinkReplaced)"),
    (a_moved_file_has_everything, Reopens, "pytest.raises(SinkReplaced)"),
]
ALL_CHECKS = [*CHECKS, *SPOILING]


def assert_catches(check: Check, double: type[Double], statement: str, rig: Rig) -> None:
    """Assert that this statement of the check fails with the double; an error that the double raises proves nothing."""
    rig.open = lambda settings, stream, key, mark: double(rig, key, mark)
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:  # the second is of pytest.raises
        check(rig)
    (failed,) = [str(each.statement).strip() for each in caught.traceback if each.name == check.__name__]
    assert statement in failed.splitlines()[0]


@pytest.fixture(params=EMBEDDED)
def sink(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sink:
    monkeypatch.setattr(file_emitter, "LOCK_WAIT_S", 0.2)
    monkeypatch.setattr(duckdb_emitter, "PAUSE_S", 0.0)
    return SINKS[request.param]


def of_each_stream(checks: Iterable[Check]) -> list[Any]:
    """Return each check with messages, and with another stream if it looks at fields."""
    found = []
    for check in dict.fromkeys(checks):
        marks = [pytest.mark.full] if check in (large, failure_raises) else []
        found.append(pytest.param(check, BUZZ, id=f"{check.__name__}-buzz", marks=marks))
        if check in (round_trip, hard_texts, rejected_behind_all_before):
            marks = [] if check is round_trip else [pytest.mark.full]
            found.append(pytest.param(check, READINGS, id=f"{check.__name__}-readings", marks=marks))
    return found


@pytest.mark.parametrize(("check", "stream"), of_each_stream(check for check, *_ in ALL_CHECKS))
def test_sink_keeps(check: Check, stream: Stream, sink: Sink, settings: Settings) -> None:
    check(Rig(sink, settings, stream))


@pytest.mark.parametrize(
    ("check", "double", "statement"),
    ALL_CHECKS,
    ids=[f"{check.__name__}-{each.__name__}" for check, each, _ in ALL_CHECKS],
)
def test_check_catches(check: Check, double: type[Double], statement: str, settings: Settings) -> None:
    """Each check finds the mistake of its double; one sink without a server and with all spoilers is enough."""
    assert_catches(check, double, statement, Rig(SINKS["sqlite"], settings))


class IsAway(Double):
    def emit(self, batch: Batch) -> None:
        raise Unavailable("away")


@pytest.mark.parametrize(
    ("double", "statement", "error"),
    [
        (IsAway, "rig.rows()", Unavailable),
        (Double, "rig.rows()", pytest.fail.Exception),
        (DropsLast, "emitter.last(", AssertionError),
    ],
)
def test_a_double_is_caught_by_its_statement_only(
    double: type[Double], statement: str, error: type[BaseException], settings: Settings
) -> None:
    with pytest.raises(error):
        assert_catches(round_trip, double, statement, Rig(SINKS["sqlite"], settings))


@open_files_stay
@pytest.mark.parametrize(("name", "step"), [("file", "_write"), ("sqlite", "_insert"), ("duckdb", "_insert")])
def test_a_file_that_is_moved_while_it_is_written_is_noticed(
    name: str, step: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(SINKS[name], settings)
    with closing(rig.connect()) as emitter:
        write = getattr(emitter, step)

        def then_moved(*given: object) -> None:
            write(*given)
            rig.path.rename(rig.path.with_name("moved"))

        monkeypatch.setattr(emitter, step, then_moved)
        with pytest.raises(SinkReplaced):
            emitter.emit(rig.batch(2))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_stays_as_it_is(name: str, settings: Settings) -> None:
    rig, content = Rig(SINKS[name], settings), b"hello, I am a text file, not a database. " * 30
    rig.path.parent.mkdir(parents=True)
    rig.path.write_bytes(content)
    with pytest.raises(ToolkitError, match=f"{rig.path.name}.*name another file") as error:
        rig.connect()
    assert (error.value.exit_code, isinstance(error.value, Unavailable)) == (2, False)
    assert rig.path.read_bytes() == content


@pytest.mark.parametrize("name", ["sqlite", "duckdb"])
def test_a_database_with_two_names_is_rejected(name: str, settings: Settings) -> None:
    """Rows would be lost between the logs that SQLite or DuckDB keep for each name of a file."""
    rig = Rig(SINKS[name], settings)
    rig.connect().close()
    os.link(rig.path, rig.path.with_name("copy"))
    with pytest.raises(ToolkitError, match=r"has 2 names") as error:
        rig.connect()
    assert error.value.exit_code == 2


def test_only_kafka_needs_a_server() -> None:
    """A new sink on servers needs the contract checks there."""
    assert set(SINKS) - set(EMBEDDED) == {"kafka"}
