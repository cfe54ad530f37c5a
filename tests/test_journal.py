"""The journal alone: acknowledgement, runs, subscriptions, pruning, restarts, copies, moved files."""

import os
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import lz4.block
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.helpers import make_messages, open_files_stay, start_python
from utils.app.config import Settings
from utils.app.errors import ToolkitError, Unavailable
from utils.clients import sqlite
from utils.delivery import journal as journal_module
from utils.delivery.journal import Journal
from utils.records.record import Batch
from utils.records.stream import BUZZ, Stream


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "ann.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path, BUZZ)) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite.Database
    monkeypatch.setattr(sqlite, "Database", lambda path, wait_s: real(path, wait_s=0.05))


def batch_for(journal: Journal, amount: int, text: str = "hello") -> Batch:
    return Batch.of_records(make_messages(amount, text=text), journal.producer_id, journal.last + 1, BUZZ.codec)


def append(
    journal: Journal, amount: int, reached: dict[str, tuple[int, str]] | None = None, text: str = "hello"
) -> Batch:
    batch = batch_for(journal, amount, text)
    note(journal, reached or {})
    journal.append(batch)
    return batch


def note(journal: Journal, reached: dict[str, tuple[int, str]]) -> None:
    for sink, (place, mark) in reached.items():
        journal.note_reached(sink, place, mark)


def prune(journal: Journal, **reached: int) -> None:
    note(journal, {sink: (place, "") for sink, place in reached.items()})
    journal.prune()


