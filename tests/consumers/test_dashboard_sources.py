"""Real sources that fail under the dashboard: it names time and reason, recovers, and counts nothing twice."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from consumers.dashboard.snapshot import Snapshot
from consumers.dashboard.state import State
from consumers.ragini_visual_consumer import Reader
from tests.helpers import make_batch, moving_open_files, open_files_stay, wait_until
from utils import sinks
from utils.app.config import Settings
from utils.app.errors import Unavailable
from utils.records.stream import BUZZ
from utils.sources import auto_source


class Watched:
    """A reader of a sink that the test writes to."""

    def __init__(self, name: str, sink: str, settings: Settings, start: str = "") -> None:
        settings.data_path.mkdir(parents=True, exist_ok=True)
        self.sink, self.settings, self.stop = sink, settings, threading.Event()
        self.state = State(BUZZ, name, from_end=start == "end")
        source = sinks.source(name, settings, BUZZ, lambda partition: start)
        self.reader = Reader(source, self.state, self.stop)

    def write(self, first: int, last: int) -> None:
        def stored() -> bool:
            try:
                with closing(sinks.SINKS[self.sink].emitter(self.settings, BUZZ, "ann-1", "")) as emitter:
                    emitter.emit(make_batch(last - first + 1, first=first))
            except Unavailable:  # DuckDB files are read and written in turns
                return False
            return True

        wait_until(stored)

    def snapshot(self, ready: Callable[[Snapshot], object]) -> Snapshot:
        wait_until(lambda: ready(self.state.snapshot()), timeout_s=20)
        return self.state.snapshot()


@pytest.fixture(params=["file", "sqlite", "duckdb"])
def watched(request: pytest.FixtureRequest, settings: Settings) -> Watched:
    return Watched(request.param, request.param, settings)


def run(watched: Watched) -> Watched:
    watched.reader.start()
    return watched


def end(watched: Watched) -> None:
    watched.stop.set()
    watched.reader.join(20)
    assert watched.reader.failure is None


@pytest.mark.parametrize("auto", [False, pytest.param(True, marks=pytest.mark.full)])  # it checks every 2 s
def test_sink_that_comes_later_is_waited_for_calmly(watched: Watched, auto: bool) -> None:
    if auto:
        watched = Watched("auto", watched.sink, watched.settings)
    run(watched)
    snapshot = watched.state.snapshot()
    assert (snapshot.status, snapshot.source.trouble_since) == ("WAITING", None)
    watched.write(1, 30)
    snapshot = watched.snapshot(lambda snapshot: snapshot.total)
    assert (snapshot.total, snapshot.lost, snapshot.source.trouble_since) == (30, 0, None)
    end(watched)


def test_sink_that_is_deleted_and_made_again_counts_nothing_twice(watched: Watched) -> None:
    watched.write(1, 30)
    run(watched)
    watched.snapshot(lambda snapshot: snapshot.total == 30)
    for path in watched.settings.data_path.glob("*"):
        if path.is_file():
            with moving_open_files():
                path.unlink()
    watched.write(1, 45)  # rebuilt from a backup or by the journal, with its former records
    snapshot = watched.snapshot(lambda snapshot: snapshot.total >= 45)
    assert (snapshot.total, snapshot.lost, snapshot.duplicate, snapshot.source.trouble_since) == (45, 0, 0, None)
    end(watched)


@open_files_stay
def test_rotated_file_is_read_on(settings: Settings) -> None:
    watched = run(Watched("file", "file", settings))
    watched.write(1, 30)
    watched.snapshot(lambda snapshot: snapshot.total == 30)
    assert watched.reader.looked.wait(20)
    settings.live_path.rename(settings.live_path.with_suffix(".1"))
    watched.write(31, 60)
    snapshot = watched.snapshot(lambda snapshot: snapshot.total == 60)
    assert (snapshot.lost, snapshot.duplicate, snapshot.status) == (0, 0, "LIVE")
    end(watched)


def test_locked_database_is_named_and_heals(settings: Settings) -> None:
    watched = Watched("sqlite", "sqlite", settings)
    watched.write(1, 30)
    lock = sqlite3.connect(settings.sqlite_path, isolation_level=None)
    try:
        lock.execute("PRAGMA locking_mode = EXCLUSIVE")
        lock.execute("PRAGMA journal_mode = DELETE")
        lock.execute("BEGIN EXCLUSIVE")
        run(watched)
        snapshot = watched.snapshot(lambda snapshot: snapshot.source.trouble_since)
        assert snapshot.total == 0
        assert "locked" in snapshot.source.trouble
        lock.execute("COMMIT")
    finally:
        lock.close()
    watched.write(31, 40)
    snapshot = watched.snapshot(lambda snapshot: snapshot.total == 40)
    assert (snapshot.lost, snapshot.duplicate, snapshot.source.trouble_since) == (0, 0, None)
    end(watched)


def test_source_that_fails_is_named_even_before_the_first_message(settings: Settings) -> None:
    watched = Watched("auto", "sqlite", settings)
    settings.sqlite_path.write_text("no database at all" * 100)
    run(watched)
    reason = watched.snapshot(lambda snapshot: snapshot.source.trouble).source.trouble
    assert "buzz.sqlite is not a SQLite database" in reason
    assert "yet" not in reason
    end(watched)


def test_from_the_end_holds_for_the_source_that_is_taken_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next source shows what came since the first one's start, and nothing older: all ends were noted then."""
    monkeypatch.setattr(auto_source, "GIVE_UP_S", 0.0)
    watched, second = Watched("auto", "file", settings, start="end"), Watched("auto", "sqlite", settings)
    for each in (watched, second):
        each.write(1, 30)
    run(watched)
    watched.snapshot(lambda snapshot: snapshot.source.name == "file")
    for each in (watched, second):
        each.write(31, 40)
    watched.snapshot(lambda snapshot: snapshot.total == 10)
    with moving_open_files():
        settings.live_path.unlink()
    settings.live_path.mkdir()
    watched.snapshot(lambda snapshot: snapshot.source.name == "sqlite" and snapshot.total)
    second.write(41, 45)
    snapshot = watched.snapshot(lambda snapshot: snapshot.total == 15)
    assert (snapshot.total, snapshot.lost, snapshot.duplicate) == (15, 0, 0)
    end(watched)
