"""The whole way from a producer's records to the sinks, in this process and as a command."""

import json
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from tests.helpers import (
    assert_complete,
    assigned,
    journal_query,
    last_assigned,
    make_messages,
    open_files_stay,
    ragini,
    run_python,
    sequences_in,
    start_python,
    wait_until,
)
from utils.app import signals
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.delivery import producing
from utils.delivery.journal import Journal
from utils.delivery.producing import Session
from utils.records.record import Batch, Line, Message, Record
from utils.records.stream import BUZZ, Stream
from utils.sinks import EMBEDDED, ProducerOptions, RunOptions

Paced = Iterator[tuple[float, Message]]


class Reading(Record):
    device: str
    temperature_c: float
    ok: bool = True


AT_ONCE = ProducerOptions(interval=0)
SENSORS = Stream("sensors", Reading, by="device", value="temperature_c")


@pytest.fixture(autouse=True)
def no_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Replace signal handlers by an event, and return it: setting it simulates Ctrl+C."""
    stop = threading.Event()
    monkeypatch.setattr(signals, "stop_on_signals", lambda: stop)
    return stop


def paced(amount: int, gap: float = 1.0, text: str = "hello") -> Paced:
    return ((gap, message) for message in make_messages(amount, text=text))


def produce(
    settings: Settings, messages: Paced, *, interval_s: float = 0, sinks: tuple[str, ...] = ("file",),
    drop: tuple[str, ...] = (), drain_s: float = 10.0,
) -> int:  # fmt: skip
    making = ProducerOptions(interval=interval_s, sinks=sinks, run=RunOptions(drop=drop, drain=drain_s))
    return producing.produce(BUZZ, "ragini", messages, making, settings)


def test_every_message_is_stamped_and_in_every_sink(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    unstamped = make_messages(5000)
    for message in unstamped:
        message.timestamp = ""
    assert produce(settings, ((1.0, message) for message in unstamped), sinks=EMBEDDED) == 0
    assert_complete(settings)
    assert last_assigned(settings) == 5000
    assert '"timestamp":""' not in settings.live_path.read_text(encoding="utf-8")
    delivered = "; ".join(f"{sink} 5,000 delivered, 0 pending" for sink in EMBEDDED)
    assert capsys.readouterr().out == f"ragini: made 5,000, acknowledged 5,000; {delivered}\n"
    assert journal_query(settings, "SELECT count(*) FROM batches") == [(0,)]


def test_messages_come_at_their_pace(settings: Settings, monkeypatch: pytest.MonkeyPatch, logged: list[str]) -> None:
    waits: list[float] = []
    acknowledged: list[int] = []
    now = [100.0]

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            acknowledged.append(last_assigned(settings))
            now[0] += timeout or 0.0
            return False

    def made() -> Paced:
        for each in paced(5, gap=2.0):
            now[0] += 0.5  # making a record takes time
            yield each

    monkeypatch.setattr("utils.delivery.producing.time.monotonic", lambda: now[0])
    monkeypatch.setattr(signals, "stop_on_signals", Stop)
    assert produce(settings, made(), interval_s=3.0) == 0
    assert [round(wait, 6) for wait in waits if wait > 1] == [5.5] * 4  # the first record comes at once
    assert acknowledged == [1, 2, 3, 4], "a record is acknowledged as soon as it is made"
    assert not [line for line in logged if line.endswith("/s")], "records are logged, not their number"
    assert sum(map(len, sequences_in("file", settings).values())) == 5


def test_a_slow_generator_is_acknowledged_with_the_time_at_which_it_made_each_record(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    now, acknowledged = [1_800_000_000.0], []

    def made() -> Paced:
        for number in range(4):
            acknowledged.append(number - last_assigned(settings))
            now[0] += 0.75
            (message,) = make_messages(1)
            message.timestamp = ""
            yield 1.0, message

    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(producing, "REPORT_EVERY_S", 1e-6)
    assert produce(settings, made()) == 0
    seconds = [json.loads(line)["timestamp"][17:] for line in settings.live_path.read_text("utf-8").splitlines()]
    assert seconds == ["00.750Z", "01.500Z", "02.250Z", "03.000Z"]
    assert max(acknowledged) <= 2, "records are acknowledged before a batch is full"
    assert [line for line in logged if re.fullmatch("INFO 4 acknowledged, .*/s", line)]


def test_huge_bounds_mean_no_bound(settings: Settings) -> None:
    huge = RunOptions(count=10**20, drain=1e300)
    assert (
        producing.produce(BUZZ, "ragini", paced(3), ProducerOptions(interval=0, sinks=("file",), run=huge), settings)
        == 0
    )
    assert settings.live_path.read_text("utf-8").count('"timestamp":"2026-11-23T19:04:05.123Z"') == 3, "their own"


def test_records_that_were_made_before_their_source_broke_are_acknowledged_once(settings: Settings) -> None:
    def broken() -> Paced:
        yield from paced(7)
        raise ToolkitError("the recording ends in the middle of a record")

    with pytest.raises(ToolkitError, match="in the middle"):
        produce(settings, broken(), sinks=EMBEDDED)
    assert_complete(settings)
    assert last_assigned(settings) == 7


# Other streams and lines of other programs


def test_a_declared_stream_has_its_columns_and_its_schema_file(settings: Settings) -> None:
    readings = ((1.0, Reading(device=f"d{n % 3}", temperature_c=20 + n / 10)) for n in range(100))
    assert producing.produce(SENSORS, "sensor", readings, AT_ONCE, settings) == 0
    assert (settings.schema_folder / "sensors.json").is_file()
    with closing(sqlite3.connect(settings.sqlite_path)) as connection:
        found = connection.execute("SELECT COUNT(*), AVG(temperature_c), SUM(ok) FROM sensors").fetchall()
    assert found == [(100, pytest.approx(24.95), 100)]
    assert settings.file_path("sensors").read_bytes().count(b"\n") == 100


def test_a_role_that_the_schema_file_has_otherwise_is_named(settings: Settings, logged: list[str]) -> None:
    producing.produce(replace(SENSORS, zones=(18, 24)), "sensor", [], AT_ONCE, settings)
    producing.produce(SENSORS, "sensor", [], AT_ONCE, settings)
    assert not [line for line in logged if "as in the producer" in line]
    producing.produce(replace(SENSORS, value=None, zones=(1, 2)), "sensor", [], AT_ONCE, settings)
    (line,) = [line for line in logged if "as in the producer" in line]
    assert "sensors.json: zones is (18.0, 24.0), not (1, 2) as in the producer: edit this file" in line


def test_fields_without_a_column_are_named_once_and_counted(
    settings: Settings, logged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [b'{"device":"a","temperature_c":%d,"colour":"red"}' % number for number in range(300)]
    given += [b'{"device":"a","temperature_c":"n/a"}'] * 5
    given += [json.dumps(dict.fromkeys((f"{number:060}" for number in range(150)), 1)).encode()]  # the names are values
    lines = [Line(each, "2026-11-23T19:04:05.123Z") for each in given]
    run, stop = AT_ONCE.run, threading.Event()
    with producing.session(SENSORS, "sensor", settings, sinks=AT_ONCE.sinks, run=run, stop=stop) as opened:
        for start in range(0, len(lines), 64):
            batch, rejected = opened.batch(lines[start : start + 64])
            assert not rejected
            opened.append(batch)
    assert opened.code == 0
    named = [line.split("'")[1::2] for line in logged if "no column takes a value of" in line]
    assert named == [["colour"], ["temperature_c", *["0" * 50] * 98]]
    out = capsys.readouterr().out
    assert f"in extra: colour 300, (others) 52, temperature_c 5, {'0' * 50} 1" in out
    assert "0" * 51 not in out
    first = settings.file_path("sensors").read_bytes().splitlines()[0]
    assert first.startswith(b'{"device":"a","temperature_c":0,"colour":"red","timestamp":')


# Records that no sink can store


def test_a_record_that_no_sink_can_store_is_rejected_alone(
    settings: Settings, capsys: pytest.CaptureFixture[str], logged: list[str]
) -> None:
    messages = make_messages(700)
    messages[2].message = "\ud800"
    messages[550].message = "x" * 300_000
    assert produce(settings, ((1.0, message) for message in messages), sinks=EMBEDDED) == 0
    assert_complete(settings)
    assert last_assigned(settings) == 698
    assert "made 700, acknowledged 698; rejected 2; file 698 delivered" in capsys.readouterr().out
    reasons = [line for line in logged if line.startswith("ERROR record rejected, no sink can store it: ")]
    assert len(reasons) == 2
    assert "Unicode" in reasons[0] and "over the limit" in reasons[1]


def test_a_rejected_record_costs_few_transactions_more(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    appended: list[int] = []
    real = Journal.append

    def counted(self: Journal, batch: Batch, positions: None) -> None:
        appended.append(batch.count)
        real(self, batch, positions)

    monkeypatch.setattr(Journal, "append", counted)
    messages = make_messages(6_000)
    messages[5_000].message = "\ud800"
    assert produce(settings, ((1.0, message) for message in messages)) == 0
    assert sum(appended) == 5_999
    assert len(appended) < 30


# Places


@pytest.mark.parametrize(
    ("sinks", "names"),
    [
        (("file", "sqlite"), {"live_file": "one", "sqlite_file": "one"}),
        (("file", "sqlite"), {"live_file": "sub/../one", "sqlite_file": "one"}),
        (("file", "duckdb"), {"live_file": "link", "duckdb_file": "one"}),
        (("file", "sqlite"), {"live_file": "buzz.sqlite-wal"}),
        (("file", "duckdb"), {"live_file": "buzz.duckdb.wal"}),
        (("sqlite",), {"sqlite_file": "journal/ragini.sqlite"}),
        (("duckdb",), {"duckdb_file": "sub/../journal/ragini.sqlite"}),
        (("file",), {"live_file": "journal/ragini.sqlite-wal"}),
        (("file",), {"live_file": "journal/ragini.pid"}),
        (("file",), {"live_file": "dead_letter/sqlite.jsonl"}),
        (("file",), {"live_file": "logs/ragini_producer.log"}),
        (("file",), {"live_file": "alerts.jsonl"}),
    ],
)
def test_two_sinks_with_one_file_are_one_line(
    settings: Settings, sinks: tuple[str, ...], names: dict[str, str]
) -> None:
    settings.data_path.mkdir(parents=True)
    (settings.data_path / "sub").mkdir()
    if "link" in names.values():
        (settings.data_path / "link").symlink_to(settings.data_path / "one")
        if not (settings.data_path / "link").is_symlink():
            pytest.skip("Wine has no symbolic links")
    shared = replace(settings, **{name: Path(each) for name, each in names.items()})  # type: ignore[arg-type]
    with pytest.raises(ToolkitError, match=r"same file|other files belong there") as error:
        produce(shared, paced(5), sinks=sinks)
    assert (error.value.exit_code, str(error.value).count("\n")) == (2, 0)
    assert not settings.journal_path("ragini").exists()


def test_names_of_sinks_that_are_not_in_the_run_are_free(settings: Settings) -> None:
    shared = replace(settings, live_file=Path("one.sqlite"), sqlite_file=Path("one.sqlite"))
    assert produce(shared, paced(5), sinks=("file", "duckdb")) == 0


# Subscriptions


def test_a_message_is_in_all_sinks_soon_after_it_is_acknowledged(settings: Settings) -> None:
    """A generous bound for a busy machine; scripts/bench.py measures the real delay."""
    acknowledged: list[float] = []
    everywhere: list[float] = []

    stop = threading.Event()
    with producing.session(BUZZ, "ragini", settings, sinks=EMBEDDED, run=RunOptions(), stop=stop) as run:
        delivery = run.delivery
        for _, message in paced(6):
            run.append(run.batch([message], Batch.of_records)[0])
            acknowledged.append(time.monotonic())
            with delivery.changed:
                assert delivery.changed.wait_for(lambda: run.journal.pending() == dict.fromkeys(EMBEDDED, 0), 20)
            everywhere.append(time.monotonic())
    assert run.code == 0
    latencies = [end - begin for begin, end in zip(acknowledged, everywhere, strict=True)]
    assert median(latencies) < 1.0, latencies


def test_a_sink_is_subscribed_until_it_is_dropped(
    settings: Settings, logged: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.emitters.sqlite_emitter import SqliteEmitter

    emit = SqliteEmitter.emit

    def emit_later(self: SqliteEmitter, batch: Batch) -> None:
        wait_until(lambda: sum("producing to" in line for line in logged) == 3)  # pending records were logged before
        emit(self, batch)

    assert produce(settings, paced(10), sinks=("file", "sqlite")) == 0
    assert produce(settings, paced(10), sinks=("file",)) == 3
    assert "sqlite 0 delivered, 10 pending (not in this run, --drop sqlite ends that)" in capsys.readouterr().out
    assert [line for line in logged if "sqlite is subscribed since" in line and "--drop sqlite" in line]
    with monkeypatch.context() as patch:
        patch.setattr(SqliteEmitter, "emit", emit_later)
        assert produce(settings, paced(1), sinks=("file", "sqlite")) == 0
    assert [line for line in logged if "sqlite is subscribed since" in line and line.endswith("10 pending")]
    assert_complete(settings, sinks=["file", "sqlite"])
    assert produce(settings, paced(10), sinks=("file",), drop=("sqlite",)) == 0
    assert "sqlite" not in capsys.readouterr().out.splitlines()[-1]
    assert produce(settings, paced(1), sinks=("file", "sqlite")) == 0  # subscribed again, from here on
    assert [n for each in sequences_in("sqlite", settings).values() for n in each] == [*range(1, 22), 32]
    assert not [line for line in logged if "older copy" in line]


@pytest.mark.full
def test_delivered_records_are_not_pending_while_their_sink_is_away(settings: Settings, logged: list[str]) -> None:
    assert produce(settings, paced(10), sinks=("sqlite",)) == 0
    with closing(sqlite3.connect(settings.sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert produce(settings, paced(1), sinks=("sqlite",), drain_s=0) == 3
    assert [line for line in logged if "sqlite: unavailable" in line]
    assert not [line for line in logged if line.endswith(" pending")]


def test_a_run_without_any_sink_is_one_line(settings: Settings) -> None:
    with pytest.raises(ToolkitError, match="--sinks"):
        produce(settings, paced(1), sinks=("file",), drop=("file",))
    assert not settings.data_path.exists()


@pytest.mark.proof(
    "a sink that is down delays no other sink and gets all records when it is up again",
    "short runs while a sink is down",
    full=25,
    long=200,
)
def test_short_runs_while_a_sink_is_away_are_delivered_in_order(settings: Settings, times: int) -> None:
    assert produce(settings, paced(2), sinks=EMBEDDED) == 0
    for _ in range(times):
        assert produce(settings, paced(2), sinks=("file",)) == 3
    assert produce(settings, paced(1), sinks=EMBEDDED, drain_s=100) == 0
    assert last_assigned(settings) == 2 * times + 3
    assert_complete(settings)


# Copies, backups and deleted files


def test_a_deleted_journal_needs_nothing(settings: Settings, logged: list[str]) -> None:
    assert produce(settings, paced(10), sinks=EMBEDDED) == 0
    before = assigned(settings)
    shutil.rmtree(settings.journal_path("ragini").parent)
    assert produce(settings, paced(5), sinks=EMBEDDED) == 0
    assert_complete(settings, before | assigned(settings))
    assert not [line for line in logged if line.startswith(("WARNING", "ERROR"))]


def test_a_deleted_sink_gets_all_that_is_in_the_journal(settings: Settings, logged: list[str]) -> None:
    assert produce(settings, paced(10), sinks=EMBEDDED) == 0
    for path in settings.data_path.glob("buzz.sqlite*"):
        path.unlink()
    assert produce(settings, paced(5), sinks=EMBEDDED) == 0
    assert [line for line in logged if line.startswith("WARNING")] == [
        "WARNING sqlite: contains sequences up to 0, but had 10: it was replaced by an older copy; "
        "1 to 10 have left the journal"
    ]
    first, second = assigned(settings).items()
    assert sequences_in("sqlite", settings) == {second[0]: list(second[1])}
    assert_complete(settings, dict([first, second]), ["file", "duckdb"])


@pytest.mark.full
def test_a_sink_replaced_by_its_backup_gets_all_that_is_in_the_journal(settings: Settings) -> None:
    """Another sink is behind, so that the journal has all of it."""
    assert produce(settings, paced(10), sinks=EMBEDDED) == 0
    backups = {path: path.read_bytes() for path in (settings.live_path, settings.sqlite_path, settings.duckdb_path)}
    with closing(sqlite3.connect(settings.sqlite_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert produce(settings, paced(20), sinks=EMBEDDED, drain_s=2) == 3
    for path, content in backups.items():
        path.write_bytes(content)
    assert produce(settings, paced(5), sinks=EMBEDDED) == 0
    assert_complete(settings)
    assert last_assigned(settings) == 35


# A full journal


@pytest.fixture
def small(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a limit that some hundred messages reach."""
    monkeypatch.setattr(producing, "Session", lambda delivery, stop, _: Session(delivery, stop, 50_000))
    return settings


