"""The embedded consumers as processes: killed, run twice at once, and with unreadable sinks."""

import json
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import FILES, make_batch, ragini, run_here, start_python, wait_until
from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.app.options import ReadingOptions
from utils.reading.database import Database
from utils.reading.processing import StoreReader
from utils.reading.processing import consumer as consumer_of
from utils.reading.windows import Tumbling
from utils.records.codec import Field
from utils.records.record import Batch
from utils.records.stream import BUZZ, Stream, declare, schema_path
from utils.sinks import AUTO, EMBEDDED, SINKS


def emit(sink: str, settings: Settings, amount: int, first: int = 1) -> None:
    deliver(sink, settings, make_batch(amount, first=first))


def deliver(sink: str, settings: Settings, batch: Batch, stream: Stream = BUZZ) -> None:
    with closing(SINKS[sink].emitter(settings, stream, batch.producer_id, "")) as emitter:
        emitter.emit(batch)


def consumer(sink: str) -> str:
    return f"consumers.{sink}_consumer_case"


Case = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def case(settings: Settings) -> Case:
    return lambda sink, *options: run_here(consumer(sink), *options, settings=settings)


def ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def stored(sink: str, settings: Settings, stream: str = BUZZ.name) -> int:
    path = settings.processed_path(sink, stream)
    if not path.exists():
        return 0
    try:
        return int(ask(path, "SELECT count(*) FROM records")[0][0])
    except sqlite3.OperationalError:
        return 0  # just being created


