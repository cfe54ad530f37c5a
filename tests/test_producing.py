"""The whole way from a producer's messages to the sinks, in this process and as a command."""

import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from tests.emitters.test_contract import hold_duckdb
from tests.helpers import (
    assert_complete,
    held,
    journal_query,
    make_messages,
    producer_ids,
    ragini,
    run_python,
    start_python,
    wait_until,
)
from utils.app import signals
from utils.app.config import EMBEDDED_SINKS, Run, Settings, SinkName
from utils.app.errors import ToolkitError, Unavailable
from utils.delivery import producing
from utils.delivery.journal import Journal
from utils.records.record import Message

Paced = Iterator[tuple[float, Message]]


@pytest.fixture(autouse=True)
def no_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The event that Ctrl+C would set."""
    stop = threading.Event()
    monkeypatch.setattr(signals, "stop_on_signals", lambda: stop)
    return stop


def paced(amount: int, gap: float = 1.0, text: str = "hello") -> Paced:
    return ((gap, message) for message in make_messages(amount, text=text))


def produce(
    settings: Settings, messages: Paced, *, interval_s: float = 0, sinks: tuple[SinkName, ...] = ("file",),
    forget: tuple[SinkName, ...] = (), adopt: bool = False,
) -> int:  # fmt: skip
    return producing.produce(
        "ragini", messages, settings, interval_s=interval_s, sinks=sinks, run=Run(forget=forget, adopt=adopt)
    )


def test_every_message_is_stamped_and_in_every_sink(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert produce(settings, paced(5000), sinks=EMBEDDED_SINKS) == 0
    (producer_id,) = producer_ids(settings)
    assert_complete(settings, {producer_id: 5000})
    assert '"timestamp":""' not in settings.live_path.read_text(encoding="utf-8")
    assert capsys.readouterr().out == (
        "ragini: made 5,000, acknowledged 5,000; file 5,000 delivered, 0 waiting; "
        "sqlite 5,000 delivered, 0 waiting; duckdb 5,000 delivered, 0 waiting\n"
    )
    assert journal_query(settings, "SELECT count(*) FROM batches") == [(0,)]


def test_messages_come_at_their_pace(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    now = [100.0]

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            now[0] += timeout or 0.0
            return False

    monkeypatch.setattr("utils.delivery.producing.time.monotonic", lambda: now[0])
    monkeypatch.setattr(signals, "stop_on_signals", Stop)
    assert produce(settings, paced(5, gap=2.0), interval_s=3.0) == 0
    assert [round(wait, 6) for wait in waits if wait > 1] == [6.0] * 4  # the first one at once
    assert sum(map(len, held("file", settings).values())) == 5


def test_bounds_that_no_library_takes_are_as_good_as_none(settings: Settings) -> None:
    huge = Run(count=10**20, drain=1e300)
    assert producing.produce("ragini", paced(3), settings, interval_s=0, sinks=("file",), run=huge) == 0


def test_two_sinks_never_share_a_file(settings: Settings) -> None:
    shared = replace(settings, live_file=Path("one.sqlite"), sqlite_file=Path("one.sqlite"))
    with pytest.raises(ToolkitError, match="two sinks have the same file"):
        produce(shared, paced(5), sinks=EMBEDDED_SINKS)
    assert produce(shared, paced(5), sinks=("file", "duckdb")) == 0


def test_what_no_sink_could_hold_is_refused_alone(
    settings: Settings, capsys: pytest.CaptureFixture[str], said: list[str]
) -> None:
    messages = make_messages(7)
    messages[2].message = "\ud800"
    messages[5].message = "x" * 300_000
    assert produce(settings, ((1.0, message) for message in messages), sinks=EMBEDDED_SINKS) == 0
    assert_complete(settings, {producer_ids(settings)[0]: 5})
    assert "made 7, acknowledged 5; refused 2; file 5 delivered" in capsys.readouterr().out
    assert len([line for line in said if line.startswith("ERROR message refused")]) == 2


def test_a_message_is_in_all_sinks_soon_after_it_is_acknowledged(settings: Settings) -> None:
    """The bound is generous for a busy machine; scripts/bench_throughput.py measures."""
    acknowledged: list[float] = []
    everywhere: list[float] = []

    class OneByOne(producing.Producer):
        def run(self, messages: producing.Paced) -> None:
            for number, (_, message) in enumerate(messages, 1):
                self._append([message])
                acknowledged.append(time.monotonic())
                with self._delivery.changed:
                    assert self._delivery.changed.wait_for(lambda: self._delivery.held_by_all() == number, 20)  # noqa: B023
                everywhere.append(time.monotonic())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(producing, "Producer", OneByOne)
        assert produce(settings, paced(6), sinks=EMBEDDED_SINKS) == 0
    latencies = [end - begin for begin, end in zip(acknowledged, everywhere, strict=True)]
    assert median(latencies) < 1.0, latencies


def test_a_sink_is_owed_until_it_is_forgotten(
    settings: Settings, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert produce(settings, paced(10), sinks=("file", "sqlite")) == 0
    assert produce(settings, paced(10), sinks=("file",)) == 3
    assert "sqlite not in this run, up to 10 waiting" in capsys.readouterr().out
    assert [line for line in said if "sqlite is owed every message since" in line and "--forget sqlite" in line]
    assert produce(settings, paced(1), sinks=("file", "sqlite")) == 0
    assert [line for line in said if "sqlite is owed 10 messages" in line]
    assert_complete(settings, {producer_ids(settings)[0]: 21}, ["file", "sqlite"])
    assert produce(settings, paced(10), sinks=("file",), forget=("sqlite",)) == 0
    assert "sqlite" not in capsys.readouterr().out.splitlines()[-1]
    assert produce(settings, paced(1), sinks=("file", "sqlite")) == 0  # enabled again: owed from here on
    (sequences,) = held("sqlite", settings).values()
    assert sequences == [*range(1, 22), 32]
    assert not [line for line in said if "lacks" in line]


def test_what_was_delivered_is_not_owed_while_its_sink_is_away(settings: Settings, said: list[str]) -> None:
    assert produce(settings, paced(10)) == 0
    settings.live_path.rename(settings.data_path / "away")
    settings.live_path.mkdir()
    assert produce(settings, paced(1)) == 3
    assert [line for line in said if "file: unavailable" in line]
    assert not [line for line in said if "is owed" in line]


def test_nothing_left_to_produce_to(settings: Settings) -> None:
    with pytest.raises(ToolkitError, match="--sinks"):
        produce(settings, paced(1), sinks=("file",), forget=("file",))
    assert not settings.data_path.exists()


def test_a_journal_from_a_backup_goes_on_under_a_new_id(settings: Settings, said: list[str]) -> None:
    """Restored into the same file, so only the sinks can tell."""
    path = settings.journal_path("ragini")
    assert produce(settings, paced(10), sinks=EMBEDDED_SINKS) == 0
    backup = path.read_bytes()
    assert produce(settings, paced(20), sinks=EMBEDDED_SINKS) == 0
    with path.open("r+b") as file:
        file.write(backup)
        file.truncate()
    (old,) = producer_ids(settings)
    assert produce(settings, paced(5), sinks=EMBEDDED_SINKS) == 0
    assert producer_ids(settings)[0] == old
    (new,) = producer_ids(settings)[1:]
    assert_complete(settings, {old: 30, new: 5})
    assert [line for line in said if "rolled back" in line]
    before = len(said)
    assert produce(settings, paced(5), sinks=EMBEDDED_SINKS) == 0
    assert_complete(settings, {old: 30, new: 10})
    assert not [line for line in said[before:] if "rolled back" in line]


def test_a_copied_folder_is_refused_until_adopted(settings: Settings, tmp_path: Path) -> None:
    assert produce(settings, paced(10), sinks=EMBEDDED_SINKS) == 0
    (old,) = producer_ids(settings)
    shutil.copytree(settings.data_path, tmp_path / "copy")
    copy = Settings(data_dir=tmp_path / "copy")
    with pytest.raises(ToolkitError, match="--adopt") as error:
        produce(copy, paced(1), sinks=EMBEDDED_SINKS)
    assert error.value.exit_code == 2
    assert produce(copy, paced(3), sinks=EMBEDDED_SINKS, adopt=True) == 0
    (new,) = producer_ids(copy)[1:]
    assert_complete(copy, {old: 10, new: 3})
    assert produce(settings, paced(1), sinks=EMBEDDED_SINKS) == 0
    assert_complete(settings, {old: 11})


def test_a_sink_that_was_deleted_is_told_with_the_range(settings: Settings, said: list[str]) -> None:
    assert produce(settings, paced(10), sinks=EMBEDDED_SINKS) == 0
    for path in settings.data_path.glob("buzz.sqlite*"):
        path.unlink()
    assert produce(settings, paced(5), sinks=EMBEDDED_SINKS) == 0
    (producer_id,) = producer_ids(settings)
    assert [line for line in said if "lacks" in line] == [
        f"WARNING sqlite: lacks sequences 1-10 of {producer_id}, which the journal no longer holds: "
        "was it deleted or restored?"
    ]
    assert held("sqlite", settings) == {producer_id: [11, 12, 13, 14, 15]}
    assert_complete(settings, {producer_id: 15}, ["file", "duckdb"])


def test_at_its_limit_the_journal_waits_and_names_the_sink(
    settings: Settings, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_init = Journal.__init__

    def small(self: Journal, path: Path, *, max_bytes: int = 0, adopt: bool = False) -> None:
        real_init(self, path, max_bytes=50_000, adopt=adopt)

    monkeypatch.setattr(Journal, "__init__", small)
    assert produce(settings, paced(1), sinks=("file", "sqlite")) == 0
    blocker = sqlite3.connect(settings.sqlite_path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    told = threading.Event()

    def release() -> None:
        wait_until(lambda: any("journal is full" in line for line in said), 30)
        told.set()
        blocker.rollback()

    releaser = threading.Thread(target=release)
    releaser.start()
    assert produce(settings, paced(8_000), sinks=("file", "sqlite")) == 0
    releaser.join()
    blocker.close()
    assert told.is_set()
    assert len([line for line in said if "journal is full" in line and line.endswith("waiting for sqlite")]) == 1
    assert_complete(settings, {producer_ids(settings)[0]: 8_001}, ["file", "sqlite"])


def test_a_full_journal_can_be_stopped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, no_signal_handlers: threading.Event,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(self: Journal, batch: list[Message], *, delivered: int = 0) -> None:
        no_signal_handlers.set()
        raise Unavailable("database or disk is full")

    monkeypatch.setattr(Journal, "append", full)
    assert produce(settings, paced(10)) == 0  # nothing was acknowledged, so nothing waits
    assert "acknowledged 0; file 0 delivered, 0 waiting" in capsys.readouterr().out


def test_a_refused_row_is_in_the_summary_and_the_dead_letter(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.data_path.mkdir(parents=True)
    with closing(sqlite3.connect(settings.sqlite_path)) as connection, connection:
        connection.execute("CREATE TABLE streamed_messages (message TEXT CHECK (message <> 'hello 7'), author TEXT)")
    assert produce(settings, paced(10), sinks=("file", "sqlite")) == 0
    assert "sqlite 9 delivered, 0 waiting, 1 dead letters" in capsys.readouterr().out
    assert '"reason":"CHECK constraint failed' in settings.dead_letter_path("sqlite").read_text(encoding="utf-8")
    (sequences,) = held("sqlite", settings).values()
    assert sequences == [1, 2, 3, 4, 5, 6, 8, 9, 10]


def test_a_sink_that_is_no_database_is_told_before_anything_is_made(settings: Settings) -> None:
    settings.data_path.mkdir(parents=True)
    settings.sqlite_path.write_text("no database " * 100)
    with pytest.raises(ToolkitError, match="is not a SQLite database"):
        produce(settings, paced(10), sinks=EMBEDDED_SINKS)
    assert journal_query(settings, "SELECT last FROM state") == [(0,)]


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_a_folder_that_duckdb_cannot_write_in_is_told_before_anything_is_made(settings: Settings) -> None:
    with pytest.raises(ToolkitError, match="another --data-dir"):
        produce(replace(settings, data_dir=settings.data_dir / "why?"), paced(1), sinks=("duckdb",))


def test_a_bug_in_one_worker_leaves_the_others_and_exit_code_3(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from utils.emitters.file_emitter import FileEmitter

    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    monkeypatch.setattr(FileEmitter, "emit", lambda self, batch: 1 / 0)
    assert produce(settings, paced(10), sinks=EMBEDDED_SINKS) == 3
    assert "file 0 delivered, 10 waiting; sqlite 10 delivered" in capsys.readouterr().out


# As a command


def test_a_million_in_small(settings: Settings, long: bool) -> None:
    amount = 1_000_000 if long else 60_000
    done = ragini("--count", amount, "--drain", 100, settings=settings)
    assert done.stdout.count(f"{amount:,} delivered, 0 waiting") == 3
    assert_complete(settings, {producer_ids(settings)[0]: amount})


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


def test_a_journal_in_use_is_told_with_the_process(settings: Settings) -> None:
    with start_python("producers.ragini_producer", "--interval", "60", settings=settings) as process:
        assert process.stderr
        assert any("producing to" in line for line in process.stderr)
        done = ragini("--count", 1, settings=settings, code=2)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert f"is in use by process {process.pid}: stop it first" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted there")
def test_a_data_folder_that_is_deleted_ends_the_run_in_one_line(settings: Settings) -> None:
    with start_python("producers.ragini_producer", "--interval", "0.2", settings=settings) as process:
        wait_until(lambda: settings.live_path.exists() and settings.live_path.stat().st_size)
        settings.data_path.rename(settings.data_path.with_name("gone"))  # at once, not file by file while it writes
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "was deleted or replaced while in use" in err
    assert "unlinking" not in err  # the lock's library has its own words for it


def test_a_notebook_that_holds_duckdb_is_named(settings: Settings) -> None:
    ragini("--count", 1, settings=settings)
    with hold_duckdb(settings.duckdb_path):
        done = ragini("--count", 1, "--drain", 1, settings=settings, code=3)
    assert "duckdb: unavailable, messages wait in the journal" in done.stderr
    assert "Conflicting lock is held in" in done.stderr


def test_a_password_never_reaches_the_logs(settings: Settings) -> None:
    secret = "s3cr3t-Pa55word"
    code = f"""
import sys
from pathlib import Path
from loguru import logger
from utils.app import cli
from utils.delivery import producing
from utils.app.errors import ToolkitError
def main() -> int:
    logger.info("connecting with {secret}")
    try:
        raise ValueError("broker refused {secret}")
    except ValueError as error:
        logger.opt(exception=error).error("failed: {{}}", error)
        raise ToolkitError("could not use {secret}") from error
sys.exit(cli.run(main, name="producers.test"))
"""
    done = run_python(settings=settings, code=code, environment={"KAFKA_PASSWORD": secret, "LOG_LEVEL": "DEBUG"})
    logs = "".join(path.read_text(encoding="utf-8") for path in settings.data_path.rglob("*.log"))
    everything = done.stdout + done.stderr + logs
    assert secret not in everything
    assert "failed: broker refused ***" in everything


HIDDEN = """
import os, sys
import portalocker.portalocker  # has a Windows half of its own, chosen by the system's name
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


def test_the_main_path_needs_nothing_that_only_posix_has(settings: Settings) -> None:
    for _ in range(2):
        done = run_python("--interval", "0", "--count", "500", code=HIDDEN, settings=settings)
        assert done.returncode == 0, done.stderr
    assert_complete(settings, {producer_ids(settings)[0]: 1000})