@pytest.mark.full
def test_at_its_limit_the_journal_waits_and_names_each_sink_once(small: Settings, logged: list[str]) -> None:
    """The journal names a blocked sink once, even if it waited for a slow one before."""

    def named() -> list[str]:
        return [line for line in logged if "journal is full" in line and line.endswith("waiting for sqlite")]

    assert produce(small, paced(1), sinks=("file", "sqlite")) == 0
    with closing(sqlite3.connect(small.sqlite_path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        stop = threading.Event()
        with producing.session(BUZZ, "ragini", small, sinks=("file", "sqlite"), run=RunOptions(), stop=stop) as run:
            while run.has_room():
                run.append(run.batch(make_messages(100), Batch.of_records)[0])
            wait_until(lambda: not run.has_room() and named())
            assert not any(run.has_room() for _ in range(100))
            assert len(named()) == 1
            run.max_bytes += run.max_bytes // 2  # more than half of it is full
            assert run.append(run.batch(make_messages(1), Batch.of_records)[0])
            assert not [line for line in logged if "takes records again" in line]
            blocker.rollback()
            for amount in (600, 1, 1):
                assert run.append(run.batch(make_messages(amount), Batch.of_records)[0])
                wait_until(lambda: not any(run.journal.pending().values()))
            assert len([line for line in logged if "takes records again" in line]) == 1
    assert run.code == 0
    assert_complete(small, sinks=["file", "sqlite"])


def test_a_full_journal_does_not_wait_for_a_failed_sink(
    small: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sink whose worker has ended cannot make room, even after the sink was fixed."""
    from utils.emitters.sqlite_emitter import SqliteEmitter

    def spoilt(self: SqliteEmitter, batch: Batch) -> None:
        raise ToolkitError("that is no database any more")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteEmitter, "emit", spoilt)
        with pytest.raises(ToolkitError, match=r"journal is full .* sqlite takes nothing: that is no data") as error:
            produce(small, paced(8_000), sinks=("file", "sqlite"))
    assert (error.value.exit_code, str(error.value).count("\n")) == (3, 0)
    out = capsys.readouterr().out
    assert "(that is no database any more)" in out
    assert produce(small, paced(1), sinks=("file", "sqlite")) == 0
    assert_complete(small, sinks=["file", "sqlite"])
    assert 100 < last_assigned(small) < 8_000


def test_a_full_journal_does_not_wait_for_a_sink_outside_of_the_run(small: Settings) -> None:
    assert produce(small, paced(1), sinks=("file", "sqlite")) == 0
    with pytest.raises(ToolkitError, match=r"sqlite takes nothing: it is not in this run: .*--drop") as error:
        produce(small, paced(8_000), sinks=("file",))
    assert error.value.exit_code == 3
    assert produce(small, paced(8_000), sinks=("file",), drop=("sqlite",)) == 0


def test_a_full_journal_can_be_stopped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, no_signal_handlers: threading.Event,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(self: Journal, batch: Batch, positions: None) -> None:
        no_signal_handlers.set()
        raise Unavailable("database or disk is full")

    monkeypatch.setattr(Journal, "append", full)
    assert produce(settings, paced(10)) == 0  # nothing was acknowledged, so nothing is pending
    assert "made 10, acknowledged 0; file 0 delivered, 0 pending" in capsys.readouterr().out


# Sinks that fail


def test_a_rejected_row_is_in_the_summary_and_the_dead_letters(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.data_path.mkdir(parents=True)
    with closing(sqlite3.connect(settings.sqlite_path)) as connection, connection:
        connection.execute("CREATE TABLE streamed_messages (message TEXT CHECK (message <> 'hello 7'), author TEXT)")
    assert produce(settings, paced(10), sinks=("file", "sqlite")) == 0
    assert "sqlite 9 delivered, 0 pending, 1 dead letters" in capsys.readouterr().out
    assert '"reason":"CHECK constraint failed' in settings.dead_letter_path("sqlite").read_text(encoding="utf-8")
    (sequences,) = sequences_in("sqlite", settings).values()
    assert sequences == [1, 2, 3, 4, 5, 6, 8, 9, 10]


def test_a_sink_that_is_no_database_is_one_line_before_anything_is_made(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    settings.sqlite_path.write_text("no database " * 100)
    with pytest.raises(ToolkitError, match="is not a SQLite database") as error:
        produce(settings, paced(10), sinks=EMBEDDED)
    assert error.value.exit_code == 2
    assert last_assigned(settings) == 0


# As a command


@pytest.mark.slow
def test_a_million(settings: Settings) -> None:
    amount = 1_000_000
    done = ragini("--count", amount, "--drain", 100, settings=settings)
    assert done.stdout.count(f"{amount:,} delivered, 0 pending") == len(EMBEDDED)
    assert last_assigned(settings) == amount
    assert_complete(settings)


@pytest.mark.full
@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_errors_are_one_line_and_the_traceback_is_in_the_log_file_on_demand(settings: Settings, level: str) -> None:
    settings.data_path.mkdir(parents=True)
    settings.duckdb_path.write_text("no database " * 1000)
    done = ragini("--count", 1, "--log-level", level, settings=settings, code=2)
    (line,) = [line for line in done.stderr.splitlines() if "producers.ragini_producer:" in line]
    assert "cannot be opened as a DuckDB database" in line
    assert "Traceback" not in done.stderr
    log = settings.data_path / "logs" / "ragini_producer.log"
    assert (log.exists() and "Traceback" in log.read_text(encoding="utf-8")) == (level == "DEBUG")


@pytest.mark.full
@open_files_stay
def test_a_data_folder_that_is_deleted_ends_the_run_in_one_line(settings: Settings) -> None:
    with start_python("producers.ragini_producer", "--interval", "0.2", settings=settings) as process:
        wait_until(lambda: settings.live_path.exists() and settings.live_path.stat().st_size)
        settings.data_path.rename(settings.data_path.with_name("gone"))  # all files in one step
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "was deleted, moved or replaced while in use: start again" in err
    assert "unlinking" not in err  # not the words of the lock's library


def test_a_password_never_reaches_the_logs(settings: Settings) -> None:
    secret = "s3cr3t-Pa55word"
    code = f"""
import sys
from pathlib import Path
from loguru import logger
from utils.app import cli
from utils.app.config import DEFAULTS, Settings
from utils.app.errors import ToolkitError
def main(settings: Settings = DEFAULTS) -> int:
    logger.info("connecting with {secret}")
    try:
        raise ValueError("broker rejected {secret}")
    except ValueError as error:
        logger.opt(exception=error).error("failed: {{}}", error)
        raise ToolkitError("could not use {secret}") from error
sys.exit(cli.run(main, name="producers.test"))
"""
    done = run_python(settings=settings, code=code, environment={"KAFKA_PASSWORD": secret, "LOG_LEVEL": "DEBUG"})
    logs = "".join(path.read_text(encoding="utf-8") for path in settings.data_path.rglob("*.log"))
    assert secret not in done.stdout + done.stderr + logs
    assert "failed: broker rejected ***" in logs


HIDDEN = """
import os, sys, types
import cyclopts, duckdb, loguru, msgspec, numpy, rich.progress  # libraries know the real system
import portalocker.portalocker  # has a Windows half of its own, chosen by the system's name
sys.platform = "win32"
sys.modules["colorama"] = types.SimpleNamespace(just_fix_windows_console=lambda: None)  # loguru brings it there
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "posix_ipc"}:
            raise ModuleNotFoundError(f"no module named {name} on this platform", name=name)
sys.meta_path.insert(0, Hide())
for name in ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty"):
    sys.modules.pop(name, None)
for name in ("fork", "forkpty", "geteuid", "getuid", "setuid", "chown", "fchmod", "getpgid", "killpg", "mkfifo",
             "uname", "nice", "fdatasync", "pread", "pwrite", "posix_fadvise", "O_DIRECTORY", "O_NOFOLLOW"):
    if hasattr(os, name):
        delattr(os, name)
from utils.app import cli
from producers import ragini_producer
sys.exit(cli.run(ragini_producer.main, name="producers.ragini_producer"))
"""


@pytest.mark.full
def test_the_main_path_needs_nothing_that_only_posix_has(settings: Settings) -> None:
    for _ in range(2):
        done = run_python("--interval", "0", "--count", "500", code=HIDDEN, settings=settings)
        assert done.returncode == 0, done.stderr
    assert last_assigned(settings) == 1000
    assert_complete(settings)
