"""What every sink of the registry promises; each check must catch a double that breaks the promise."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import portalocker
import pytest

from tests.helpers import held, make_batch, make_messages
from utils import sinks
from utils.app.config import EMBEDDED_SINKS, Settings
from utils.app.errors import SinkReplaced, ToolkitError, Unavailable
from utils.emitters import file_emitter
from utils.emitters.base import Connect, Emitter
from utils.records.record import MAX_INT64, Batch, Message, encode_lines
from utils.records.table import COLUMNS, ROW

HARD_TEXTS = [
    "plain",
    "quotes \" and \\ and / and '",
    "line\nbreak\r\nand\ttab and \u2028 and \x85 and \x0b",
    "नमस्ते Раги́ни 你好 \U0001f600 e\u0301",
    "nul \x00 inside",
    "",
    " spaces ",
    '{"producer_id":"ann-1","sequence":999}',
    "x" * 200_000,
]


@dataclass
class Rig:
    """One sink of the registry and how to look at it and to spoil it without its emitter."""

    sink: str
    settings: Settings
    connect: Connect

    @property
    def path(self) -> Path:
        return {
            "file": self.settings.live_path,
            "sqlite": self.settings.sqlite_path,
            "duckdb": self.settings.duckdb_path,
        }[self.sink]

    def messages(self) -> list[Message]:
        timestamp = "strftime(timestamp, '%Y-%m-%dT%H:%M:%S.%gZ') AS timestamp"
        match self.sink:
            case "file":
                lines = self.path.read_bytes().removesuffix(b"\n").split(b"\n")
                return [Message(**json.loads(line)) for line in lines]
            case "sqlite":
                with closing(sqlite3.connect(self.path)) as connection:
                    return [Message(*row) for row in connection.execute(f"SELECT {ROW} FROM streamed_messages")]
        with duckdb.connect(str(self.path), read_only=True) as database:
            columns = ROW.replace("timestamp", timestamp)
            return [Message(*row) for row in database.execute(f"SELECT {columns} FROM streamed_messages").fetchall()]

    def sequences(self, producer_id: str = "ann-1") -> list[int | None]:
        return held(self.sink, self.settings).get(producer_id, [])

    def add_foreign(self) -> None:
        """What somebody else put there, without ids."""
        row = ["foreign", "Zoe", "2020-01-01 10:00:00", "old", 0.1, "key", 7]
        names = ", ".join(COLUMNS[:7])
        insert = f"INSERT INTO streamed_messages ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        match self.sink:
            case "file":
                with self.path.open("a", encoding="utf-8", newline="\n") as file:
                    file.write(json.dumps(dict(zip(COLUMNS, row, strict=False))) + "\n")
            case "sqlite":
                with closing(sqlite3.connect(self.path)) as connection, connection:
                    connection.execute(insert, row)
            case "duckdb":
                with duckdb.connect(str(self.path)) as database:
                    database.execute(insert, row)

    def taken(self) -> AbstractContextManager[None]:
        """The sink is there, but nobody else can write to it."""
        return {"file": lock_file, "sqlite": lock_sqlite, "duckdb": hold_duckdb}[self.sink](self.path)

    def delete(self) -> None:
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    with portalocker.Lock(f"{path}.lock"):
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


# The checks


def round_trip(rig: Rig) -> None:
    batch = make_batch(5)
    with closing(rig.connect()) as emitter:
        emitter.emit(batch)
    assert rig.messages() == batch.messages


def hard_texts(rig: Rig) -> None:
    messages = [
        Message(text, text[:100], "2026-11-23T19:04:05.123Z", text[:100], number % 2, text[:100], MAX_INT64, "ann-1")
        for number, text in enumerate(HARD_TEXTS)
    ]
    for sequence, message in enumerate(messages, 1):
        message.sequence = sequence
    with closing(rig.connect()) as emitter:
        emitter.emit(Batch.of(messages))
        assert emitter.last_sequence("ann-1") == len(HARD_TEXTS)
    assert rig.messages() == messages


def ordered(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        for first in (1, 21, 41):
            emitter.emit(make_batch(20, first=first))
    assert rig.sequences() == list(range(1, 61))


def large(rig: Rig) -> None:
    """More than one statement, transaction or window."""
    with closing(rig.connect()) as emitter:
        emitter.emit(make_batch(20_501))
    assert rig.sequences() == list(range(1, 20_502))


def durable_on_return(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        emitter.emit(make_batch(3))
        assert rig.sequences() == [1, 2, 3]


def resumes(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        assert emitter.last_sequence("ann-1") == 0
        emitter.emit(make_batch(3))
        assert emitter.last_sequence("ann-1") == 3
    with closing(rig.connect()) as emitter:
        assert emitter.last_sequence("ann-1") == 3
        emitter.emit(make_batch(2, first=4))
    with closing(rig.connect()) as emitter:
        assert emitter.last_sequence("ann-1") == 5


def tells_producers_apart(rig: Rig) -> None:
    names = ["ann-1", "ann-11", "nn-1", 'a"nn', "an\\n", "Ann-1", "анна"]
    with closing(rig.connect()) as emitter:
        for number, name in enumerate(names, 1):
            emitter.emit(make_batch(number, producer_id=name))
        assert [emitter.last_sequence(name) for name in names] == [1, 2, 3, 4, 5, 6, 7]
        assert emitter.last_sequence("nobody") == 0


def producers_share(rig: Rig) -> None:
    with closing(rig.connect()) as ann, closing(rig.connect()) as bob:
        for first in (1, 11, 21):
            ann.emit(make_batch(10, first=first))
            bob.emit(make_batch(10, first=first, producer_id="bob-1"))
        assert (ann.last_sequence("ann-1"), bob.last_sequence("bob-1")) == (30, 30)
    assert rig.sequences("ann-1") == rig.sequences("bob-1") == list(range(1, 31))


def closes_twice(rig: Rig) -> None:
    emitter = rig.connect()
    emitter.emit(make_batch(1))
    emitter.close()
    emitter.close()


def keeps_foreign_rows(rig: Rig) -> None:
    rig.connect().close()
    rig.add_foreign()
    with closing(rig.connect()) as emitter:
        assert emitter.last_sequence("ann-1") == 0
        emitter.emit(make_batch(2))
    assert [message.message for message in rig.messages()] == ["foreign", "hello 1", "hello 2"]
    assert held(rig.sink, rig.settings) == {None: [None], "ann-1": [1, 2]}


def failure_raises(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        emitter.emit(make_batch(2))
        with rig.taken(), pytest.raises(Unavailable):
            emitter.emit(make_batch(2, first=3))
    with closing(rig.connect()) as emitter:
        assert emitter.last_sequence("ann-1") == 2
        emitter.emit(make_batch(2, first=3))
    assert rig.sequences() == [1, 2, 3, 4]


def deletion_is_noticed(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        emitter.emit(make_batch(2))
        rig.delete()
        with pytest.raises(SinkReplaced):
            emitter.emit(make_batch(2, first=3))
    with closing(rig.connect()) as emitter:
        assert emitter.last_sequence("ann-1") == 0
        emitter.emit(make_batch(2, first=3))
    assert rig.sequences() == [3, 4]


def rotation_is_noticed(rig: Rig) -> None:
    with closing(rig.connect()) as emitter:
        emitter.emit(make_batch(2))
        rig.path.rename(rig.path.with_name("yesterday"))
        rig.connect().close()
        with pytest.raises(SinkReplaced):
            emitter.emit(make_batch(2, first=3))
    assert rig.sequences() == []


# The doubles


class Double:
    """Passes everything on to a real emitter."""

    def __init__(self, connect: Connect) -> None:
        self.real = connect()

    def last_sequence(self, producer_id: str) -> int:
        return self.real.last_sequence(producer_id)

    def emit(self, batch: Batch) -> None:
        self.real.emit(batch)

    def close(self) -> None:
        self.real.close()


class DropsLast(Double):
    def emit(self, batch: Batch) -> None:
        if batch.count > 1:
            self.real.emit(batch.between(batch.first, batch.last - 1))


class Changes(Double):
    """Stores other texts or numbers than it was given."""

    def emit(self, batch: Batch) -> None:
        changed = [msgspec.structs.replace(message, author="") for message in batch.messages]
        self.real.emit(Batch.of(changed))


class AsciiOnly(Double):
    def emit(self, batch: Batch) -> None:
        texts = [message.message.encode("ascii", "replace").decode() for message in batch.messages]
        pairs = zip(batch.messages, texts, strict=True)
        self.real.emit(Batch.of([msgspec.structs.replace(message, message=text) for message, text in pairs]))


class Backwards(Double):
    def emit(self, batch: Batch) -> None:
        self.real.emit(batch.between(batch.first + 1, batch.last))
        self.real.emit(batch.between(batch.first, batch.first))


class FirstPartOnly(Double):
    def emit(self, batch: Batch) -> None:
        self.real.emit(batch.between(batch.first, batch.first + 20_000 - 1))


class WritesAtClose(Double):
    waiting: list[Batch]

    def emit(self, batch: Batch) -> None:
        self.waiting = [*getattr(self, "waiting", []), batch]

    def close(self) -> None:
        while getattr(self, "waiting", []):
            self.real.emit(self.waiting.pop(0))
        self.real.close()


class Forgets(Double):
    def last_sequence(self, producer_id: str) -> int:
        return 0


class MixesUp(Double):
    highest = 0

    def emit(self, batch: Batch) -> None:
        self.real.emit(batch)
        self.highest = max(self.highest, batch.last)

    def last_sequence(self, producer_id: str) -> int:
        return self.highest


class Alone(Double):
    """Believes that it is the only producer: begins the sink again when it finds another one's rows."""

    def __init__(self, connect: Connect, rig: Rig) -> None:
        super().__init__(connect)
        self.rig, self.connect = rig, connect

    def emit(self, batch: Batch) -> None:
        if set(held(self.rig.sink, self.rig.settings)) - {batch.producer_id}:
            self.real.close()
            self.rig.delete()
            self.real = self.connect()
        self.real.emit(batch)


