"""The embedded consumers as processes: killed, doubled, and pointed at what they cannot read."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from tests.helpers import make_batch, ragini, start_python, wait_until
from utils.app import cli
from utils.app.config import Settings
from utils.sinks import EMBEDDED
from utils.emitters.sqlite_emitter import SqliteEmitter
from utils.sinks import emitter

no_ctrl_c = pytest.mark.skipif(os.name == "nt", reason="Windows cannot send Ctrl+C to one process only")


def emit(sink: str, settings: Settings, amount: int, first: int = 1) -> None:
    opened = emitter(sink, settings)()
    opened.emit(make_batch(amount, first=first))
    opened.close()


def consumer(sink: str) -> str:
    return f"consumers.{sink}_consumer_case"


class Case:
    """Runs consumers' command lines in this process, as `python -m` would."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, sink: str, *options: str) -> subprocess.CompletedProcess[str]:
        self._capsys.readouterr()
        code = cli.run(import_module(consumer(sink)).main, name=consumer(sink), arguments=list(options))
        out, err = self._capsys.readouterr()
        return subprocess.CompletedProcess([], code, out, err)


@pytest.fixture
def case(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.chdir(tmp_path)
    Path(".env").touch()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield Case(capsys)
    for number, handler in before.items():
        signal.signal(number, handler)
    logger.remove()


def sink_path(sink: str, settings: Settings) -> Path:
    return {"file": settings.live_path, "sqlite": settings.sqlite_path, "duckdb": settings.duckdb_path}[sink]


def ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def stored(sink: str, settings: Settings) -> int:
    path = settings.processed_path(sink)
    if not path.exists():
        return 0
    try:
        return int(ask(path, "SELECT count(*) FROM messages")[0][0])
    except sqlite3.OperationalError:
        return 0  # just being created


def contents(sink: str, settings: Settings) -> list[list[tuple[Any, ...]]]:
    tables = ("messages", "sums", "positions", "producers", "counts")
    return [ask(settings.processed_path(sink), f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


@pytest.mark.parametrize("sink", EMBEDDED)
class TestRunning:
    def test_once_then_only_what_is_new(self, sink: str, settings: Settings, case: Case) -> None:
        emit(sink, settings, 5)
        done = case(sink, "--once", "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["source"], summary["run"]["messages"], summary["store"]["messages"]) == (sink, 5, 5)
        assert summary["figures"]["author"][0][:2] == ["Ann", 5]
        emit(sink, settings, 2, first=6)
        done = case(sink, "--once", "--count", "1")
        assert done.returncode == 0, done.stderr
        assert f"{sink}: 1 messages" in done.stdout
        assert "in the store: messages 6, foreign 0, invalid 0, lost 0, duplicate 0, again 0" in done.stdout

    def test_from_start_and_end(self, sink: str, settings: Settings, case: Case) -> None:
        emit(sink, settings, 3)
        done = case(sink, "--once", "--json", "--from", "end")
        assert json.loads(done.stdout)["store"]["messages"] == 0
        assert json.loads(done.stdout)["run"] == json.loads(done.stdout)["store"]  # all names, whatever was read
        done = case(sink, "--once", "--json", "--from", "start")
        assert json.loads(done.stdout)["store"]["messages"] == 3
        done = case(sink, "--once", "--json", "--from", "start")
        assert json.loads(done.stdout)["store"] | {"again": 3} == json.loads(done.stdout)["store"]
        assert json.loads(done.stdout)["store"]["messages"] == 3

    @no_ctrl_c
    def test_it_waits_for_what_does_not_exist_yet_and_stops_cleanly(self, sink: str, settings: Settings) -> None:
        with start_python(consumer(sink), settings=settings) as process:
            assert process.stderr is not None
            assert "does not exist yet; waiting" in process.stderr.readline()
            emit(sink, settings, 3)
            wait_until(lambda: stored(sink, settings) == 3)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "does not exist" not in err
        assert f"{sink}: 3 messages" in out

    def test_missing(self, sink: str, settings: Settings, case: Case) -> None:
        done = case(sink, "--once")
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.count("\n") == 1
        assert "does not exist yet" in done.stderr
        assert not sink_path(sink, settings).exists()

    @pytest.mark.parametrize("bad", ["folder", "rubbish"])
    def test_what_cannot_be_read(self, sink: str, bad: str, settings: Settings, case: Case) -> None:
        path = sink_path(sink, settings)
        path.parent.mkdir(parents=True)
        if bad == "folder":
            path.mkdir()
        else:
            path.write_bytes(b"neither lines nor a database\n" * 500)
        done = case(sink, "--once")
        if sink == "file" and bad == "rubbish":
            assert done.returncode == 0, done.stderr
            assert "invalid 500" in done.stdout
            return
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert path.name in done.stderr

    def test_an_empty_source(self, sink: str, settings: Settings, case: Case) -> None:
        path = sink_path(sink, settings)
        path.parent.mkdir(parents=True)
        path.touch()
        done = case(sink, "--once")
        assert done.returncode == {"file": 0, "sqlite": 3, "duckdb": 3}[sink]  # a producer may be about to create it
        assert done.stderr.count("\n") == (0 if sink == "file" else 1)

    def test_a_position_from_another_file(self, sink: str, settings: Settings, case: Case) -> None:
        emit(sink, settings, 5)
        case(sink, "--once")
        sink_path(sink, settings).unlink()
        opened = emitter(sink, settings)()
        opened.emit(make_batch(2, producer_id="bob-2"))
        opened.close()
        done = case(sink, "--once")
        assert done.returncode == 0
        assert "was rotated, truncated or rebuilt" in done.stderr
        assert "in the store: messages 7," in done.stdout

    def test_a_store_of_a_newer_version(self, sink: str, settings: Settings, case: Case) -> None:
        emit(sink, settings, 1)
        case(sink, "--once")
        with closing(sqlite3.connect(settings.processed_path(sink))) as connection:
            connection.execute("PRAGMA user_version = 99")
        done = case(sink, "--once")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "written by a newer version" in done.stderr

    def test_two_copies_at_once(self, sink: str, settings: Settings) -> None:
        opened = emitter(sink, settings)()
        for first in range(1, 60_001, 20_000):
            opened.emit(make_batch(20_000, first=first))
        opened.close()
        copies = [start_python(consumer(sink), "--once", settings=settings) for _ in range(2)]
        ends = [copy.communicate(timeout=100) for copy in copies]
        assert [copy.returncode for copy in copies] == [0, 0], ends
        assert ask(settings.processed_path(sink), "SELECT count(*), max(sequence) FROM messages") == [(60_000, 60_000)]
        assert ask(settings.processed_path(sink), "SELECT value FROM counts WHERE name = 'messages'") == [(60_000,)]


def test_a_table_without_messages(settings: Settings, case: Case) -> None:
    settings.data_path.mkdir()
    with closing(sqlite3.connect(settings.sqlite_path)) as connection:
        connection.execute("CREATE TABLE other (a)")
    done = case("sqlite", "--once")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "has no table streamed_messages yet" in done.stderr


def test_a_column_of_the_wrong_type(settings: Settings, case: Case) -> None:
    SqliteEmitter(settings.sqlite_path).emit(make_batch(3))
    with closing(sqlite3.connect(settings.sqlite_path)) as connection:
        connection.execute("UPDATE streamed_messages SET message = 5.5 WHERE sequence = 2")
        connection.execute("UPDATE streamed_messages SET message = x'00' WHERE sequence = 2")
        connection.commit()
    done = case("sqlite", "--once")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "invalid record in buzz.sqlite row 2" in done.stderr
    assert "invalid 1, lost 1" in done.stdout


@no_ctrl_c
def test_killed_at_any_moment_every_message_is_stored_once(settings: Settings, case: Case, long: bool) -> None:
    """One producer, three consumers that are killed again and again meanwhile; then one run that is not."""
    least, kills = (200_000, 100) if long else (1_000, 3)
    rng = random.Random(4)
    producer = start_python("producers.ragini_producer", "--interval", "0.001", "--drain", "60", settings=settings)
    while kills > 0 or stored("sqlite", settings) < least:
        running = [start_python(consumer(sink), settings=settings) for sink in EMBEDDED]
        wait_until_all_store_more(settings)
        pass_time(rng.uniform(0, 0.6))
        for process in running:
            process.kill()
        for process in running:
            process.communicate()
        kills -= 1
    assert producer.poll() is None
    producer.send_signal(signal.SIGINT)
    _, err = producer.communicate(timeout=100)
    assert producer.returncode == 0, err
    ((total,),) = ask(settings.sqlite_path, "SELECT max(sequence) FROM streamed_messages")
    sinks = ["--live-file", settings.live_path, "--sqlite-file", settings.sqlite_path]
    sinks += ["--duckdb-file", settings.duckdb_path]
    fresh = replace(settings, data_dir=settings.data_dir / "fresh")
    for sink in EMBEDDED:
        assert case(sink, "--once").returncode == 0
        assert case(sink, "--once", "--data-dir", str(fresh.data_dir), *map(str, sinks)).returncode == 0
        assert contents(sink, settings) == contents(sink, fresh)
        found = ask(settings.processed_path(sink), "SELECT count(*), count(DISTINCT sequence) FROM messages")
        assert found == [(total, total)]


def wait_until_all_store_more(settings: Settings) -> None:
    before = {sink: stored(sink, settings) for sink in EMBEDDED}
    wait_until(lambda: all(stored(sink, settings) > count for sink, count in before.items()), 60)


def pass_time(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end_s)


def test_ragini_producer_and_consumers_agree(settings: Settings, case: Case) -> None:
    ragini("--count", "500", settings=settings)
    for sink in EMBEDDED:
        case(sink, "--once")
    messages = [ask(settings.processed_path(sink), "SELECT * FROM messages ORDER BY id") for sink in EMBEDDED]
    assert messages[0] == messages[1] == messages[2]
    assert len(messages[0]) == 500
