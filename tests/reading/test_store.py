"""The processed store: records, position and totals in one transaction."""

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import make_messages, open_files_stay
from tests.stores import Place, PostgresPlace, SqlitePlace, open_store
from utils.app.errors import PositionMoved, ToolkitError, Unavailable
from utils.reading import database
from utils.reading.database import SqliteDatabase
from utils.reading.store import ProcessedStore
from utils.reading.tracker import MAX_GAPS, MAX_LOST, Counts, Tracker
from utils.records.codec import Field
from utils.records.record import Invalid
from utils.records.stream import BUZZ, Stream
from utils.sources.base import Chunk

ANN, ANN_2, BOB = "ann-0000000a-00000001", "ann-0000000a-00000002", "bob-0000000b-00000001"
SENSORS = Stream(
    "sensors",
    by="device",
    value="temperature_c",
    fields=(
        Field("device", "text"),
        Field("temperature_c", "number"),
        Field("ok", "boolean"),
        Field("timestamp", "timestamp"),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "processed" / "file.sqlite"


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=[pytest.mark.full, pytest.mark.postgres])]
)
def place_at(request: pytest.FixtureRequest) -> Callable[[Path], Place]:
    """Return the constructor of a store's place, for each database."""
    if request.param == "sqlite":
        return SqlitePlace
    server = request.getfixturevalue("postgres")
    return lambda path: PostgresPlace(server)


@pytest.fixture
def place(place_at: Callable[[Path], Place], path: Path) -> Place:
    return place_at(path)


@pytest.fixture
def store(place: Place) -> Iterator[ProcessedStore]:
    with closing(open_store(place, BUZZ)) as opened:
        yield opened


def chunk(start: str, end: str, records: list[Any], invalid: int = 0, partition: str = "live") -> Chunk:
    return Chunk(partition, start, end, records, [Invalid("live byte 1", "bad")] * invalid)


def buzz(*pairs: tuple[str | None, int | None], **changed: Any) -> list[Any]:
    """Make records as sources give them, one for each pair of ids."""
    made = make_messages(len(pairs))
    for message, (producer_id, sequence) in zip(made, pairs, strict=True):
        message.producer_id, message.sequence = producer_id, sequence
        for name, value in changed.items():
            setattr(message, name, value)
    return BUZZ.codec.decode_lines(b"".join(msgspec.json.encode(each) + b"\n" for each in made))


def ann(first: int, last: int) -> list[Any]:
    return buzz(*((ANN, sequence) for sequence in range(first, last + 1)))


def external(*texts: str) -> list[Any]:
    return [record for text in texts for record in buzz((None, None), message=text)]


def at(*clocks: str, first: int = 1) -> list[Any]:
    """Make Ann's records at these times."""
    return [buzz((ANN, n), timestamp=f"2026-11-23T{clock}Z")[0] for n, clock in enumerate(clocks, first)]


def lines(stream: Stream, *records: bytes) -> list[Any]:
    return stream.codec.decode_lines(b"".join(each + b"\n" for each in records))