def contents(path: Path) -> list[list[tuple[Any, ...]]]:
    """Return all rows of a store."""
    return [ask(path, f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in ("records", "partitions")]


@pytest.mark.parametrize("sink", EMBEDDED)
def test_a_second_run_with_once_reads_only_new_records(sink: str, settings: Settings, case: Case) -> None:
    emit(sink, settings, 5)
    done = case(sink, "--once", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["source"], summary["run"]["records"], summary["store"]["records"]) == (sink, 5, 5)
    assert summary["summary"]["author"][0] == ["Ann", 5, 0.5, "2026-11-23T19:04:05.123Z"]
    emit(sink, settings, 2, first=6)
    done = case(sink, "--once", "--count", "1")
    assert done.returncode == 0, done.stderr
    assert f"{sink}: 1 record," in done.stdout
    assert "in the store: records 6, external 0, invalid 0, lost 0, duplicate 0, again 0" in done.stdout


def test_a_handle_of_ones_own_is_part_of_the_transaction(settings: Settings) -> None:
    def keep(database: Database, records: list[dict[str, Any]]) -> None:
        database.execute("CREATE TABLE IF NOT EXISTS kept (sequence INTEGER, author TEXT)")
        database.execute_many(
            "INSERT INTO kept VALUES (?, ?)", [(each["sequence"], each["author"]) for each in records]
        )
        if fails:
            raise KeyError("a mistake")

    main, path = consumer_of("file", "live_file", name="kept", handle=keep), settings.processed_path("kept")
    emit("file", settings, 3)
    fails = True
    with pytest.raises(KeyError):
        main(reading=ReadingOptions(once=True), settings=settings)
    assert stored("kept", settings) == 0
    fails = False
    main(reading=ReadingOptions(once=True), settings=settings)
    main(reading=ReadingOptions(once=True), settings=settings)
    emit("file", settings, 2, first=4)
    main(reading=ReadingOptions(once=True), tumbling=Tumbling(every_s=60), settings=settings)
    assert ask(path, "SELECT sequence FROM kept") == [(1,), (2,), (3,), (4,), (5,)]
    assert ask(path, "SELECT SUM(records) FROM windows") == [(2,)]


def test_a_handle_with_a_wrong_statement_ends_the_consumer(settings: Settings) -> None:
    def keep(database: Database, records: list[dict[str, Any]]) -> None:
        database.execute("INSERT INTO missing VALUES (1)")

    emit("file", settings, 3)
    with pytest.raises(ToolkitError, match="the handle of kept: no such table: missing"):
        consumer_of("file", "live_file", name="kept", handle=keep)(settings=settings)


@pytest.mark.parametrize("sink", FILES)
def test_a_position_from_another_file(sink: str, settings: Settings, case: Case) -> None:
    emit(sink, settings, 5)
    case(sink, "--once")
    path = SINKS[sink].path(settings, BUZZ)
    assert path
    path.unlink()
    deliver(sink, settings, make_batch(2, producer_id="bob-2"))
    done = case(sink, "--once")
    assert done.returncode == 0
    assert "was rotated, truncated or rebuilt" in done.stderr
    assert "in the store: records 7," in done.stdout


# Cases that all sinks share


@pytest.mark.parametrize("sink", [*EMBEDDED, AUTO])
def test_stores_of_embedded_sinks_are_local_files(
    sink: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSED_STORE_URL", "no address")
    with closing(StoreReader(sink, "file", settings, ReadingOptions(), threading.Event()).database(BUZZ)):
        assert settings.processed_path("file", BUZZ.name).exists()


@pytest.mark.full
@pytest.mark.parametrize("name", ["ragini_consumer", "alert_consumer", "ragini_visual_consumer", "file_consumer_case"])
def test_a_consumer_that_waits_for_its_stream_ends_quietly(name: str, settings: Settings) -> None:
    options = ("--silent", "1") if name == "alert_consumer" else ()
    with start_python(f"consumers.{name}", "--stream", "later", *options, settings=settings) as process:
        assert process.stderr
        while "waiting" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_from_start_and_end(settings: Settings, case: Case) -> None:
    emit("sqlite", settings, 3)
    done = case("sqlite", "--once", "--json", "--from", "end")
    assert json.loads(done.stdout)["store"]["records"] == 0
    assert json.loads(done.stdout)["run"] == json.loads(done.stdout)["store"]  # both have all names, whatever was read
    emit("sqlite", settings, 2, first=4)
    done = case("sqlite", "--once", "--json", "--from", "start")  # the stored position wins
    store = json.loads(done.stdout)["store"]
    assert (store["records"], store["lost"], store["again"]) == (2, 0, 0)


@pytest.mark.full
def test_two_copies_at_once(settings: Settings) -> None:
    for first in range(1, 30_001, 15_000):
        emit("sqlite", settings, 15_000, first=first)
    copies = [start_python(consumer("sqlite"), "--once", settings=settings) for _ in range(2)]
    ends = [copy.communicate(timeout=100) for copy in copies]
    assert [copy.returncode for copy in copies] == [0, 0], ends
    path = settings.processed_path("sqlite")
    assert ask(path, "SELECT count(*), max(sequence) FROM records") == [(30_000, 30_000)]
    assert ask(path, "SELECT sum(tracker ->> '$.counts.records') FROM partitions") == [(30_000,)]


TICKS = b"""{"symbol":"A","price":10.5,"time":"2026-11-23T19:04:05Z"}
{"symbol":"B","price":"n/a","volume":7,"time":"2026-11-23T19:04:06Z"}
{"symbol":"A","price":12.5,"time":"2026-11-23T19:04:07Z"}
"""


class TestOtherStreams:
    @pytest.mark.full
    def test_a_declared_one_from_every_sink(self, settings: Settings, case: Case) -> None:
        done = run_here(
            "producers.sensor_producer", "--count", "300", "--interval", "0", "--seed", "1", settings=settings
        )
        assert done.returncode == 0, done.stderr
        found = []
        for sink in EMBEDDED:
            summary = json.loads(case(sink, "--stream", "sensors", "--once", "--json").stdout)
            assert (summary["stream"], summary["store"]["records"]) == ("sensors", 300)
            assert summary["store"] | {"external": 0, "invalid": 0, "lost": 0, "duplicate": 0} == summary["store"]
            query = "SELECT * FROM records ORDER BY rowid"
            found.append((summary["summary"], ask(settings.processed_path(sink, "sensors"), query)))
        assert all(each == found[0] for each in found)

    def test_one_without_a_schema_is_inferred(self, settings: Settings, case: Case) -> None:
        path = settings.file_path("ticks")
        path.parent.mkdir()
        path.write_bytes(TICKS.replace(b'"n/a"', b"-1") * 10 + TICKS.splitlines(keepends=True)[1])
        done = case("file", "--stream", "ticks", "--once", "--json")
        summary = json.loads(done.stdout)
        assert summary["store"] | {"records": 31, "external": 31, "invalid": 0} == summary["store"]
        assert summary["summary"]["symbol"] == [
            ["A", 20, 11.5, "2026-11-23T19:04:07.000Z"],
            ["B", 11, -1.0, "2026-11-23T19:04:06.000Z"],
        ]
        shown = case("file", "--stream", "ticks", "--once").stdout
        assert "11.50" in shown and "2026-11-23T19:04:07.000Z" in shown
        query = "SELECT sum(value), sum(record ->> 'volume'), sum(record ->> 'price' = 'n/a') FROM records"
        assert ask(settings.processed_path("file", "ticks"), query) == [(220.0, 77, 1)]
        assert not schema_path("ticks", settings.schema_folder).exists()

    def test_one_that_does_not_exist_yet(self, settings: Settings, case: Case) -> None:
        done = case("file", "--stream", "ticks", "--once")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
        assert "ticks.jsonl does not exist yet" in done.stderr

    def test_a_schema_file_that_is_broken(self, settings: Settings, case: Case) -> None:
        settings.schema_folder.mkdir(parents=True)
        schema_path("ticks", settings.schema_folder).write_text("{")
        done = case("file", "--stream", "ticks", "--once")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "ticks.json" in done.stderr

    def test_a_field_that_was_declared_later_was_stored_before(self, settings: Settings, case: Case) -> None:
        declare(Stream("ticks", fields=(Field("symbol", "text"),)), settings.schema_folder)
        path = settings.file_path("ticks")
        path.write_bytes(TICKS)
        case("file", "--stream", "ticks", "--once")
        declare(Stream("ticks", fields=(Field("symbol", "text"), Field("price", "number"))), settings.schema_folder)
        with path.open("ab") as file:
            file.write(TICKS)
        assert case("file", "--stream", "ticks", "--once").returncode == 0
        found = ask(settings.processed_path("file", "ticks"), "SELECT record ->> 'price' FROM records ORDER BY rowid")
        assert found == [(10.5,), ("n/a",), (12.5,)] * 2

    @pytest.mark.full
    def test_a_window_that_has_closed_is_printed_once(self, settings: Settings) -> None:
        """The consumer may then find nothing to read, or read what closes no other window."""
        settings.data_path.mkdir(exist_ok=True)
        settings.file_path("ticks").write_bytes(TICKS)
        with start_python(consumer("file"), "--stream", "ticks", "--every", "1", settings=settings) as process:
            assert process.stdout is not None
            printed = [process.stdout.readline(), process.stdout.readline()]
            with settings.file_path("ticks").open("ab") as file:
                file.write(TICKS.splitlines(keepends=True)[-1])  # which closes no window
            wait_until(lambda: stored("file", settings, "ticks") == 4)
            pass_time(0.5)
            process.interrupt()
            out, _ = process.communicate(timeout=30)
        assert [line[:20] for line in printed] == ["2026-11-23T19:04:05.", "2026-11-23T19:04:06."]
        assert [line[:20] for line in out.splitlines() if line.startswith("2026")] == ["2026-11-23T19:04:07."]
        assert out.startswith("2026")  # no empty line if no window closes

    @pytest.mark.full
    def test_one_that_appears_while_its_consumer_waits(self, settings: Settings) -> None:
        with start_python(consumer("file"), "--stream", "ticks", settings=settings) as process:
            assert process.stderr is not None
            assert "does not exist yet; waiting" in process.stderr.readline()
            settings.data_path.mkdir(exist_ok=True)
            settings.file_path("ticks").write_bytes(TICKS)
            wait_until(lambda: stored("file", settings, "ticks") == 3)
            process.interrupt()
            out, _ = process.communicate(timeout=30)
        assert (process.returncode, "file: 3 records" in out) == (0, True)


def test_external_text_cannot_steer_the_terminal(settings: Settings, case: Case) -> None:
    settings.live_path.parent.mkdir()
    record = {"message": "x", "author": "A\x1b[2J\u202enn", "producer_id": "a\nok: all is well\n", "sequence": 2}
    settings.live_path.write_text(json.dumps(record) + '\n{"author":"\\u001b[2J"}\nbad \x1b[2J\n', encoding="utf-8")
    done = case("file", "--once")
    assert "A [2J nn" in done.stdout
    assert not set("\x1b\u202e") & set(done.stdout + done.stderr)
    assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ok:")]


@pytest.mark.proof(
    "a consumer stores each record once", "kill -9 of three consumers while a producer runs", full=4, long=100
)
@pytest.mark.timeout(3600)  # for the long setting
def test_killed_at_any_moment_every_record_is_stored_once(
    settings: Settings, case: Case, times: int, long: bool
) -> None:
    least, kills = 200_000 if long else 1_000, times
    rng = random.Random(4)
    options = ("--interval", "0.001", "--drain", "60")
    producer = start_python("producers.sensor_producer", *options, settings=settings)
    while kills > 0 or stored("sqlite", settings, "sensors") < least:
        running = [start_python(consumer(sink), "--stream", "sensors", settings=settings) for sink in EMBEDDED]
        wait_until_all_store_more(settings, "sensors")
        pass_time(rng.uniform(0, 0.6))
        for process in running:
            process.kill()
        for process in running:
            process.communicate()
        kills -= 1
    assert producer.poll() is None
    producer.interrupt()
    _, err = producer.communicate(timeout=100)
    assert producer.returncode == 0, err
    ((total,),) = ask(settings.sqlite_path, "SELECT max(sequence) FROM sensors")
    for sink in EMBEDDED:
        assert case(sink, "--stream", "sensors", "--once").returncode == 0
        path = settings.processed_path(sink, "sensors")
        interrupted = contents(path)
        assert ask(path, "SELECT count(*), count(DISTINCT sequence) FROM records") == [(total, total)]
        path.unlink()
        assert case(sink, "--stream", "sensors", "--once").returncode == 0
        assert interrupted == contents(path)


def wait_until_all_store_more(settings: Settings, stream: str) -> None:
    before = {sink: stored(sink, settings, stream) for sink in EMBEDDED}
    wait_until(lambda: all(stored(sink, settings, stream) > count for sink, count in before.items()), 60)


def pass_time(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end_s)


@pytest.mark.full
def test_ragini_producer_and_consumers_agree(settings: Settings, case: Case) -> None:
    ragini("--count", "500", settings=settings)
    for sink in EMBEDDED:
        case(sink, "--once")
    messages = [ask(settings.processed_path(sink), "SELECT * FROM records ORDER BY rowid") for sink in EMBEDDED]
    assert all(each == messages[0] for each in messages)
    assert len(messages[0]) == 500
