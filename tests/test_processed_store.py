"""Messages, figures and position in one transaction."""

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import make_messages
from utils.app.errors import PositionMoved, ToolkitError, Unavailable
from utils.clients import sqlite
from utils.reading import store as processed_store
from utils.reading.store import KINDS, VERSION, ProcessedStore
from utils.reading.tracker import COUNTS, MAX_GAPS, MAX_LOST
from utils.records.record import Invalid, Message
from utils.sources.base import Chunk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "processed" / "file.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[ProcessedStore]:
    opened = ProcessedStore(path)
    yield opened
    opened.close()


def chunk(start: str, end: str, messages: list[Message], invalid: int = 0, part: str = "live") -> Chunk:
    return Chunk(part, start, end, messages, [Invalid("live byte 1", "bad")] * invalid)


def ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def counts(**changed: int) -> dict[str, int]:
    return dict.fromkeys(COUNTS, 0) | changed


def ann(first: int, last: int) -> list[Message]:
    return make_messages(last - first + 1, producer_id="ann-1", first=first)


class TestStoring:
    def test_what_processing_adds(self, store: ProcessedStore, path: Path) -> None:
        message = Message("two words", "Ann", "2026-11-23T19:04:05.123Z", "tech", 0.8, "hello", 9)
        assert store.add(chunk("", "1", [message])) == [message]
        query = "SELECT message, author, timestamp, sentiment, label, words, minute, late FROM messages"
        expected = ("two words", "Ann", "2026-11-23T19:04:05.123Z", 0.8, "positive", 2, "2026-11-23T19:04Z", 0)
        assert ask(path, query) == [expected]

    def test_figures(self, store: ProcessedStore) -> None:
        messages = ann(1, 3)
        for number, message in enumerate(messages):
            message.sentiment, message.message_length = number / 4, number
            message.timestamp = f"2026-11-23T19:04:0{number}Z"
        messages[0].author = "Bob"
        store.add(chunk("", "1", messages[:2]))
        store.add(chunk("1", "2", messages[2:]))
        assert store.figures("author") == [
            ("Ann", 2, 0.375, 1.5, "2026-11-23T19:04:02Z"),
            ("Bob", 1, 0.0, 0.0, "2026-11-23T19:04:00Z"),
        ]
        assert store.figures("minute", limit=1) == [("2026-11-23T19:04Z", 3, 0.25, 1.0, "2026-11-23T19:04:02Z")]

    def test_late_is_more_than_a_minute_behind_the_newest_before(self, store: ProcessedStore, path: Path) -> None:
        times = ["19:04:00", "19:05:00", "19:03:59.999", "19:06:00.001", "19:05:00"]
        messages = ann(1, len(times))
        for message, clock in zip(messages, times, strict=True):
            message.timestamp = f"2026-11-23T{clock}Z"
        store.add(chunk("", "1", messages[:2]))
        store.add(chunk("1", "2", messages[2:]))
        assert ask(path, "SELECT late FROM messages ORDER BY id") == [(0,), (0,), (1,), (0,), (1,)]

    def test_a_time_that_is_none_belongs_to_no_minute(self, store: ProcessedStore, path: Path) -> None:
        (message,) = make_messages(1)
        message.timestamp = "yesterday"
        store.add(chunk("", "1", [message]))
        assert ask(path, "SELECT minute, late FROM messages") == [("", 0)]
        assert store.figures("minute") == [("", 1, 0.5, 7.0, None)]

    def test_lengths_that_foreign_records_claim_do_not_overflow(self, store: ProcessedStore) -> None:
        messages = make_messages(3)
        for message in messages:
            message.message_length = 2**63 - 1
        store.add(chunk("", "1", messages))
        assert store.counts()["messages"] == 3

    def test_sequences_that_foreign_records_claim_do_not_overflow(self, store: ProcessedStore) -> None:
        huge = [*ann(1, 1), *ann(2**63 - 1, 2**63 - 1)]
        others = make_messages(1, producer_id="bob-2") + make_messages(1, producer_id="bob-2", first=2**63 - 1)
        store.add(chunk("", "1", [*huge, *others]))
        store.add(chunk("1", "2", ann(2**63 - 1, 2**63 - 1)))
        assert store.counts() == counts(messages=4, lost=2 * MAX_LOST, duplicate=1)

    def test_times_that_a_platform_cannot_tell(self, store: ProcessedStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: float) -> None:
            raise OSError("Invalid argument")

        messages = ann(1, 2)
        messages[0].timestamp, messages[1].timestamp = "3001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"
        with monkeypatch.context() as patch:
            patch.setattr(time, "gmtime", refuse)  # as on Windows for years after 3000
            store.add(chunk("", "1", messages))
        assert {row[0] for row in store.figures("minute")} == {"3001-01-01T00:00Z", ""}

    def test_any_order_is_stored_whole(self, store: ProcessedStore) -> None:
        messages = ann(1, 6 * MAX_GAPS)
        random.Random(1).shuffle(messages)
        for first in range(0, len(messages), 500):
            store.add(chunk(str(first or ""), str(first + 500), messages[first : first + 500]))
        assert store.counts() == counts(messages=len(messages))
        store.add(chunk(str(len(messages)), "x", messages[:500]))
        assert store.counts() == counts(messages=len(messages), duplicate=500)

    def test_counts(self, store: ProcessedStore) -> None:
        store.add(chunk("", "1", [*ann(1, 2), *ann(2, 2), *ann(5, 5), *make_messages(1)], invalid=2))
        assert store.counts() == counts(messages=4, foreign=1, invalid=2, lost=2, duplicate=1)
        store.add(chunk("1", "2", ann(3, 4)))
        assert store.counts() == counts(messages=6, foreign=1, invalid=2, duplicate=1)
        assert dict(store.run) == store.counts()