def stored(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as other:
        return other.execute(query).fetchall()


def read_all(journal: Journal, after: int = 0, max_count: int = 10_000) -> list[tuple[str, int]]:
    """Return (producer_id, sequence) of every record after a place."""
    found: list[tuple[str, int]] = []
    while batch := journal.read(after, max_count):
        found += [(batch.producer_id, sequence) for sequence in range(batch.first, batch.last + 1)]
        assert [(record.producer_id, record.sequence) for record in batch.records] == found[-batch.count :]
        after = batch.last
    return found


def test_each_run_has_an_id_of_its_own_and_sequences_continue(path: Path) -> None:
    ids, keys = [], set()
    for run in range(4):
        with closing(Journal(path, BUZZ)) as journal:
            ids.append(journal.producer_id)
            keys.add(journal.key)
            assert journal.producer_id.startswith(f"{journal.key}-")
            batch = append(journal, 5)
            assert (batch.first, batch.last, journal.last) == (5 * run + 1, 5 * run + 5, 5 * run + 5)
            if run % 2:
                journal.prune()
    (key,) = keys
    assert key.startswith("ann-")
    assert len(set(ids)) == 4
    with closing(Journal(path, BUZZ)) as journal:
        assert journal.runs() == {producer_id: 5 * run + 5 for run, producer_id in enumerate(ids)}


def test_a_run_without_records_is_no_run_to_ask_a_sink_for(path: Path) -> None:
    for _ in range(3):
        Journal(path, BUZZ).close()
    with closing(Journal(path, BUZZ)) as journal:
        assert journal.runs() == {}
        assert append(journal, 2).first == 1
        assert list(journal.runs()) == [journal.producer_id]


def test_appended_records_are_on_disk(journal: Journal, path: Path) -> None:
    lines = append(journal, 3).lines
    ((*numbers, packed),) = stored(path, "SELECT run, last, count, lines FROM batches")
    assert (numbers, lz4.block.decompress(packed)) == ([1, 3, 3], lines)
    assert stored(path, "SELECT producer_id, first, last FROM runs") == [(journal.producer_id, 1, 3)]


def test_a_locked_journal_takes_the_same_batch_later(path: Path, impatient: None) -> None:
    with closing(Journal(path, BUZZ)) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        batch = batch_for(journal, 2)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            journal.append(batch)
        assert (journal.last, journal.pending_bytes, journal.read(0, 10)) == (0, 0, None)
        other.execute("ROLLBACK")
        journal.append(batch)
        assert journal.last == 2


@pytest.mark.parametrize("recent", [10, 50_000])
def test_appended_records_are_read_from_memory_or_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr(journal_module, "RECENT_RECORDS", recent)
    appended = b""
    for _ in range(3):
        with closing(Journal(path, BUZZ)) as journal:
            journal.subscribe(["file"])
            appended += b"".join(append(journal, 7).lines for _ in range(3))
            for step in (1, 3, 7, 10, 100):
                reached, pages = 0, []
                while batch := journal.read(reached, step):
                    assert batch.first == reached + 1
                    assert batch.count <= step
                    assert batch.lines.count(batch.producer_id.encode()) == batch.count  # all of one run
                    reached = batch.last
                    pages.append(batch.lines)
                assert (reached, b"".join(pages)) == (journal.last, appended)


def test_a_batch_for_the_sinks_is_bounded_in_bytes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BATCH_BYTES", 2_500)
    for _ in range(6):
        append(journal, 1, text="x" * 1000)
    batch = journal.read(0, 100)
    assert batch is not None
    assert batch.last == 2


def test_memory_of_recent_batches_is_bounded_in_bytes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RECENT_BYTES", 5_000)
    journal.subscribe(["file"])
    for _ in range(20):
        append(journal, 1, text="x" * 1000)
    assert [batch.last for batch in journal._recent][-1] == 20
    assert sum(len(batch.lines) for batch in journal._recent) <= 5_000
    assert [sequence for _, sequence in read_all(journal)] == list(range(1, 21))


def test_subscribed_until_dropped(path: Path) -> None:
    with closing(Journal(path, BUZZ)) as journal:
        journal.subscribe(["file", "sqlite"])
        append(journal, 4)
        journal.subscribe(["file", "duckdb"])
    with closing(Journal(path, BUZZ)) as journal:
        found = journal.subscriptions
        assert {sink: each.after for sink, each in found.items()} == {"file": 0, "sqlite": 0, "duckdb": 4}
        assert found["file"].since.endswith("Z")
        journal.subscribe((), drop=["sqlite"])
    with closing(Journal(path, BUZZ)) as journal:
        assert list(journal.subscriptions) == ["file", "duckdb"]
        journal.subscribe(["sqlite"])
        assert journal.subscriptions["sqlite"].after == 4


def test_sinks_that_are_subscribed_together_have_the_same_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = (f"2026-11-23T19:04:05.{number:03}Z" for number in range(1_000))
    monkeypatch.setattr(journal_module, "present", lambda: next(times))
    with closing(Journal(path, BUZZ)) as journal:
        journal.subscribe(["file", "sqlite", "duckdb"])
        assert len({each.since for each in journal.subscriptions.values()}) == 1


def test_cursor_and_mark_of_a_sink_are_kept(path: Path) -> None:
    with closing(Journal(path, BUZZ)) as journal:
        journal.subscribe(["file", "kafka"])
        journal.note_reached("kafka", 0, "topic/1/17", durable=True)
        assert stored(path, "SELECT mark FROM subscriptions WHERE sink = 'kafka'") == [("topic/1/17",)]
        append(journal, 5)
        append(journal, 5, {"file": (5, ""), "kafka": (3, "topic/1/20")})
        found = journal.subscriptions
        assert (found["file"].reached, found["kafka"].reached, found["kafka"].mark) == (5, 3, "topic/1/20")
    with closing(Journal(path, BUZZ)) as journal:
        assert journal.subscriptions == found


def test_an_append_while_a_mark_is_stored_keeps_it(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.subscribe(["kafka"])
    real = sqlite.Database.transaction

    @contextmanager
    def then_appended(database: sqlite.Database) -> Iterator[sqlite3.Connection]:
        with real(database) as connection:
            yield connection
        monkeypatch.undo()
        append(journal, 1)

    monkeypatch.setattr(sqlite.Database, "transaction", then_appended)
    journal.note_reached("kafka", 0, "topic/1/17", durable=True)
    assert stored(path, "SELECT last, mark FROM runs, subscriptions") == [(1, "topic/1/17")]


def test_rows_that_every_subscribed_sink_has_go_with_an_append_or_a_prune(journal: Journal, path: Path) -> None:
    journal.subscribe(["file", "sqlite"])
    for _ in range(4):
        append(journal, 10)
    append(journal, 10, {"file": (40, ""), "sqlite": (25, "")})
    assert stored(path, "SELECT MIN(last) FROM batches") == [(30,)]  # batches are pruned whole
    pending_bytes = journal.pending_bytes
    prune(journal, file=50)  # this run has no sqlite
    assert stored(path, "SELECT COUNT(*) FROM batches") == [(3,)]
    prune(journal, file=50, sqlite=50)
    assert stored(path, "SELECT COUNT(*) FROM batches") == [(0,)]
    assert pending_bytes > 0
    assert (journal.pending_bytes, journal.pruned) == (0, 50)
    assert append(journal, 1).first == 51


def test_a_later_subscription_keeps_no_older_records(journal: Journal, path: Path) -> None:
    journal.subscribe(["file"])
    append(journal, 10)
    journal.subscribe(["sqlite"])
    append(journal, 10, {"file": (10, "")})
    assert stored(path, "SELECT last FROM batches") == [(20,)]


def test_pruned_records_are_known_after_a_restart(path: Path) -> None:
    with closing(Journal(path, BUZZ)) as journal:
        journal.subscribe(["file"])
        append(journal, 10)
        append(journal, 10, {"file": (10, "")})
    with closing(Journal(path, BUZZ)) as journal:
        assert journal.pruned == 10
        prune(journal, file=20)
    with closing(Journal(path, BUZZ)) as journal:
        assert (journal.pruned, journal.last, journal.pending_bytes) == (20, 20, 0)


def test_records_appended_during_a_query_do_not_count_as_pruned(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink that has caught up would skip them."""
    journal.subscribe(["file"])
    real = sqlite.Database.query

    def then_appended(database: sqlite.Database, statement: str, *values: object) -> list[Any]:
        rows = real(database, statement, *values)
        monkeypatch.undo()
        append(journal, 3)
        return rows

    monkeypatch.setattr(sqlite.Database, "query", then_appended)
    assert journal.pruned == 0
    assert journal.last == 3


def test_a_failed_prune_is_repeated(path: Path, impatient: None) -> None:
    with closing(Journal(path, BUZZ)) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        journal.subscribe(["file"])
        append(journal, 3)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            append(journal, 3, {"file": (3, "")})
        with pytest.raises(Unavailable):
            prune(journal, file=3)
        assert journal.pruned == 0
        other.execute("ROLLBACK")
        prune(journal, file=3)
        assert (journal.pruned, journal.pending_bytes) == (3, 0)


def test_space_is_freed_after_an_outage(path: Path) -> None:
    with closing(Journal(path, BUZZ)) as journal:
        journal.subscribe(["file"])
        for _ in range(20):
            append(journal, 10, text=secrets.token_hex(50_000))
        assert path.stat().st_size + path.with_name(f"{path.name}-wal").stat().st_size > 1_000_000
        prune(journal, file=200)
    assert path.stat().st_size < 1_000_000
    with closing(Journal(path, BUZZ)) as journal:
        assert append(journal, 1).first == 201


def test_of_positions_with_one_prefix_only_the_newest_are_kept(path: Path) -> None:
    names = (*(f"key:{number}" for number in range(5)), "a.log", "kez")
    with closing(Journal(path, BUZZ)) as journal:
        journal.append(batch_for(journal, 1), positions={"a.log": "9", **{name: "1" for name in names[:5]}})
        journal.append(batch_for(journal, 1), positions={"key:0": "2", "kez": "3"})  # key:0 is newest again
        journal.trim_positions("key:", 3)
        assert [journal.position(name) for name in names] == ["2", "", "", "", "1", "9", "3"]
        journal.trim_positions("key:", 3)
        assert [journal.position(name) for name in names] == ["2", "", "", "", "1", "9", "3"]


def test_the_position_of_a_feed_is_stored_with_its_records_or_not_at_all(path: Path, impatient: None) -> None:
    with closing(Journal(path, BUZZ)) as journal, closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert journal.position("a.log") == ""
        journal.append(batch_for(journal, 2), positions={"a.log": "17", "b.log": "3"})
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            journal.append(batch_for(journal, 2), positions={"a.log": "34"})
        other.execute("ROLLBACK")
        assert (journal.position("a.log"), journal.position("b.log"), journal.last) == ("17", "3", 2)
        journal.append(batch_for(journal, 2), positions={"a.log": "34"})
        with pytest.raises(ToolkitError):  # a gap in the sequences
            journal.append(Batch.of_records(make_messages(2), journal.producer_id, 6, BUZZ.codec), {"a.log": "99"})
    with closing(Journal(path, BUZZ)) as journal:
        assert (journal.position("a.log"), journal.position("b.log"), journal.last) == ("34", "3", 4)


# Copies, backups and moved files


def test_a_copied_folder_needs_nothing_and_no_pair_of_ids_comes_twice(path: Path, tmp_path: Path) -> None:
    with closing(Journal(path, BUZZ)) as journal:
        journal.subscribe(["file"])
        append(journal, 5)
        original = journal.producer_id
        copied = shutil.copytree(path.parent, tmp_path / "elsewhere")  # copied while in use, as by a backup
        append(journal, 3)
        with closing(Journal(copied / path.name, BUZZ)) as copy:
            pending = copy.read(0, 100)
            assert pending is not None
            assert (pending.producer_id, pending.last) == (original, 5)
            assert append(copy, 3).first == 6
            assert not set(read_all(copy, 5)) & set(read_all(journal))
            assert copy.subscriptions["file"].after == 0


def test_a_journal_from_a_backup_repeats_sequences_under_a_new_id(path: Path) -> None:
    with closing(Journal(path, BUZZ)) as journal:
        journal.subscribe(["file"])
        append(journal, 5)
    backup = path.read_bytes()
    with closing(Journal(path, BUZZ)) as journal:
        append(journal, 5)
        lost = set(read_all(journal, 5))
    path.write_bytes(backup)
    with closing(Journal(path, BUZZ)) as journal:
        assert append(journal, 5).first == 6
        assert not lost & set(read_all(journal))


@open_files_stay
def test_the_newest_run_owns_the_journal(path: Path) -> None:
    """If the PID file of a running producer is gone, a second one takes over and prunes acknowledged records only."""
    with closing(Journal(path, BUZZ)) as older:
        older.subscribe(["file"])
        append(older, 10)
        for lock in path.parent.glob(f"{path.stem}.pid*"):
            lock.unlink()
        with closing(Journal(path, BUZZ)) as newer:
            with pytest.raises(ToolkitError, match="another process writes to journal") as error:
                append(older, 7)
            assert (error.value.exit_code, str(error.value).count("\n")) == (2, 0)
            assert append(newer, 3).first == 11
            with pytest.raises(ToolkitError, match="another process"):
                append(older, 7)
            prune(newer, file=13)
            assert newer.pruned == 13
            assert append(newer, 2).last == 15
            assert read_all(newer, 13) == [(newer.producer_id, 14), (newer.producer_id, 15)]


HOLD = """
import os, sys
from pathlib import Path
from utils.delivery.journal import Journal
from utils.records.stream import BUZZ
journal = Journal(Path(sys.argv[1]), BUZZ)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_a_journal_in_use_names_the_process(path: Path, settings: Settings) -> None:
    with start_python(path, code=HOLD, settings=settings) as holder:
        assert holder.stdout
        number = int(holder.stdout.readline())
        with pytest.raises(ToolkitError, match=rf"in use by process {number}\b") as error:
            Journal(path, BUZZ)
        assert error.value.exit_code == 2
        holder.kill()
        holder.communicate()
    Journal(path, BUZZ).close()  # a killed process leaves no lock


@open_files_stay
@pytest.mark.parametrize("put_back", [False, True])
@pytest.mark.parametrize("noticed", ["append", "prune", "close"])
def test_a_journal_that_was_moved_while_in_use_is_whole(path: Path, noticed: str, put_back: bool) -> None:
    """A journal moved while it is open is complete: its write-ahead log, left at the old name, is checkpointed."""
    away = path.with_name("away.sqlite")
    journal = Journal(path, BUZZ)
    journal.subscribe(["file"])
    for _ in range(20):
        append(journal, 10)
    lines = journal.read(0, 1000)
    path.rename(away)
    if put_back:
        shutil.copy(away, path)  # same content, but another file
    if noticed != "close":
        with pytest.raises(ToolkitError, match="deleted, moved or replaced") as error:
            append(journal, 10) if noticed == "append" else prune(journal, file=200)
        assert not isinstance(error.value, Unavailable)
        assert (error.value.exit_code, str(error.value).count("\n")) == (2, 0)
        # The moved file is complete even before close, which a second Ctrl+C skips.
        copied = Path(shutil.copy(away, path.with_name("copied.sqlite")))
        assert stored(copied, "SELECT SUM(count) FROM batches") == [(200,)]
    journal.close()
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink()
    with closing(Journal(away, BUZZ)) as moved:
        found = moved.read(0, 1000)
        assert found is not None and lines is not None
        assert (moved.last, found.lines) == (200, lines.lines)


@pytest.mark.skipif(not hasattr(os, "link"), reason="needs hard links")
def test_a_journal_with_two_names_is_rejected(path: Path, tmp_path: Path) -> None:
    """A journal with hard links is rejected, as `cp -al` makes them: each name would have its own write-ahead log."""
    Journal(path, BUZZ).close()
    other = tmp_path / "ann.sqlite"
    os.link(path, other)
    for name in (path, other):
        with pytest.raises(ToolkitError, match="hard links") as error:
            Journal(name, BUZZ)
        assert (error.value.exit_code, str(error.value).count("\n")) == (2, 0)
    other.unlink()
    Journal(path, BUZZ).close()


# Files that are no journal


@pytest.mark.parametrize("spoil", ["external", "newer"])
def test_a_database_that_is_no_journal_is_one_line(path: Path, spoil: str) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE runs (something TEXT)" if spoil == "external" else "PRAGMA user_version = 99")
    with pytest.raises(ToolkitError, match=r"ann\.sqlite") as error:
        Journal(path, BUZZ)
    assert str(error.value).count("\n") == 0
    assert error.value.exit_code == 2
    if spoil == "external":
        assert stored(path, "SELECT name FROM sqlite_master") == [("runs",)]


def test_a_journal_belongs_to_one_stream(path: Path) -> None:
    Journal(path, BUZZ).close()
    with pytest.raises(ToolkitError, match="belongs to stream buzz, not sensors") as error:
        Journal(path, Stream("sensors"))
    assert error.value.exit_code == 2
    Journal(path, BUZZ).close()


def test_locks_are_released_when_opening_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Unavailable("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite.Database, "transaction", fail)
        with pytest.raises(ToolkitError, match="disk I/O error"):
            Journal(path, BUZZ)
    Journal(path, BUZZ).close()


def test_close_waits_for_a_statement_of_another_thread(path: Path) -> None:
    """Closing waits for a running statement: SQLite crashes the process otherwise."""
    path.parent.mkdir()
    database = sqlite.Database(path)
    begun, may_end = threading.Event(), threading.Event()

    def store() -> None:
        with database.transaction() as connection:
            begun.set()
            may_end.wait(10)
            connection.execute("CREATE TABLE stored (a)")

    threads = threading.Thread(target=store), threading.Thread(target=database.close)
    threads[0].start()
    begun.wait(10)
    threads[1].start()
    threads[1].join(0.1)
    assert threads[1].is_alive()
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert stored(path, "SELECT name FROM sqlite_master") == [("stored",)]


# Any history


Step = tuple[str, int]


STEPS = st.tuples(st.sampled_from(["append", "prune", "run", "restore", "backup"]), st.integers(1, 9))


@pytest.mark.proof(
    "an acknowledged record is in every sink, once and in order",
    "random histories of a journal with backups that are restored, against a model",
    quick=40,
)
@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_any_history_loses_nothing_pending_and_no_ids_come_twice(
    tmp_path_factory: pytest.TempPathFactory, history: list[Step]
) -> None:
    """Any history agrees with a model: a list of (producer_id, sequence) in the order of acknowledgement."""
    path = tmp_path_factory.mktemp("history") / "ann.sqlite"
    model: list[tuple[str, int]] = []
    ever: list[tuple[str, int]] = []
    saved: tuple[bytes, list[tuple[str, int]], int] | None = None
    reached = 0
    journal = Journal(path, BUZZ)
    journal.subscribe(["file"])
    for action, number in history:
        match action:
            case "append":
                batch = append(journal, number)
                made = [(batch.producer_id, sequence) for sequence in range(batch.first, batch.last + 1)]
                model += made
                ever += made
            case "prune":
                reached = min(len(model), reached + number)
                prune(journal, file=reached)
            case "run":
                journal.close()
                journal = Journal(path, BUZZ)
            case "backup":
                journal.close()
                saved = path.read_bytes(), list(model), reached
                journal = Journal(path, BUZZ)
            case "restore" if saved:
                journal.close()
                path.write_bytes(saved[0])
                model, reached = list(saved[1]), saved[2]
                journal = Journal(path, BUZZ)
    assert journal.pruned <= reached
    read = read_all(journal, journal.pruned, 4)
    journal.close()
    assert read == model[len(model) - len(read) :]
    assert len(read) >= len(model) - reached
    assert len(set(ever)) == len(ever)
