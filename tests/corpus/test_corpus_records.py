"""Records of other programs: read with missing fields filled in, or rejected with a reason; never fatal."""

import json
import re
import string
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import make_batch
from utils.app.config import Settings
from utils.app.errors import ToolkitError
from utils.emitters.file_emitter import FileEmitter
from utils.feeds.rows import array_pages
from utils.records import sentiment
from utils.records.codec import MAX_INT64
from utils.records.record import Message
from utils.records.stream import BUZZ
from utils.sources.file_source import FileSource

WHOLE = {
    "message": "hi", "author": "Ann", "timestamp": "2026-01-02T03:04:05.678Z", "category": "c", "sentiment": 0.25,
    "keyword_mentioned": "k", "message_length": 2, "producer_id": "p-1", "sequence": 7,
}  # fmt: skip

READABLE: list[tuple[str, dict[str, Any]]] = [
    (json.dumps(WHOLE), {"sequence": 7, "producer_id": "p-1", "sentiment": 0.25}),
    ('{"message": "hi"}', {"author": "Unknown", "message_length": 2, "sentiment": sentiment.score("hi")}),
    ('{"message": ""}', {"message": "", "message_length": 0}),
    ('{"message": "hi", "author": ""}', {"author": ""}),
    ('{"message": "hi", "author": null}', {"author": "Unknown"}),
    ('{"message": "hi", "timestamp": null}', {"timestamp": None}),
    ('{"message": "hi", "timestamp": "2025-01-29 14:35:20"}', {"timestamp": "2025-01-29 14:35:20"}),
    ('{"message": "hi", "sentiment": null}', {"sentiment": sentiment.score("hi")}),
    ('{"message": "hi", "sentiment": 1}', {"sentiment": 1.0}),
    ('{"message": "hi", "sentiment": 1e-400}', {"sentiment": 0.0}),
    ('{"message": "hi", "message_length": 9223372036854775807}', {"message_length": MAX_INT64}),
    ('{"message": "hi", "message": "again"}', {"message": "again"}),
    ('{"message": "hi", "producer_id": "p"}', {"producer_id": None, "sequence": None}),
    ('{"message": "hi", "sequence": 5}', {"producer_id": None, "sequence": None}),
    ('  {"message": "hi"}\r', {"message": "hi"}),
    ('{"message": "\\u00e9\\ud83e\\udd80"}', {"message": "é🦀", "message_length": 2}),
    ('{"message": "a\\u0000b"}', {"message": "a\0b"}),
    ('{"message": "line\\nbreak"}', {"message": "line\nbreak"}),
    ('{"message": "true"}', {"message": "true"}),
]
# Values without a column, or of another type than their column: kept in `extra`.
ODD: list[bytes] = [
    b'{"timestamp": "yesterday"}',
    b'{"timestamp": 1700000000}',
    b'{"author": 3}',
    b'{"category": []}',
    b'{"sentiment": "0.75"}',
    b'{"sentiment": 1.01}',
    b'{"sentiment": -0.5}',
    b'{"sentiment": "good"}',
    b'{"sentiment": "nan"}',
    b'{"sentiment": 1e400}',
    b'{"message_length": "42"}',
    b'{"message_length": 3.0}',
    b'{"message_length": 2.5}',
    b'{"message_length": -1}',
    b'{"message_length": 9223372036854775808}',
    b'{"message_length": 1e30}',
    b'{"more": {"deep": [1, 2]}}',
    b'{"sequence": "5"}',
    b'{"sequence": 0}',
    b'{"sequence": -3}',
    b'{"sequence": 18446744073709551616}',
    b'{"producer_id": 5}',
    b'{"producer_id": ""}',
]
TOO_DEEP = "truncated" if sys.version_info >= (3, 14) else "nested too deeply"  # Python 3.14 raised its own limit