class ClosesOnce(Double):
    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.real.close()


class Swallows(Double):
    def emit(self, batch: Batch) -> None:
        try:
            self.real.emit(batch)
        except Unavailable:
            return


class Reopens(Double):
    """Takes a deleted or rotated sink for the same one and goes on, as if nothing was missing."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect)
        self.connect = connect

    def emit(self, batch: Batch) -> None:
        try:
            self.real.emit(batch)
        except SinkReplaced:
            self.real = self.connect()
            self.real.emit(batch)


CHECKS: list[tuple[Callable[[Rig], None], type[Double]]] = [
    (round_trip, DropsLast),
    (round_trip, Changes),
    (hard_texts, AsciiOnly),
    (ordered, Backwards),
    (large, FirstPartOnly),
    (durable_on_return, WritesAtClose),
    (resumes, Forgets),
    (tells_producers_apart, MixesUp),
    (producers_share, Alone),
    (closes_twice, ClosesOnce),
    (keeps_foreign_rows, Alone),
    (failure_raises, Swallows),
    (deletion_is_noticed, Reopens),
    (rotation_is_noticed, Reopens),
]


@pytest.fixture(params=EMBEDDED_SINKS)
def rig(request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(file_emitter, "LOCK_WAIT_S", 0.2)
    sink: str = request.param
    return Rig(sink, settings, sinks.emitter(sink, settings))


@pytest.mark.parametrize("check", dict.fromkeys(check for check, _ in CHECKS), ids=lambda check: check.__name__)
def test_sink_keeps(check: Callable[[Rig], None], rig: Rig) -> None:
    check(rig)


@pytest.mark.parametrize(("check", "double"), CHECKS, ids=lambda partition: part.__name__)
def test_check_catches(check: Callable[[Rig], None], double: type[Any], rig: Rig) -> None:
    real = rig.connect
    extra = (rig,) if double is Alone else ()

    def connect() -> Emitter:
        made: Emitter = double(real, *extra)
        return made

    rig.connect = connect
    # pytest.fail, which raises() uses, is no Exception; a double may also trip over what it has done
    with pytest.raises((AssertionError, pytest.fail.Exception, ToolkitError)):
        check(rig)


def test_what_no_sink_could_hold_is_refused_before_it_gets_there() -> None:
    for field, value in [
        ("message", "\ud800"),
        ("message", "x" * 300_000),
        ("sentiment", float("nan")),
        ("sentiment", float("inf")),
        ("message_length", MAX_INT64 + 1),
        ("message_length", -1),
    ]:
        (message,) = make_messages(1)
        setattr(message, field, value)
        with pytest.raises(ValueError, match=r"."):
            encode_lines([message])