class TestPositions:
    def test_position_is_kept_per_part(self, store: ProcessedStore, path: Path) -> None:
        store.add(chunk("", "7", ann(1, 1)))
        store.add(chunk("", "9", make_messages(1), part="other"))
        store.close()
        again = ProcessedStore(path)
        assert [again.resume(part) for part in ("live", "other", "third")] == ["7", "9", ""]
        assert again.counts()["messages"] == 2
        again.close()

    def test_another_copy_that_was_faster_wins(self, store: ProcessedStore, path: Path) -> None:
        other = ProcessedStore(path)
        assert (store.resume("live"), other.resume("live")) == ("", "")
        other.add(chunk("", "2", ann(1, 2)))
        with pytest.raises(PositionMoved, match="live"):
            store.add(chunk("", "3", ann(1, 3)))
        assert store.resume("live") == "2"
        store.add(chunk("2", "3", ann(3, 3)))
        assert store.counts() == counts(messages=3)
        other.close()

    def test_a_failure_in_the_middle_stores_nothing(
        self, store: ProcessedStore, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.add(chunk("", "1", ann(1, 1)))
        before = list(snapshot(path))

        def fail(*_: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(ProcessedStore, "_set_position", fail)
            with pytest.raises(MemoryError):
                store.add(chunk("1", "2", ann(2, 3), invalid=1))
        assert list(snapshot(path)) == before
        store.add(chunk("1", "2", ann(2, 3), invalid=1))
        assert store.counts() == counts(messages=3, invalid=1)

    def test_from_the_start_stores_nothing_twice(self, store: ProcessedStore, path: Path) -> None:
        store.add(chunk("", "1", ann(1, 2)))
        store.close()
        again = ProcessedStore(path)
        again.start_from("start")
        assert again.resume("live") == ""
        again.add(chunk("", "1", ann(1, 2)))
        assert again.resume("live") == "1"
        assert again.counts() == counts(messages=2, again=2)
        again.close()

    def test_a_start_that_could_not_be_stored_is_asked_for_again(
        self, store: ProcessedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(connection: sqlite3.Connection) -> Iterator[None]:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")

        store.add(chunk("", "1", ann(1, 2)))
        store.start_from("start")
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "transaction", contextmanager(fail))
            with pytest.raises(Unavailable, match="full"):
                store.resume("live")
        assert store.resume("live") == ""

    def test_from_the_end_passes_over_without_a_loss(self, store: ProcessedStore, path: Path) -> None:
        store.add(chunk("", "1", ann(1, 2)))
        store.close()
        again = ProcessedStore(path)
        again.start_from("end")
        assert again.resume("live") == "end"
        again.add(chunk("end", "9", []))
        again.add(chunk("9", "10", ann(10, 10)))
        again.add(chunk("10", "12", ann(12, 12)))
        assert again.counts() == counts(messages=4, lost=1)
        again.close()

    def test_a_part_that_another_copy_hands_over_does_not_begin_at_its_end(
        self, store: ProcessedStore, path: Path
    ) -> None:
        store.add(chunk("", "1", ann(1, 2)))
        with closing(ProcessedStore(path)) as other:
            other.start_from("end")
            store.add(chunk("1", "2", ann(3, 4)))
            # The first copy is killed, and the group gives its part to the other.
            assert other.resume("live") == "2"

    def test_a_part_that_begins_again_is_not_stored_again(self, store: ProcessedStore) -> None:
        store.add(chunk("", "1", ann(1, 3)))
        store.add(chunk("1", "", []))
        store.add(chunk("", "1", ann(1, 4)))
        assert store.counts() == counts(messages=4, again=3)


class TestBadInput:
    def test_a_newer_version(self, store: ProcessedStore, path: Path) -> None:
        store.close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        with pytest.raises(ToolkitError, match="written by a newer version") as raised:
            ProcessedStore(path)
        assert raised.value.exit_code == 2

    def test_not_a_database(self, tmp_path: Path) -> None:
        path = tmp_path / "file.sqlite"
        path.write_bytes(b"no database " * 1_000)
        with pytest.raises(ToolkitError, match="is not a SQLite database"):
            ProcessedStore(path)

    @pytest.mark.skipif(os.name == "nt", reason="Windows keeps a file that is open from being deleted")
    @pytest.mark.parametrize("replaced", [True, False])
    def test_a_store_that_was_deleted_takes_nothing_more(
        self, store: ProcessedStore, path: Path, replaced: bool
    ) -> None:
        store.add(chunk("", "1", ann(1, 1)))
        path.rename(path.with_suffix(".old"))
        if replaced:
            path.touch()
        with pytest.raises(ToolkitError, match="was deleted or replaced while in use") as raised:
            store.add(chunk("1", "2", ann(2, 2)))
        assert raised.value.exit_code == 2

    def test_a_store_that_is_locked_is_unavailable(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(processed_store, "WAIT_S", 0.01)
        store = ProcessedStore(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked"):
                store.add(chunk("", "1", ann(1, 1)))
        store.add(chunk("", "1", ann(1, 1)))
        store.close()


def snapshot(path: Path) -> Iterator[list[tuple[Any, ...]]]:
    """All that a store says."""
    for table in ("messages", "sums", "positions", "producers", "counts"):
        yield ask(path, f"SELECT * FROM {table} ORDER BY 1, 2")


RECORDS = st.builds(
    Message,
    message=st.text(st.characters(codec="utf-8"), max_size=20),
    author=st.sampled_from(["Ann", "Bob", "", "İ ß"]),
    timestamp=st.sampled_from(
        ["", "2026-11-23T19:04:05.123Z", "2026-11-23T19:07:00Z", "2026-11-24T00:00:00+05:30", "?"]
    ),
    category=st.sampled_from(["tech", "food"]),
    sentiment=st.floats(0, 1),
    keyword_mentioned=st.sampled_from(["a", "b", "None"]),
    message_length=st.integers(0, 2**63 - 1),
    producer_id=st.sampled_from(["ann-1", "bob-2", None]),
    sequence=st.integers(1, 40),
)


@settings(deadline=None, max_examples=25)
@given(st.lists(RECORDS, max_size=40), st.integers(1, 40))
def test_figures_are_those_of_the_stored_messages_however_the_stream_is_cut(records: list[Message], size: int) -> None:
    for record in records:
        if record.producer_id is None:
            record.sequence = None
    with TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole.sqlite", Path(folder) / "cut.sqlite"
        for path, step in ((whole, max(1, len(records))), (cut, size)):
            with closing(ProcessedStore(path)) as store:
                for first in range(0, len(records), step):
                    last = min(first + step, len(records))
                    store.add(chunk(str(first) if first else "", str(last), records[first:last]))
        assert list(snapshot(whole)) == list(snapshot(cut))
        for kind in KINDS:
            column = "keyword_mentioned" if kind == "keyword" else kind
            rebuilt = ask(
                cut,
                f"SELECT {column}, count(*), sum(CAST(round(sentiment * 1e6) AS INTEGER)), "
                f"sum(min(message_length, {2**40})) FROM messages GROUP BY {column} ORDER BY {column}",
            )
            query = f"SELECT name, count, sentiment_millionths, length FROM sums WHERE kind = '{kind}' ORDER BY name"
            for ours, theirs in zip(ask(cut, query), rebuilt, strict=True):
                assert ours == pytest.approx(theirs, abs=len(records))
                assert (ours[0], ours[1], ours[3]) == (theirs[0], theirs[1], theirs[3])