UNREADABLE: list[tuple[bytes, str]] = [
    (b"", "truncated"),
    (b"   ", "truncated"),
    (b"not JSON", "malformed"),
    (b"{", "truncated"),
    (b'{"message": "hi"', "truncated"),
    (b'{"message": "hi', "truncated"),
    (b'{"message": "hi"}}', "malformed|trailing"),
    (b'{"message": "hi"} {"message": "ho"}', "malformed|trailing"),
    (b"{'message': 'hi'}", "malformed"),
    (b'{message: "hi"}', "malformed"),
    (b'{"message": "hi",}', "malformed"),
    (b'{"message" "hi"}', "malformed"),
    (b'{"message": hi}', "malformed"),
    (b'{"message": "hi", "sentiment": NaN}', "malformed"),
    (b'{"message": "hi", "sentiment": Infinity}', "malformed"),
    (b'{"message": "hi", "sentiment": .5}', "malformed"),
    (b"null", "Expected `object`, got `null`"),
    (b"true", "Expected `object`, got `bool`"),
    (b"3", "Expected `object`, got `int`"),
    (b'"message"', "Expected `object`, got `str`"),
    (b"[]", "Expected `object`, got `array`"),
    (b'[{"message": "hi"}]', "Expected `object`, got `array`"),
    (b"{}", "missing required field `message`"),
    (b'{"Message": "hi"}', "missing required field `message`"),
    (b'{"message": null}', "missing required field `message`"),
    (b'{"message": 3}', "missing required field `message`"),
    (b'{"message": ["hi"]}', "missing required field `message`"),
    (b'{"message": {"text": "hi"}}', "missing required field `message`"),
    (b'{"message": "\xff\xfe"}', "utf-8|malformed|UTF-8"),
    (b'{"message": "\\ud800"}', "truncated|malformed"),
    (b'{"message": "tab\there"}', "malformed|invalid"),
    (b'\xef\xbb\xbf{"message": "hi"}', "malformed"),
    (b'\xff\xfe{\x00"\x00', "utf-8"),
    (b"\x00" * 20, "malformed"),
    (b"\x1f\x8b\x08\x00", "utf-8"),
    (b"[" * 100_000, "Expected `object`, got `array`"),
    (b'{"message": "hi", "more": ' + b"[" * 100_000, TOO_DEEP),
    (b'{"message": "hi", "sentiment": "0.5", "more": ' + b'{"a":' * 100_000, TOO_DEEP),
    (b'{"message": "\\q"}', "malformed|invalid escape"),
]


@pytest.mark.parametrize(("line", "fields"), READABLE)
def test_readable_records(line: str, fields: dict[str, Any]) -> None:
    record = BUZZ.codec.decode(line.encode())
    assert {name: getattr(record, name) for name in fields} == fields
    assert record.extra is None


@pytest.mark.parametrize("odd", ODD)
def test_values_that_do_not_fit_are_kept(odd: bytes) -> None:
    record = BUZZ.codec.decode(b'{"message": "hi", ' + odd[1:])
    assert (record.message, record.author, record.message_length) == ("hi", "Unknown", 2)
    assert b'{"' + record.extra.encode()[2:].replace(b'":', b'": ', 1) == odd


@pytest.mark.parametrize(("line", "pattern"), UNREADABLE)
def test_unreadable_records_have_a_reason(line: bytes, pattern: str) -> None:
    with pytest.raises(ValueError, match=re.compile(pattern, re.IGNORECASE)):
        BUZZ.codec.decode(line)


def test_a_file_of_all_of_them_is_read_once_with_every_reason(tmp_path: Path) -> None:
    """Every record is read once and every bad line has its reason; blank lines are neither."""
    path = tmp_path / "all.jsonl"
    bad = [line for line, _ in UNREADABLE if line.strip() and b"\n" not in line]
    good = [line.encode() for line, _ in READABLE]
    path.write_bytes(b"\n".join([*bad, b"", *good, b" "]) + b"\n")
    source = FileSource(path, BUZZ.codec, lambda partition: "")
    messages, invalid = [], []
    while chunk := source.poll(10):
        messages += chunk.records
        invalid += chunk.invalid
    source.close()
    assert len(messages) == len(good)
    assert len(invalid) == len([line for line in bad if line.strip(b" \t\0")])  # zeros end a line
    assert all(each.where.startswith("all.jsonl byte ") and each.reason for each in invalid)


def test_a_deeply_nested_last_line_of_the_file_stops_no_producer(settings: Settings) -> None:
    deep = b'{"message": "ann-1", "more": ' + b"[" * 100_000
    settings.data_path.mkdir()
    settings.live_path.write_bytes(deep + b"\n" + deep)
    with closing(FileEmitter(settings.live_path)) as emitter:
        emitter.emit(make_batch(2, producer_id="ann-1"))
        assert emitter.last(["ann-1"]) == ("ann-1", 2)
    array = settings.live_path.with_suffix(".json")
    array.write_bytes(b"[" * 100_000)
    with pytest.raises(ToolkitError, match="array"):
        next(array_pages(array))


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(Message.__struct_fields__)


@given(st.dictionaries(names | text, anything, max_size=9))
def test_any_object_is_a_record_or_has_a_reason(record: dict[str, Any]) -> None:
    read_or_reject(json.dumps(record).encode())


@given(st.data())
def test_any_change_of_a_record_is_a_record_or_has_a_reason(data: st.DataObject) -> None:
    line = bytearray(json.dumps(WHOLE).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(line) - 1))
        line[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([each.encode() for each in string.punctuation])
        )
    read_or_reject(bytes(line))


def read_or_reject(data: bytes) -> None:
    """Assert that a line has a reason, or a record that is storable and equal when it is written and read again."""
    codec = BUZZ.codec
    try:
        record = codec.decode(data)
    except ValueError as error:
        assert str(error)
        return
    assert 0.0 <= record.sentiment <= 1.0
    assert 0 <= record.message_length <= MAX_INT64
    assert (record.producer_id is None) == (record.sequence is None)
    line = codec.encode(record)
    assert b"\n" not in line
    (again,) = codec.decode_lines(line + b"\n")
    assert codec.canonical(codec.columns_of([again])) == codec.canonical(codec.columns_of([record]))
