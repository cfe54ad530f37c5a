"""Columns made of a producer's own records equal those that a reader of their lines gets."""

import decimal
import enum
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.records.codec import Codec, Field
from utils.records.record import Batch, Message, Record, columns_of_made
from utils.records.stream import BUZZ, Stream

AT = "2026-11-23T19:04:05.123Z"


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Reading(Record):
    device: str | None
    amount: int | None
    temperature_c: float | None
    ok: bool | None
    seen: datetime | None


class Longer(Reading):
    more: str = "x"


class Document(Record):
    text: str
    more: Any = None


class Terse(Record, omit_defaults=True):
    device: str = "d"


class Tagged(Record, tag="kind"):
    device: str


class Renamed(Record, rename="camel"):
    device_name: str


READINGS = Stream("readings", Reading)

_odd: st.SearchStrategy[Any] = st.sampled_from(
    [
        Colour.RED,
        Level.LOW,
        decimal.Decimal("1.5"),
        datetime(2026, 1, 1, tzinfo=UTC),
        b"x",
        [1],
        {"a": None},
        True,
        1,
        1.5,
    ]
)
_texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_integers = st.integers(-(2**64), 2**64 - 1)
_floats = st.floats(allow_nan=False, allow_infinity=False)
_moments = st.sampled_from([AT, "2026-01-01", "0001-01-01T00:00+14:00", "noon", "", None])


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """Draw a record whose values mostly have the declared types, which Python does not enforce."""
    usual = [_texts, st.none() | _integers, st.none() | _floats | _integers, st.none() | st.booleans(), _moments]
    odd = draw(st.none() | st.integers(0, 4))
    return Reading(*(draw(_odd if number == odd else each) for number, each in enumerate(usual)), timestamp=AT)


def same(columns: Any, others: Any) -> bool:
    """Return whether values and their types are equal."""
    return [[(type(each), each) for each in column] for column in columns] == [
        [(type(each), each) for each in column] for column in others
    ]


def read(batch: Batch) -> list[Any]:
    return batch.codec.columns_of(batch.codec.decode_lines(batch.lines))


@pytest.mark.full
@given(st.lists(readings(), min_size=1, max_size=3))
@settings(max_examples=500)
def test_columns_equal_those_of_the_lines(records: list[Reading]) -> None:
    batch = Batch.of_records(records, "p-1", 7, READINGS.codec)
    assert same(batch.columns, read(batch))


@given(st.lists(st.tuples(_texts, _texts, st.floats(-0.5, 1.5) | st.integers(0, 2), st.integers(-1, 9)), min_size=1))
def test_columns_of_buzz_equal_those_of_the_lines(values: list[tuple[Any, Any, Any, Any]]) -> None:
    records = [Message(text or "", author or "", "", score, "", n, timestamp=AT) for text, author, score, n in values]
    batch = Batch.of_records(records, "p-1", 1, BUZZ.codec)
    assert same(batch.columns, read(batch))


@pytest.mark.parametrize(
    "record",
    [Longer("d", 1, 1.0, True, None), Document("t", {"a": 1}), Terse(), Tagged("d"), Renamed("d")],
    ids=lambda record: type(record).__name__,
)
@pytest.mark.parametrize("codec", [READINGS.codec, Stream("mixed", Document).codec], ids=["readings", "documents"])
def test_columns_of_any_class_and_stream_equal_those_of_the_lines(record: Record, codec: Codec) -> None:
    record.timestamp = AT
    for records in ([record], [Reading("d", 1, 1.0, True, None, timestamp=AT), record]):
        batch = Batch.of_records(records, "p-1", 1, codec)
        assert same(batch.columns, read(batch))


def test_columns_with_a_few_odd_records_equal_those_of_the_lines() -> None:
    records = [Reading(f"d{n}", n, n / 2, True, None, timestamp=AT) for n in range(200)]
    records[0] = Reading("odd", 2**63, 1.5, True, None, timestamp=AT)
    records[100] = Longer("other", 1, 1.5, True, None, timestamp=AT)
    records[101] = Reading("both", Level.LOW, 1.5, b"x", None, timestamp=AT)  # type: ignore[arg-type]
    batch = Batch.of_records(records, "p-1", 7, READINGS.codec)
    assert same(batch.columns, read(batch))
    assert batch.extra_counts == {"amount": 1, "more": 1, "ok": 1}
    records[0].temperature_c = float("nan")
    with pytest.raises(ValueError, match="temperature_c"):
        Batch.of_records(records, "p-1", 7, READINGS.codec)


def test_ordinary_records_are_not_read_again() -> None:
    records = [Reading("d", 1, 1.5, True, None, timestamp=AT), Reading(None, None, None, None, None, timestamp=AT)]
    for number, record in enumerate(records, 4):
        record.producer_id, record.sequence = "p-1", number
    assert columns_of_made(records, READINGS.codec) is not None
    wider = Codec([*READINGS.fields, Field("older", "json")])
    assert columns_of_made(records, wider) is not None
    assert columns_of_made([msgspec.structs.replace(records[0], device=Colour.RED)], READINGS.codec) is None