class TestStoring:
    def test_a_record_is_stored_whole_with_the_processed_values(self, store: ProcessedStore, place: Place) -> None:
        (record,) = buzz((ANN, 1), author="A\0nn")
        assert len(store.add(chunk("", "1", [record])).new) == 1
        names = "producer_id, sequence, event_us, late, name, value, record"
        line = BUZZ.codec.encode(record).decode()
        assert "A\\u0000nn" in line
        assert place.ask(f"SELECT {names} FROM records") == [(ANN, 1, 1795460645123000, 0, "A\ufffdnn", 0.5, line)]

    def test_any_stream(self, place: Place) -> None:
        read = lines(
            SENSORS,
            b'{"device":"a","temperature_c":20.5,"ok":true,"timestamp":"2026-11-23T19:04:05Z"}',
            b'{"device":"a","temperature_c":"n/a","new":[1],"timestamp":"2026-11-23T19:05:05Z"}',
            b'{"device":"b","temperature_c":-3,"ok":false}',
        )
        with closing(open_store(place, SENSORS)) as store:
            store.add(chunk("", "1", read))
            assert store.summary() == [("a", 2, 20.5, "2026-11-23T19:05:05.000Z"), ("b", 1, -3.0, None)]
        assert [json.loads(line) for (line,) in place.ask("SELECT record FROM records ORDER BY rowid")] == [
            {"device": "a", "temperature_c": 20.5, "ok": True, "timestamp": "2026-11-23T19:04:05Z"},
            {"device": "a", "temperature_c": "n/a", "new": [1], "timestamp": "2026-11-23T19:05:05Z"},
            {"device": "b", "temperature_c": -3, "ok": False},
        ]

    def test_a_stream_without_roles_and_times(self, place: Place) -> None:
        stream = Stream("events", fields=(Field("a", "json"),))
        with closing(open_store(place, stream)) as store:
            store.add(chunk("", "1", lines(stream, b'{"a":[1]}', b'{"b":2}')))
            assert store.summary() == []
            assert store.counts() == Counts(records=2, external=2)

    def test_json_with_line_ends_stays_with_its_record(self, place: Place) -> None:
        """Values in Kafka or in a database's column may contain line ends."""
        stream = Stream("events", fields=(Field("a", "json"), Field("n", "integer")))
        values = [b'{"a":{\n"b":1},"n":1}', b'{"a":[2],"n":2}', b'{"a":3,"n":3,"x":{\n}}']
        with closing(open_store(place, stream)) as store:
            store.add(chunk("", "1", stream.codec.decode_each(values[:2])))
            store.add(chunk("1", "2", stream.codec.decode_each(values)))
        found = [line for (line,) in place.ask("SELECT record FROM records ORDER BY rowid")]
        assert list(map(json.loads, found)) == [json.loads(value) for value in (*values[:2], *values)]
        assert "\n" not in "".join(found)

    def test_roles_that_a_stream_gets_later_are_those_of_all_records(self, place: Place) -> None:
        """Records are grouped by roles that the stream got later, as if its first records did not show them."""
        read, early = (
            [b'{"device":"a","temperature_c":%d}' % n for n in range(5)],
            replace(SENSORS, by=None, value=None),
        )
        with closing(open_store(place, early)) as store:
            store.add(chunk("", "1", lines(early, *read)))
            assert store.summary() == []
        with closing(open_store(place, SENSORS)) as store:
            store.add(chunk("1", "2", lines(SENSORS, *read[:1], b'{"device":"b\\u0000"}')))
            assert store.summary() == [("a", 6, 10 / 6, None), ("b\ufffd", 1, None, None)]
        with closing(open_store(place, replace(SENSORS, by="ok"))) as store:
            assert store.summary() == []
            assert store.counts().records == 7

    def test_event_time_in_a_field_of_its_own(self, place: Place) -> None:
        stream = Stream("ticks", time="t", fields=(Field("t", "number"),))
        with closing(open_store(place, stream)) as store:
            store.add(chunk("", "1", lines(stream, b'{"t":1700000000}', b'{"t":1700000000500}', b'{"t":3}')))
        assert place.ask("SELECT event_us FROM records") == [(1700000000000000,), (1700000000500000,), (None,)]

    def test_late_is_more_than_a_minute_behind_the_newest_before(self, store: ProcessedStore, place: Place) -> None:
        store.add(chunk("", "1", at("19:04:00", "19:05:00")))
        clocks = "19:03:59.999", "19:06:00.001", "19:05:00", "19:05:00.001", "19:04:59"
        store.add(chunk("1", "2", at(*clocks, first=3)))
        assert place.ask("SELECT late FROM records ORDER BY rowid") == [(0,), (0,), (1,), (0,), (1,), (0,), (1,)]

    def test_any_order_is_stored_whole(self, store: ProcessedStore, place: Place) -> None:
        """With so many gaps the tracker takes records for duplicates; they are stored all the same."""
        records = ann(1, 6 * MAX_GAPS)
        random.Random(1).shuffle(records)
        for first in range(0, len(records), 500):
            store.add(chunk(str(first or ""), str(first + 500), records[first : first + 500]))
        store.add(chunk(str(len(records)), "x", records[:500]))
        found = store.counts()
        assert (found.records, found.duplicate) == (len(records), 500)
        assert place.ask("SELECT count(*), count(DISTINCT sequence) FROM records") == [(6_000, 6_000)]

    def test_totals(self, store: ProcessedStore) -> None:
        store.add(chunk("", "1", [*ann(1, 2), *ann(2, 2), *ann(5, 5), *external("x")], invalid=2))
        assert store.counts() == Counts(records=4, external=1, invalid=2, lost=2, duplicate=1)
        store.add(chunk("1", "2", ann(3, 4)))
        assert store.counts() == store.run == Counts(records=6, external=1, invalid=2, duplicate=1)

    def test_sequences_that_external_records_claim_do_not_overflow(self, store: ProcessedStore) -> None:
        store.add(chunk("", "1", buzz((ANN, 1), (ANN, 2**63 - 1), (BOB, 1), (BOB, 2**63 - 1))))
        store.add(chunk("1", "2", buzz((ANN, 2**63 - 1))))
        assert store.counts() == Counts(records=4, lost=2 * MAX_LOST, duplicate=1)

    def test_a_record_that_came_in_another_partition_is_a_duplicate(self, store: ProcessedStore, place: Place) -> None:
        store.add(chunk("", "1", ann(1, 3)))
        store.add(chunk("", "1", ann(2, 2), partition="other"))
        assert store.counts() == Counts(records=3, duplicate=1)

    def test_of_two_records_with_the_same_ids_the_first_is_new(self, store: ProcessedStore, place: Place) -> None:
        both = [*buzz((ANN, 1), message="first"), *buzz((ANN, 1), message="second")]
        assert [record for record, *_ in store.add(chunk("", "1", both)).new] == both[:1]
        assert place.ask("SELECT record FROM records") == [(BUZZ.codec.encode(both[0]).decode(),)]

    def test_a_journal_that_moved_to_another_partition_lost_nothing(self, store: ProcessedStore) -> None:
        """Sequences continue over partitions: some sinks have one for each run or file."""
        store.add(chunk("", "1", ann(1, 3)))
        store.add(chunk("", "1", buzz((ANN_2, 4), (ANN_2, 6)), partition="other"))
        assert store.counts() == Counts(records=5, lost=1)
        store.add(chunk("", "1", buzz(("ann-0000000a-00000003", 7)), partition="third"))
        assert store.counts() == Counts(records=6, lost=1)

    def test_two_live_copies_of_a_journal_are_both_stored(self, store: ProcessedStore, place: Place) -> None:
        store.add(chunk("", "1", buzz((ANN, 1), (ANN_2, 2), (ANN, 2), (ANN, 3), (ANN_2, 3))))
        assert store.counts() == Counts(records=5)


