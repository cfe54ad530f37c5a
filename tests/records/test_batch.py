"""Batches of a producer's own records, and of lines of other programs."""

import json
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.records.external import MAX_RECORD_BYTES
from utils.records.record import Batch, Line, Message, Record, encode_records, without_ids
from utils.records.stream import BUZZ, Stream


class Place(msgspec.Struct):
    north: float


class Reading(Record):
    device: str
    temperature_c: float | None = None
    more: Any = None
    ok: bool = True


READINGS = Stream("readings", Reading)
AT = "2026-11-23T19:04:05.123Z"


def readings(amount: int) -> list[Reading]:
    return [Reading(f"d{number % 3}", number / 4, timestamp=AT) for number in range(amount)]


def batch(amount: int, first: int = 1) -> Batch:
    made = [Reading("d", float(number), timestamp=AT) for number in range(first, first + amount)]
    return Batch.of_records(made, "p-1", first, READINGS.codec)


_plain = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50)


@given(
    st.builds(
        Message, _plain, _plain, _plain, st.floats(0, 1), _plain, st.integers(0, 2**63 - 1), timestamp=st.just(AT)
    )
)
def test_encoded_records_are_decoded(message: Message) -> None:
    made = Batch.of_records([message], "p-1", 9, BUZZ.codec)
    assert made.lines.count(b"\n") == len(made.lines.splitlines()) == 1
    (found,) = made.records
    assert json.loads(BUZZ.codec.encode(found)) == msgspec.to_builtins(message)
    assert (found.producer_id, found.sequence, found.extra) == ("p-1", 9, None)


def test_defaults_are_on_the_line_and_ids_are_last() -> None:
    (line,) = Batch.of_records([Reading("a", timestamp=AT)], "p-1", 1, READINGS.codec).lines.splitlines()
    assert list(json.loads(line)) == ["device", "temperature_c", "more", "ok", "timestamp", "producer_id", "sequence"]
    assert json.loads(line)["ok"] is True


def test_sequences_continue_from_the_first() -> None:
    made = Batch.of_records(readings(5), "p-1", 7, READINGS.codec)
    assert (made.first, made.last, made.count) == (7, 11, 5)
    assert list(made.columns[-1]) == [7, 8, 9, 10, 11]
    assert set(made.columns[-2]) == {"p-1"}


def test_a_batch_of_lines_has_the_lines() -> None:
    lines = [Line(b'{"device":"a","temperature_c":1e1}', AT), Line(b'{"device":"b","odd":1}', AT)]
    made = Batch.of_lines(lines, "p-1", 3, READINGS.codec)
    assert (made.first, made.last, made.count) == (3, 4, 2)
    assert made.lines.startswith(lines[0].line[:-1])
    assert [(record.device, record.temperature_c, record.extra) for record in made.records] == [
        ("a", 10.0, None),
        ("b", None, '{"odd":1}'),
    ]


