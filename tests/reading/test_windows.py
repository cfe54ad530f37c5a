"""Windows equal pandas for any stream, in any order, in chunks of any size, over any restarts."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from utils.app.errors import PositionMoved
from utils.reading.database import SqliteDatabase
from utils.reading.store import ProcessedStore
from utils.reading.windows import Tumbling, Windows
from utils.records.codec import Field
from utils.records.instants import instant_text
from utils.records.stream import Stream
from utils.sources.base import Chunk

SENSORS = Stream(
    "sensors",
    by="device",
    value="temperature_c",
    fields=(Field("device", "text"), Field("temperature_c", "number"), Field("timestamp", "timestamp")),
)
BEGIN_S = 1_795_460_640  # a whole minute


def records(made: Sequence[tuple[float, str | None, float | None]], first: int = 1) -> list[Any]:
    """Make records with ids of (seconds after the beginning, device, temperature)."""
    lines = [
        {
            "device": device,
            "temperature_c": value,
            "timestamp": instant_text(round((BEGIN_S + at_s) * 1e6)),
            "producer_id": "ann-0000000a-00000001",
            "sequence": sequence,
        }
        for sequence, (at_s, device, value) in enumerate(made, first)
    ]
    return SENSORS.codec.decode_lines(b"".join(msgspec.json.encode(each) + b"\n" for each in lines))


def in_table(path: Path, every_s: float | None) -> list[dict[str, Any]]:
    """Return the windows of a store, added over all partitions, the newest first."""
    sums = ", ".join(f"SUM({name}) AS {name}" for name in ("records", "numbers", "total", "late"))
    query = f"SELECT start_us, name, {sums}, MIN(low) AS low, MAX(high) AS high FROM windows WHERE size_us = ?"
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute(f"{query} GROUP BY 1, 2 ORDER BY 1 DESC, 2", [round((every_s or 0) * 1e6)]).fetchall()
    return [dict(row) | {"mean": row["total"] / row["numbers"] if row["numbers"] else None} for row in rows]


class Opened:
    """A store with windows that each chunk opens anew, as a new process."""

    def __init__(self, path: Path, tumbling: Tumbling, partition: str = "live") -> None:
        self.path, self.tumbling, self.partition = path, tumbling, partition
        self.closed: list[tuple[int, str, dict[str, Any]]] = []

    def add(self, read: list[Any], start: str, end: str) -> None:
        with closing(ProcessedStore(SqliteDatabase(self.path), SENSORS)) as store:
            windows = Windows(store, self.tumbling)
            store.add(Chunk(self.partition, start, end, read), windows.add)
        self.closed += [(start_us, name, asdict(window)) for start_us, name, window in windows.closed]

    def report(self) -> list[dict[str, Any]]:
        return in_table(self.path, self.tumbling.every_s)

    def open(self) -> Any:
        with closing(ProcessedStore(SqliteDatabase(self.path), SENSORS)) as store:
            return [each[:2] for each in Windows(store, self.tumbling).open()]


def by_pandas(read: list[Any], every_s: int, lateness_s: int) -> Any:
    """Compute the same with pandas, apart from reading timestamps."""
    frame = pd.DataFrame(
        {
            "at": pd.to_datetime([each.timestamp for each in read], utc=True),
            "name": [each.device or "" for each in read],
            "value": pd.Series([each.temperature_c for each in read], dtype=float),
        }
    )
    frame["start"] = frame["at"].dt.floor(f"{every_s}s")
    newest_before = frame["at"].cummax().shift()
    frame["late"] = frame["start"] + pd.Timedelta(seconds=every_s + lateness_s) <= newest_before
    grouped = frame.groupby(["start", "name"])
    found = grouped.agg(
        records=("name", "size"), numbers=("value", "count"), low=("value", "min"), high=("value", "max"),
        mean=("value", "mean"), late=("late", "sum"),
    ).reset_index()  # fmt: skip
    return found.to_dict("records")


def assert_equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    expected = sorted(expected, key=lambda each: (-each["start"].value, each["name"]))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert pd.Timestamp(ours["start_us"], unit="us", tz="UTC") == theirs["start"]
        assert [ours[each] for each in ("name", "records", "numbers", "late")] == [
            theirs[each] for each in ("name", "records", "numbers", "late")
        ]
        for each in ("low", "high", "mean"):
            assert ours[each] == pytest.approx(theirs[each], nan_ok=True) if ours["numbers"] else ours[each] is None


made_records = st.lists(
    st.tuples(
        st.floats(0, 300).map(lambda at_s: round(at_s, 3)),
        st.sampled_from(["a", "b", None]),
        st.none() | st.floats(-50, 50, allow_nan=False),
    ),
    min_size=1,
    max_size=60,
)


@pytest.mark.proof(
    "windows count each record once, late ones too",
    "random streams in any order and chunks, with a restart after each, against pandas",
    quick=30,
)
@settings(max_examples=30, deadline=None)
@given(made_records, st.integers(4, 60), st.sampled_from([1, 7, 60]), st.sampled_from([0, 5, 90]))
def test_equal_pandas_in_any_order_and_chunks(made: Any, size: int, every_s: int, lateness_s: int) -> None:
    read, tumbling = records(made), Tumbling(every_s, lateness_s)
    with TemporaryDirectory() as folder:
        whole, parts = Opened(Path(folder) / "whole.sqlite", tumbling), Opened(Path(folder) / "parts.sqlite", tumbling)
        whole.add(read, "", "1")
        for start in range(0, len(read), size):
            parts.add(read[start : start + size], str(start or ""), str(start + size))
        found = whole.report()
        assert_equal(found, by_pandas(read, every_s, lateness_s))
        assert parts.report() == found  # to the last bit, over restarts
        # A window is shown once, when it closes; others are open, or have late records only.
        shown = [*(each[:2] for each in parts.closed), *parts.open()]
        assert len(set(shown)) == len(shown)
        assert {(each["start_us"], each["name"]) for each in found if each["records"] > each["late"]} <= set(shown)


def test_shown_when_the_newest_record_is_past_end_and_lateness(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "file.sqlite", Tumbling(60, 10))
    opened.add(records([(0, "a", 1), (59.9, "a", 3), (69.999, "a", 5)]), "", "1")
    assert opened.closed == []
    assert len(opened.open()) == 2
    opened.add(records([(70, "b", 7)], 4), "1", "2")
    start_us = BEGIN_S * 1_000_000
    window = {"records": 2, "numbers": 2, "total": 4.0, "low": 1.0, "high": 3.0, "late": 0}
    assert opened.closed == [(start_us, "a", window)]
    assert opened.open() == [(start_us + 60_000_000, "a"), (start_us + 60_000_000, "b")]
    opened.add(records([(59, "a", 5)], 5), "2", "3")
    assert len(opened.closed) == 1  # a late record counts, but its window is not shown again
    assert opened.report()[-1] == {
        "start_us": start_us, "name": "a", "mean": 3.0, **window, "records": 3, "numbers": 3, "total": 9.0,
        "high": 5.0, "late": 1,
    }  # fmt: skip


def test_duplicates_and_records_of_another_copy_count_once(tmp_path: Path) -> None:
    opened = Opened(tmp_path / "file.sqlite", Tumbling(60))
    read = records([(0, "a", 1), (1, "a", 2), (2, "b", 3)])
    opened.add(read[:2], "", "1")
    with pytest.raises(PositionMoved):
        opened.add(read, "", "2")
    opened.add(read, "1", "2")
    assert [(each["name"], each["records"], each["total"]) for each in opened.report()] == [
        ("a", 2, 3.0),
        ("b", 1, 3.0),
    ]


def test_partitions_are_added_up_and_late_each_by_its_own_records(tmp_path: Path) -> None:
    path = tmp_path / "file.sqlite"
    read = records([(0, "a", 1), (600, "a", 2), (5, "a", 4)])
    Opened(path, Tumbling(60), "one").add(read[:2], "", "1")
    other = Opened(path, Tumbling(60), "two")
    other.add(read[2:], "", "1")
    assert [(each["records"], each["mean"], each["late"]) for each in other.report()] == [(1, 2.0, 0), (2, 2.5, 0)]


def test_records_without_event_time_and_names_of_any_kind(tmp_path: Path) -> None:
    stream = Stream(
        "odd", by="who", value="n", time="t", fields=tuple(map(Field, ("who", "n", "t"), ("text", "number", "number")))
    )
    read = stream.codec.decode_lines(b'{"who":"x\\u0000y","n":1,"t":1700000000}\n{"who":"z","n":2}\n{"t":1700000001}\n')
    with closing(ProcessedStore(SqliteDatabase(tmp_path / "file.sqlite"), stream)) as store:
        windows = Windows(store, Tumbling(86_400 * 7))
        store.add(Chunk("live", "", "1", read), windows.add)
        assert [(each["name"], each["records"]) for each in in_table(tmp_path / "file.sqlite", 86_400 * 7)] == [
            ("", 1),
            ("x\ufffdy", 1),
        ]


def test_any_instant_of_the_calendar_is_in_a_window(tmp_path: Path) -> None:
    days = "0001-01-01", "1969-12-31", "1970-01-01", "2026-11-23"
    read = SENSORS.codec.decode_lines(b"".join(b'{"timestamp":"%sT00:00:00Z"}\n' % day.encode() for day in days))
    with closing(ProcessedStore(SqliteDatabase(tmp_path / "file.sqlite"), SENSORS)) as store:
        windows = Windows(store, Tumbling(86_400 * 7))
        store.add(Chunk("live", "", "1", read), windows.add)
        weeks = ["0001-01-01", "1969-12-25", "1970-01-01", "2026-11-19"]
        assert [windows.line(*each)[:10] for each in [*windows.closed, *windows.open()]] == weeks


def test_windows_of_another_size_begin_with_the_next_records(tmp_path: Path) -> None:
    path, read = tmp_path / "file.sqlite", records([(0, "a", 1), (1, "a", 2)])
    Opened(path, Tumbling(60)).add(read[:1], "", "1")
    other = Opened(path, Tumbling(30))
    other.add(read[1:], "1", "2")
    assert [each["records"] for each in other.report()] == [1]
    assert [each["records"] for each in Opened(path, Tumbling(60)).report()] == [1]