class TestPositions:
    def test_a_position_is_kept_per_partition(self, store: ProcessedStore, place: Place) -> None:
        store.add(chunk("", "7", ann(1, 1)))
        store.add(chunk("", "9", external("x"), partition="other"))
        with closing(open_store(place, BUZZ)) as again:
            assert [again.resume(each) for each in ("live", "other", "third")] == ["7", "9", ""]
            assert again.counts().records == 2
            assert again.run == Counts()

    def test_another_copy_that_was_faster_wins(self, store: ProcessedStore, place: Place) -> None:
        with closing(open_store(place, BUZZ)) as other:
            assert (store.resume("live"), other.resume("live")) == ("", "")
            other.add(chunk("", "2", ann(1, 2)))
            with pytest.raises(PositionMoved, match="live"):
                store.add(chunk("", "3", ann(1, 3)))
            assert store.run == Counts()
            assert store.resume("live") == "2"
            store.add(chunk("2", "3", ann(3, 3)))
            assert store.counts() == Counts(records=3)

    def test_a_failure_in_the_middle_stores_nothing(self, store: ProcessedStore, place: Place) -> None:
        store.add(chunk("", "1", ann(1, 1)))
        before = list(snapshot(place))

        def fail(*_: object) -> None:
            raise MemoryError

        with pytest.raises(MemoryError):
            store.add(chunk("1", "2", ann(2, 3), invalid=1), fail)
        assert list(snapshot(place)) == before
        store.add(chunk("1", "2", ann(2, 3), invalid=1))
        assert store.counts() == Counts(records=3, invalid=1)

    def test_the_same_records_without_ids_of_a_rotated_file_are_stored(self, store: ProcessedStore) -> None:
        store.add(chunk("", "1", external("tick", "tick")))
        store.add(chunk("1", "", []))
        assert len(store.add(chunk("", "1", external("tick", "tick"))).new) == 2
        assert store.counts() == Counts(records=4, external=4)

    def test_the_last_records_of_a_rotated_file_belong_to_it(self, store: ProcessedStore, place: Place) -> None:
        store.add(chunk("", "1", [*ann(1, 2), *external("a")]))
        store.add(chunk("1", "", [*ann(2, 4), *external("b")]))
        store.add(chunk("", "1", [*ann(3, 5), *external("c")]))
        assert store.counts() == Counts(records=8, external=3, duplicate=1, again=2)

    def test_from_the_end_passes_over_without_a_loss(self, place: Place) -> None:
        with closing(open_store(place, BUZZ, "end")) as store:
            assert store.resume("live") == "end"
            store.add(chunk("end", "9", []))
            assert store.resume("live") == "9"
            store.add(chunk("9", "10", ann(10, 10)))
            store.add(chunk("10", "12", [*ann(12, 12), *buzz((BOB, 70))]))
            assert store.counts() == Counts(records=3, lost=1)

    def test_the_position_end_is_stored(self, place: Place) -> None:
        """A consumer that stopped at "end" before anything came continues there."""
        open_store(place, BUZZ, "end").resume("live")
        with closing(open_store(place, BUZZ)) as again:
            assert again.resume("live") == "end"
            again.add(chunk("end", "", []))  # nothing can be read yet
            assert again.resume("live") == ""
            again.add(chunk("", "1", ann(3, 3)))
            assert again.counts() == Counts(records=1)

    @pytest.mark.parametrize("start", ["start", "end"])
    def test_a_new_process_continues_at_the_stored_positions(
        self, store: ProcessedStore, place: Place, start: Literal["start", "end"]
    ) -> None:
        store.add(chunk("", "1", ann(1, 2)))
        store.add(chunk("", "7", ann(3, 3), partition="rotated"))
        store.add(chunk("7", "", [], partition="rotated"))
        with closing(open_store(place, BUZZ, start)) as again:
            assert [again.resume(each) for each in ("live", "rotated")] == ["1", ""]
            again.add(chunk("1", "2", ann(5, 5)))
            assert again.counts() == Counts(records=4, lost=2)

    def test_a_partition_that_another_copy_hands_over_does_not_begin_at_its_end(
        self, store: ProcessedStore, place: Place
    ) -> None:
        store.add(chunk("", "1", ann(1, 2)))
        with closing(open_store(place, BUZZ, "end")) as other:
            store.add(chunk("1", "2", ann(3, 4)))
            # The first copy is killed, and the group gives its partition to the other.
            assert other.resume("live") == "2"

    def test_a_partition_that_begins_again_is_not_stored_again(self, store: ProcessedStore) -> None:
        store.add(chunk("", "1", ann(1, 3)))
        store.add(chunk("1", "", []))
        store.add(chunk("", "1", ann(1, 4)))
        assert store.counts() == Counts(records=4, again=3)

    def test_a_deleted_record_that_is_read_again_is_new(self, store: ProcessedStore) -> None:
        store.add(chunk("", "1", ann(1, 3)))
        with store.database.transaction():
            store.database.execute("DELETE FROM records WHERE sequence = 2")
        store.add(chunk("1", "", []))
        store.add(chunk("", "1", ann(2, 2)))
        assert store.counts() == Counts(records=4)

    def test_a_rotated_file_may_begin_in_the_middle_of_a_journal(self, store: ProcessedStore) -> None:
        store.add(chunk("", "1", ann(1, 3)))
        store.add(chunk("1", "", []))
        store.add(chunk("", "1", buzz((BOB, 70), (BOB, 72))))
        assert store.counts() == Counts(records=5, lost=1)


