"""A sink is away while a producer runs: the others continue, it catches up by itself, and it is logged once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.emitters.test_contract import hold_duckdb, lock_sqlite
from tests.faults.running import Running
from tests.helpers import (
    assert_complete,
    journal_query,
    last_assigned,
    open_files_stay,
    ragini,
    sequences_in,
    start_python,
    wait_until,
)
from utils.app.config import Settings
from utils.records.stream import BUZZ
from utils.sinks import EMBEDDED, SINKS


@pytest.fixture
def running(settings: Settings) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*options: str) -> Running:
        producer = Running("producers.ragini_producer", "--interval", "0.002", *options, settings=settings)
        started.append(producer)
        wait_until(lambda: journal_is_delivered(settings), 60, "first messages")
        return producer

    yield start
    for producer in started:
        producer.kill()


def journal_is_delivered(settings: Settings) -> bool:
    paths = (SINKS[sink].path(settings, BUZZ) for sink in EMBEDDED)
    return all(path and path.exists() and path.stat().st_size for path in paths)


@contextmanager
def folder_in_place_of(path: Path) -> Iterator[None]:
    """Move the file away and put something there that cannot be opened."""
    aside = path.with_name("aside")
    path.rename(aside)
    path.mkdir()
    yield
    path.rmdir()
    aside.rename(path)


OUTAGES = {"file": folder_in_place_of, "sqlite": lock_sqlite, "duckdb": hold_duckdb}


@pytest.mark.proof(
    "a sink that is down delays no other sink and gets all records when it is up again",
    "a moved file, a locked SQLite database, a DuckDB file that another program keeps open",
    full="each",
)
@pytest.mark.parametrize("sink", OUTAGES)
def test_one_sink_is_down_the_others_continue_and_it_converges(
    sink: str, settings: Settings, running: Callable[..., Running]
) -> None:
    producer = running()
    path = SINKS[sink].path(settings, BUZZ)
    assert path
    healthy = [other for other in EMBEDDED if other != sink]
    with OUTAGES[sink](path):
        wait_until(lambda: producer.lines("unavailable"), 20, "the outage is noticed")
        before = {other: producer.amount(other) for other in healthy}
        wait_until(
            lambda: all(producer.amount(other) > before[other] + 300 for other in healthy), 20, "the others continue"
        )
    wait_until(lambda: producer.lines("delivering again"), 30, "the sink catches up by itself")
    code, out = producer.stop()
    assert (code, out.count(" 0 pending")) == (0, len(EMBEDDED))
    assert [len(producer.lines(word)) for word in ("unavailable", "delivering again")] == [1, 1], producer.log
    assert f"WARNING {sink}: unavailable, records are pending in the journal" in producer.lines("unavailable")[0]
    assert_complete(settings)


@open_files_stay
def test_a_deleted_live_file_is_made_again_and_the_loss_is_named(
    settings: Settings, running: Callable[..., Running]
) -> None:
    producer = running()
    oldest = "SELECT COALESCE(MIN(last - count), 0) FROM batches"
    wait_until(lambda: int(journal_query(settings, oldest)[0][0]) > 100, 20, "every sink has more than 100")
    settings.live_path.unlink()
    wait_until(lambda: settings.live_path.exists() and producer.amount("file") > 100)
    code, _ = producer.stop()
    assert code == 0
    (sequences,) = sequences_in("file", settings).values()
    first = int(sequences[0] or 0)
    assert sequences == list(range(first, last_assigned(settings) + 1))
    (warning,) = producer.lines("replaced by an older copy")
    assert f"1 to {first - 1} have left the journal" in warning
    assert len(producer.lines("deleted, moved or replaced while in use")) == 1
    assert_complete(settings, sinks=["sqlite", "duckdb"])


@pytest.mark.full
def test_the_summary_names_pending_records_of_a_sink_that_stays_away(settings: Settings) -> None:
    ragini("--count", 10, settings=settings)
    with hold_duckdb(settings.duckdb_path):
        done = ragini("--count", 5, "--drain", 1, settings=settings, code=3)
    assert "acknowledged 5; file 5 delivered, 0 pending; sqlite 5 delivered, 0 pending; duckdb 0" in done.stdout
    assert "duckdb 0 delivered, 5 pending (" in done.stdout
    assert "lock is held" in done.stdout
    assert "Traceback" not in done.stderr
    done = ragini("--count", 1, settings=settings)
    assert "duckdb 6 delivered, 0 pending" in done.stdout
    assert last_assigned(settings) == 16
    assert_complete(settings)


BOUND_BY_PERMISSIONS = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, with which permissions do not bind root
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, "-m", "producers.ragini_producer", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="gives up root's rights by a call of Linux")
def test_a_folder_that_cannot_be_written_to(settings: Settings) -> None:
    live = settings.data_path / "live"
    live.mkdir(parents=True)
    live.chmod(0o555)
    options = ("--interval", "0.01", "--live-file", "live/buzz.jsonl", "--drain", "30")
    with start_python(*options, code=BOUND_BY_PERMISSIONS, settings=settings) as process:
        assert process.stderr
        for line in process.stderr:
            if "unavailable" in line:
                assert "file: unavailable" in line
                assert "Permission denied" in line
                break
        live.chmod(0o777)
        for line in process.stderr:
            if "delivering again" in line:
                break
        process.terminate()
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.count(" 0 pending") == 3


@pytest.mark.proof(
    "a sink that is down delays no other sink and gets all records when it is up again",
    "a frozen process that has the lock of SQLite",
    full=1,
)
def test_a_sink_process_that_is_frozen_holds_up_only_its_sink(settings: Settings) -> None:
    """A frozen writer with SQLite's lock delays only its sink, in the shortest possible run."""
    ragini("--count", 1, settings=settings)
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE'); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(settings.sqlite_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        done = ragini("--count", 5, "--drain", 2, settings=settings, code=3)
        holder.kill()
    assert "file 5 delivered, 0 pending" in done.stdout
    assert "sqlite 0 delivered, 5 pending" in done.stdout
    ragini("--count", 1, settings=settings)
    assert last_assigned(settings) == 7
    assert_complete(settings)
