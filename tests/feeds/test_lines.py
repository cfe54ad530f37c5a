"""Plain lines skip the decoder on their way into a batch; the batch is the same as if they were decoded."""

import json
from calendar import isleap
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from utils.feeds.lines import LineCodec, in_iso_form, json_line, text_parser
from utils.records.codec import Field
from utils.records.external import MAX_RECORD_BYTES
from utils.records.record import Batch, Line, Record
from utils.records.stream import Stream
from utils.sources.base import decode_all

AT = "2026-11-23T19:04:05.123Z"


class Reading(Record):
    device: str
    temperature_c: float | None = None
    count: int | None = None
    more: Any = None


READINGS = Stream("readings", Reading)

members: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "device": st.none() | st.text(max_size=5) | st.sampled_from(['"sequence"', "\u00e9\u20ac", "}\n{"]),
        "temperature_c": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
        "count": st.none() | st.integers(-9, 9) | st.just(2**64),
        "more": st.none() | st.just({}) | st.lists(st.integers(), max_size=2),
        "odd": st.booleans(),
        "timestamp": st.none() | st.just(AT) | st.just("never"),
        "producer_id": st.none() | st.just("other-1"),
        "sequence": st.none() | st.just(7),
    },
)


def fed(*lines: bytes, stream: Stream = READINGS) -> tuple[list[Line], list[Line]]:
    """Return the lines as a feed passes them on, and the same lines without the mark of plain ones."""
    found = LineCodec(stream).decode_each(lines)
    return found, [Line(line.line, line.timestamp) for line in found]


def check(*lines: bytes, stream: Stream = READINGS) -> bool:
    """Assert that both kinds make the same batch; return whether all lines are plain."""
    known, unknown = fed(*lines, stream=stream)
    made, read = (Batch.of_lines(each, "p-1", 3, stream.codec) for each in (known, unknown))
    assert made.lines == read.lines
    assert list(map(list, made.columns)) == list(map(list, read.columns))
    return all(line.is_plain for line in known)


@given(st.lists(members, min_size=1, max_size=4), st.booleans())
@example([{"device": "a", "temperature_c": 1.5}, {"device": "b", "timestamp": AT}], True)
@example([{}], True)
def test_a_batch_is_the_same_with_and_without_plain_lines(objects: list[dict[str, Any]], ascii_only: bool) -> None:
    check(*(json.dumps(each, ensure_ascii=ascii_only).encode() for each in objects))


@pytest.mark.parametrize(
    "line",
    [
        b'{"device":"a","temperature_c":1e2,"more":[1, {"x": null}],"timestamp":"2026-11-23T19:04:05.123Z"}',
        b'{ "temperature_c" : 12345678901234567.25, "device": "\\u00e9" }'.replace(b" }", b"}"),
        b'{"device":"}{","count":-0}',
    ],
)
def test_plain_lines_are_known(line: bytes) -> None:
    assert check(line)
    assert check(line, line)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"{ }",
        b"{\t}",
        b'{"device":"a" }',
        b' {"device":"a"}',
        b'{"device":"a"}\r',
        b'{"device":"a"} ',
        b'{"device":\r"a"}',
        b'{"device":\n"a"}',
        b'{"device":"a","timestamp":null}',
        b'{"device":"a","timestamp":"never"}',
        b'{"device":"a","producer_id":null}',
        b'{"device":"a","producer_id":"x","sequence":1}',
        b'{"device":"a","sequence":1}',
        b'{"device":"a","odd":1}',
        b'{"device":1}',
        b'{"device":"a","p\\u0072oducer_id":"x","sequence":1}',
        b'{"device":"a","p\\u0072oducer_id":"x","s\\u0065quence":1}',
        b'{"device":"a","p\\u0072oducer_id":"x"}',
        b'{"device":"a","t\\u0069mestamp":null}',
    ],
)
def test_any_other_line_is_not_plain(line: bytes) -> None:
    assert not check(line)
    assert not check(b'{"device":"a","timestamp":"2026-11-23T19:04:05.123Z"}', line)


@pytest.mark.parametrize(
    ("more", "reason"),
    [(b"[" * 101 + b"]" * 101, "nested too deeply"), (b'"%b"' % (b"x" * MAX_RECORD_BYTES), "over the limit")],
    ids=["deep", "long"],
)
def test_a_record_that_no_sink_can_store_is_found_among_plain_lines(more: bytes, reason: str) -> None:
    lines = [b'{"device":"a"}', b'{"device":"b","more":%b}' % more]
    found, (invalid,) = decode_all(LineCodec(READINGS), lines, ["1", "2"])
    assert ([line.line for line in found], invalid.where, invalid.line) == (lines[:1], "2", lines[1])
    assert reason in invalid.reason