class TestSchema:
    def test_a_dropped_index_is_made_again(self, store: ProcessedStore, place: Place) -> None:
        """It tells new records from those read again."""
        store.add(chunk("", "3", ann(1, 3)))
        with store.database.transaction():
            store.database.execute("DROP INDEX records_identity")
        with closing(open_store(place, BUZZ)) as again:
            assert again.add(chunk("3", "6", ann(1, 3))).new == []


class TestSqliteFile:
    @pytest.fixture
    def store(self, path: Path) -> Iterator[ProcessedStore]:
        with closing(ProcessedStore(SqliteDatabase(path), BUZZ)) as opened:
            yield opened

    def test_a_store_with_two_names(self, store: ProcessedStore, path: Path) -> None:
        os.link(path, path.with_name("other.sqlite"))
        with pytest.raises(ToolkitError, match="2 names"):
            ProcessedStore(SqliteDatabase(path), BUZZ)

    @open_files_stay
    @pytest.mark.parametrize("replaced", [True, False])
    def test_a_store_that_was_moved_has_all_that_was_stored(self, path: Path, replaced: bool) -> None:
        moved = path.with_name("moved.sqlite")
        with closing(ProcessedStore(SqliteDatabase(path), BUZZ)) as store:
            store.add(chunk("", "1", ann(1, 1)))
            path.rename(moved)
            if replaced:
                path.touch()
            with pytest.raises(ToolkitError, match="was deleted, moved or replaced") as raised:
                store.add(chunk("1", "2", ann(2, 2)))
            assert raised.value.exit_code == 2
        alone = shutil.copy(moved, path.parent.parent / "alone.sqlite")
        assert SqlitePlace(Path(alone)).ask("SELECT sequence FROM records") == [(1,)]

    def test_a_store_that_is_locked_is_unavailable(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(database, "WAIT_S", 0.01)
        with closing(ProcessedStore(SqliteDatabase(path), BUZZ)) as store:
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(Unavailable, match="locked"):
                    store.add(chunk("", "1", ann(1, 1)))
            assert len(store.add(chunk("", "1", ann(1, 1))).new) == 1


def snapshot(place: Place) -> Iterator[list[tuple[Any, ...]]]:
    """Yield all rows of a store."""
    for table in ("records", "partitions"):
        yield place.ask(f"SELECT * FROM {table} ORDER BY 1, 2, 3")


IDS = st.one_of(
    st.just((None, None)), st.tuples(st.sampled_from([ANN, ANN_2, BOB, "sensor-1", "sensor-2"]), st.integers(1, 20))
)
TIMES = st.sampled_from(["", "2026-11-23T19:04:05.123Z", "2026-11-23T19:07:00Z", "2026-11-24T00:00:00+05:30"])


@settings(deadline=None, max_examples=12)
@given(made=st.lists(st.tuples(IDS, TIMES), max_size=50), size=st.integers(1, 20), restart=st.integers(0, 50))
def test_any_history_gives_the_statistics_of_the_tracker(
    place_at: Callable[[Path], Place], made: list[tuple[tuple[str | None, int | None], str]], size: int, restart: int
) -> None:
    """Counts equal the tracker's, with any chunks, a new process for each, and a partition that begins again."""
    records = [buzz(ids, timestamp=timestamp)[0] for ids, timestamp in made]
    tracker, identified = Tracker(), {ids for ids, _ in made if ids[0]}
    tracker.admit(records[:restart])
    if records[:restart]:
        tracker.begin_again()
    tracker.admit(records)
    with TemporaryDirectory() as folder:
        whole, cut = place_at(Path(folder) / "whole.sqlite"), place_at(Path(folder) / "cut.sqlite")
        for place, step in ((whole, 100), (cut, size)):
            store = open_store(place, BUZZ)
            for upto in (records[:restart], records):
                if position := store.resume("live"):
                    store.add(chunk(position, "", []))
                    position = ""
                for first in range(0, len(upto), step):
                    store.add(chunk(position, str(first + 1), upto[first : first + step]))
                    position = str(first + 1)
                    if place is cut:
                        store.close()
                        store = open_store(place, BUZZ)
            store.close()
            with closing(open_store(place, BUZZ)) as store:
                found = store.counts()
                assert found.records == len(identified) + found.external
                assert (found.lost, found.duplicate) == (tracker.counts.lost, tracker.counts.duplicate)
                assert (found.external, found.again) == (tracker.counts.external, tracker.counts.again)
        query = "SELECT * FROM records ORDER BY rowid"
        assert whole.ask(query) == cut.ask(query)