def deep(levels: int) -> Any:
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (math.nan, "more .* not finite"),
        ([1, {"a": -math.inf}], "more .* not finite"),
        (Place(math.nan), "more .* not finite"),
        ((Place(1.0), {Place: 1}), r"\w"),
        ("\ud800", "not valid Unicode"),
        ({"\udc00": 1}, "not valid Unicode"),
        (object(), "unsupported"),
        (msgspec.Raw(b'{\n"a": 1}'), "contains a line end"),
        (msgspec.Raw(b'1}\n{"device":"another"'), "contains a line end"),
        pytest.param(deep(5_000), "nested too deeply", id="very deep"),
        pytest.param(deep(100), "nested too deeply", id="deep"),
        ("x" * MAX_RECORD_BYTES, "over the limit of 262144"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_record_that_no_sink_can_store_makes_no_batch(more: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Batch.of_records([*readings(2), Reading("a", more=more)], "p-1", 1, READINGS.codec)


def test_numbers_beside_values_of_another_type_are_checked() -> None:
    wrong: Any = "hot"
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature_c holds a number that is not finite"):
            Batch.of_records([Reading("a", wrong), Reading("a", value), Reading("a", None)], "p-1", 1, READINGS.codec)


@pytest.mark.parametrize(
    "more", [Place(1.5), {"null": [None]}, "null", 2**64 - 1, [Place(0.0)], b"x", {1, 2}, msgspec.Raw(b'{"a":\r1}')]
)
def test_values_that_json_can_represent_are_accepted(more: object) -> None:
    (record,) = Batch.of_records([Reading("a", more=more, timestamp=AT)], "p-1", 1, READINGS.codec).records
    assert json.loads(bytes(record.more)) == msgspec.json.decode(msgspec.json.encode(more))
    assert record.extra is None


def test_a_value_that_is_not_of_its_field_s_type_arrives_in_extra() -> None:
    wrong: Any = "hot"
    (record,) = Batch.of_records([Reading("a", wrong, timestamp=AT)], "p-1", 1, READINGS.codec).records
    assert (record.temperature_c, record.extra) == (None, '{"temperature_c":"hot"}')


def test_a_record_may_be_as_long_as_the_limit_and_not_one_byte_longer() -> None:
    record = Reading("a")
    room = MAX_RECORD_BYTES - len(encode_records([record])) + 1
    record.device += "x" * room
    assert len(encode_records([record] * 3)) > MAX_RECORD_BYTES
    record.device += "x"
    with pytest.raises(ValueError, match=str(MAX_RECORD_BYTES)):
        encode_records([record])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Batch.of_lines([Line(b'{"a":1}', AT), Line(b'{"a":NaN}', AT)], "p-1", 1, READINGS.codec),
        lambda: without_ids({"a": math.inf}),
        lambda: without_ids({"a": "\ud800"}),
        lambda: without_ids({"a": object()}),
        lambda: without_ids({"a": msgspec.Raw(b"[\n1]")}),
        lambda: without_ids({"a": "x" * MAX_RECORD_BYTES}),
    ],
)
def test_lines_and_mappings_have_the_same_limits(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        make()


@given(st.integers(1, 12), st.integers(-3, 15), st.integers(-3, 15), st.booleans())
def test_a_part_of_a_batch_has_its_lines_and_records(count: int, first: int, last: int, decoded: bool) -> None:
    whole = batch(count, first=5)
    if decoded:
        assert len(whole.records) == count
    first, last = max(5, first), min(5 + count - 1, last)
    if first > last:
        return
    stretch = whole.between(first, last)
    assert (stretch.first, stretch.last, stretch.count) == (first, last, last - first + 1)
    assert stretch.lines == batch(last - first + 1, first=first).lines
    assert [record.sequence for record in stretch.records] == list(range(first, last + 1))
    assert list(stretch.columns[-1]) == list(range(first, last + 1))


@pytest.mark.parametrize("stored", [True, False])
def test_batches_that_follow_each_other_are_joined(stored: bool) -> None:
    several = [batch(2), batch(3, first=3)]
    if stored:
        several[0] = Batch("p-1", 2, 2, several[0].lines, READINGS.codec)
    joined = Batch.join(several)
    assert (joined.first, joined.last, joined.lines) == (1, 5, batch(5).lines)
    assert joined.records == batch(5).records
    assert joined.columns[1] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_line_separators_in_texts_divide_no_batch() -> None:
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\rg\nh\x1ci"
    whole = Batch.of_records([Reading(odd, timestamp=AT), Reading("b", timestamp=AT)], "p-1", 1, READINGS.codec)
    assert [record.device for record in whole.between(2, 2).records] == ["b"]
    assert [record.device for record in whole.between(1, 1).records] == [odd]
    line = json.dumps({"device": odd}, ensure_ascii=False).encode()
    fed = Batch.of_lines([Line(line, AT), Line(b'{"device":"b"}', AT)], "p-1", 1, READINGS.codec)
    assert [record.device for record in fed.between(2, 2).records] == ["b"]