@pytest.mark.parametrize("name, kind", [("timestamp", "integer"), ("Timestamp", "timestamp"), ("other", "text")])
def test_without_a_timestamp_column_no_line_is_plain(name: str, kind: str) -> None:
    fields = (Field("device", "text"), Field(name, kind), Field("timestamp", "timestamp"))
    stream = Stream("odd", fields=fields[:2] if name != "Timestamp" else fields)
    assert not check(b'{"device":"a"}', stream=stream)
    assert not check(b'{"device":"a","timestamp":0}', b'{"device":"b","timestamp":5}', stream=stream)


def test_no_lines_make_an_empty_batch() -> None:
    stream = Stream("odd", fields=(Field("device", "text"),))
    assert Batch.of_lines([], "p-1", 1, stream.codec).count == 0


def test_a_stream_with_other_fields_reads_the_lines_again() -> None:
    known, _ = fed(b'{"device":"a","count":1}')
    fields = [Field(each.name, "text" if each.name == "count" else each.type) for each in READINGS.fields]
    changed = Stream("readings", fields=(*fields, Field("room", "text")))
    assert known[0].is_plain
    (record,) = Batch.of_lines(known, "p-1", 1, changed.codec).records
    assert (record.device, record.count, record.room, record.extra) == ("a", None, None, '{"count":1}')


@pytest.mark.parametrize(
    ("cell", "form", "value"),
    [
        ("23/Nov/2026:19:04:05 +0100", "%d/%b/%Y:%H:%M:%S %z", "2026-11-23T19:04:05+01:00"),
        ("11/23/2026 7:04 PM", "%m/%d/%Y %I:%M %p", "2026-11-23T19:04:00"),
        ("23.11.2026", "%d.%m.%Y", "2026-11-23"),
        ("261123 190405", "%y%m%d %H%M%S", "2026-11-23T19:04:05"),
        ("20261123", "%Y%m%d", "2026-11-23"),
        ("Nov  3 19:04:05.250", "%b %d %H:%M:%S.%f", None),
        ("soon", "%d.%m.%Y", "soon"),
        ("2026-11-23T19:04:05Z", "%d.%m.%Y", "2026-11-23T19:04:05Z"),
        ("x" * 61, "x" * 61 + "%Y", "x" * 61),
    ],
)
def test_times_in_a_form_of_their_own_become_iso_8601(cell: str, form: str, value: str | None) -> None:
    found = json.loads(json_line([("a", cell)], {}, form))["a"]
    assert found == value or (value is None and found[4:] == "-11-03T19:04:05.250000")


APACHE, DATE = ("23/Nov/2026:19:04:05 +0100", "%d/%b/%Y:%H:%M:%S %z"), ("11/23/2026", "%m/%d/%Y")


@pytest.mark.parametrize(
    ("cell", "form", "kind", "time", "value"),
    [
        (*APACHE, "timestamp", None, "2026-11-23T19:04:05+01:00"),
        (*APACHE, "text", None, APACHE[0]),
        (*APACHE, "text", "a", "2026-11-23T19:04:05+01:00"),
        (*DATE, "text", None, "2026-11-23"),
    ],
)
def test_times_are_read_in_the_fields_of_times(cell: str, form: str, kind: str, time: str | None, value: str) -> None:
    codec = LineCodec(Stream("a", fields=(Field("a", kind),), time=time), text_parser("(?P<a>.+)", "utf-8", form))
    assert json.loads(codec.decode(cell.encode()).line)["a"] == value


@pytest.mark.parametrize("days", [-364, -1, 0, 1, 5])
def test_a_time_without_a_year_is_the_latest_in_the_past(days: int) -> None:
    at = (datetime.now() + timedelta(days=days)).replace(microsecond=0)
    found = datetime.fromisoformat(in_iso_form(f"{at:%b %d %H:%M:%S}", "%b %d %H:%M:%S"))
    assert timedelta(days=-366) < found - datetime.now() <= timedelta(days=1)
    assert (found.month, found.day, found.hour) == (at.month, at.day, at.hour)
    latest = datetime.now() + timedelta(days=1)
    leap = next(year for year in range(latest.year, 0, -1) if isleap(year) and datetime(year, 2, 29) <= latest)
    assert in_iso_form("Feb 29", "%b %d") == f"{leap}-02-29"


def test_the_year_of_a_time_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed that runs for years meets the same day and time again."""
    for year in (2031, 2032):
        clock = type("Clock", (datetime,), {"now": lambda year=year: datetime(year, 3, 1)})
        monkeypatch.setattr("utils.feeds.lines.datetime", clock)
        assert in_iso_form("Jan  2 03:04:05", "%b %d %H:%M:%S") == f"{year}-01-02T03:04:05"
